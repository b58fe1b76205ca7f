//! A SPIFFE Workload API over the real gRPC, which gives what a test tells it to give.

use std::fs;
use std::future::{Ready, ready};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use anyhow::Context as _;
use prost::Message;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tonic::codegen::tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

const METHOD: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// A running server. Dropped, it is away: its connections end, and its socket is gone.
#[derive(Debug)]
pub struct WorkloadApi {
    runtime: Option<Runtime>,
    answer: watch::Sender<Answer>,
    asked: Arc<AtomicUsize>,
    socket: PathBuf,
}

/// What it says to everybody who asks.
pub type Answer = Result<X509SvidResponse, Status>;

/// `X509SVIDResponse` of the standard.
#[derive(Clone, PartialEq, Message)]
pub struct X509SvidResponse {
    /// Identities; the first is the default.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
}

/// `X509SVID` of the standard.
#[derive(Clone, PartialEq, Message)]
pub struct X509Svid {
    /// The SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The certificate and intermediate ones, DER, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// The private key, PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The certificates of the trust domain, DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct X509SvidRequest {}

impl WorkloadApi {
    /// Serves on a socket that does not exist yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn serve(socket: &Path, answer: Answer) -> anyhow::Result<WorkloadApi> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (answer, answers) = watch::channel(answer);
        let asked = Arc::new(AtomicUsize::new(0));
        let _runtime = runtime.enter();
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let server = Server {
            answers,
            asked: asked.clone(),
        };
        runtime.spawn(
            tonic::transport::Server::builder()
                .serve_with_incoming(server, UnixListenerStream::new(listener)),
        );
        drop(_runtime);
        Ok(WorkloadApi {
            runtime: Some(runtime),
            answer,
            asked,
            socket: socket.to_owned(),
        })
    }

    /// Says something else from now on, also to those who have asked before.
    pub fn give(&self, answer: Answer) {
        let _earlier = self.answer.send_replace(answer);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

#[derive(Clone)]
struct Server {
    answers: watch::Receiver<Answer>,
    asked: Arc<AtomicUsize>,
}

impl Service<http::Request<tonic::body::Body>> for Server {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<X509SvidResponse, X509SvidRequest>::default());
            Ok(grpc.server_streaming(server, request).await)
        })
    }
}

impl ServerStreamingService<X509SvidRequest> for Server {
    type Response = X509SvidResponse;
    type ResponseStream = ReceiverStream<Answer>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    /// A request without the header of the standard (SPIFFE Workload Endpoint §6) is refused.
    fn call(&mut self, request: Request<X509SvidRequest>) -> Self::Future {
        let header = request.metadata().get("workload.spiffe.io");
        if header.is_none_or(|header| header != "true") {
            return ready(Err(Status::invalid_argument("security header missing")));
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let answer = answers.borrow_and_update().clone();
                let is_last = answer.is_err();
                if sender.send(answer).await.is_err() || is_last {
                    return;
                }
                if answers.changed().await.is_err() {
                    return;
                }
            }
        });
        ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}
