//! The client: connects, asks, follows the stream, and asks again when it was lost.

mod messages;

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use self::messages::{X509SvidRequest, X509SvidResponse};
use super::{Socket, WorkloadApiError};
use crate::tunnel::tls::CredentialDer;

const METHOD: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// Tells a client of this API from whoever was tricked into connecting (SPIFFE Workload Endpoint §6).
const HEADER: &str = "workload.spiffe.io";

/// As much as the PEM files may have together.
const MAX_MESSAGE: usize = 4 << 20;

/// Connecting and the first answer. SPIRE answers when it has an identity to give, and signs one if
/// need be.
const ANSWER: Duration = Duration::from_secs(10);

/// How soon a lost stream is asked for again, at first and after many attempts in vain.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// How often a server that says nothing is asked whether it is there. gRPC servers in Go turn clients
/// away that ask more often than every five minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(360);

/// A stream of credentials, which is kept up. It has a runtime of its own, and blocks its thread.
pub struct Subscription {
    runtime: Runtime,
    stream: Stream,
}

impl Subscription {
    /// Waits for the first credentials: until `patience` is over it is tried again.
    ///
    /// # Errors
    /// [`WorkloadApiError::OutOfPatience`] with the last reason.
    ///
    /// # Panics
    /// On a thread of an async runtime.
    pub fn open(
        socket: Socket,
        patience: Duration,
    ) -> Result<(Subscription, CredentialDer), WorkloadApiError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(WorkloadApiError::Runtime)?;
        let mut stream = Stream {
            socket,
            responses: None,
            begun: None,
            retry_at: None,
            retry_in: RETRY.0,
        };
        let first = runtime.block_on(stream.first(patience))?;
        Ok((Subscription { runtime, stream }, first))
    }

    /// Waits for new credentials, for as long as `limit`. An error says once that the stream was lost, or that
    /// an attempt to have it again failed; the next call goes on trying.
    ///
    /// # Panics
    /// On a thread of an async runtime.
    pub fn next(&mut self, limit: Duration) -> Option<Result<CredentialDer, WorkloadApiError>> {
        let Subscription { runtime, stream } = self;
        let next = runtime.block_on(async { timeout(limit, stream.next()).await });
        next.ok()
    }
}

struct Stream {
    socket: Socket,
    responses: Option<Streaming<X509SvidResponse>>,
    /// When these began.
    begun: Option<Instant>,
    /// When it may be asked for, after it was lost.
    retry_at: Option<Instant>,
    retry_in: Duration,
}

impl Stream {
    async fn first(&mut self, patience: Duration) -> Result<CredentialDer, WorkloadApiError> {
        let end = Instant::now() + patience;
        let mut last = WorkloadApiError::Silent {
            socket: self.socket.clone(),
            limit: patience,
        };
        loop {
            match tokio::time::timeout_at(end, self.next()).await {
                Ok(Ok(credentials)) => return Ok(credentials),
                Ok(Err(error)) => last = error,
                Err(_) => {
                    return Err(WorkloadApiError::OutOfPatience {
                        patience,
                        last: Box::new(last),
                    });
                }
            }
        }
    }

    /// What comes next. Dropped in the middle, it loses no answer.
    async fn next(&mut self) -> Result<CredentialDer, WorkloadApiError> {
        let answer = match &mut self.responses {
            Some(responses) => responses.message().await,
            None => {
                if let Some(at) = self.retry_at {
                    sleep_until(at).await;
                }
                let begun = timeout(ANSWER, begin(&self.socket)).await;
                match begun.unwrap_or_else(|_| Err(self.silent())) {
                    Ok((responses, first)) => {
                        self.responses = Some(responses);
                        self.begun = Some(Instant::now());
                        Ok(first)
                    }
                    Err(error) => return Err(self.lost(error)),
                }
            }
        };
        let credentials = match answer {
            Ok(Some(response)) => response.into_credentials(&self.socket),
            Ok(None) => Err(WorkloadApiError::Ended(self.socket.clone())),
            Err(status) => Err(refused(&self.socket, &status)),
        };
        credentials.map_err(|error| self.lost(error))
    }

    fn silent(&self) -> WorkloadApiError {
        WorkloadApiError::Silent {
            socket: self.socket.clone(),
            limit: ANSWER,
        }
    }

    /// A stream that has lived for a while is asked for again soon; one that ends after its first
    /// answer, time and again, is not.
    fn lost(&mut self, error: WorkloadApiError) -> WorkloadApiError {
        self.responses = None;
        if self
            .begun
            .take()
            .is_some_and(|begun| begun.elapsed() > RETRY.1)
        {
            self.retry_in = RETRY.0;
        }
        self.retry_at = Some(Instant::now() + self.retry_in);
        self.retry_in = (self.retry_in * 2).min(RETRY.1);
        error
    }
}

type Begun = (Streaming<X509SvidResponse>, Option<X509SvidResponse>);

/// Connects and waits for the first answer.
async fn begin(socket: &Socket) -> Result<Begun, WorkloadApiError> {
    let channel = connect(socket)
        .await
        .map_err(|error| WorkloadApiError::Connect {
            socket: socket.clone(),
            cause: root_of(&error),
        })?;
    let refused = |status: Status| refused(socket, &status);
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    grpc.ready()
        .await
        .map_err(|error| WorkloadApiError::Connect {
            socket: socket.clone(),
            cause: root_of(&error),
        })?;
    let mut request = Request::new(X509SvidRequest {});
    let yes = MetadataValue::from_static("true");
    request.metadata_mut().insert(HEADER, yes);
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let answer = grpc.server_streaming(request, PathAndQuery::from_static(METHOD), codec);
    let mut responses = answer.await.map_err(refused)?.into_inner();
    let first = responses.message().await.map_err(refused)?;
    Ok((responses, first))
}

async fn connect(socket: &Socket) -> Result<Channel, tonic::transport::Error> {
    let path = socket.path().to_owned();
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The name is that of the header `:authority`; nobody looks at it.
    Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .connect_with_connector(connector)
        .await
}

fn refused(socket: &Socket, status: &Status) -> WorkloadApiError {
    let (socket, message) = (socket.clone(), status.message().to_owned());
    match status.code() {
        // SPIFFE Workload API §5.1.
        Code::PermissionDenied => WorkloadApiError::NoIdentity { socket, message },
        code => WorkloadApiError::Failed {
            socket,
            code: format!("{code:?}"),
            message,
        },
    }
}

/// gRPC's own errors say `transport error`, and what it was only in their sources.
fn root_of(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
