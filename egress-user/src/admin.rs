//! The admin port: metrics, liveness and readiness over plain HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::drain::Observer;
use crate::record::Metrics;

/// Scrapers and probes at once; more wait their turn.
const CONNECTIONS: usize = 64;

/// Time to send a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Time for a request and its answer together.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// OpenMetrics' content type, as prometheus-client writes it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Says what keeps the process from being ready; empty when it is. It may block for a while.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The admin address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on the admin address {addr}: {cause}; choose another with `admin` or --admin"
)]
pub struct AdminError {
    addr: SocketAddr,
    cause: io::Error,
}

/// A bound admin port.
pub struct Admin {
    listener: TcpListener,
    addr: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

impl Admin {
    /// Binds the port.
    pub async fn bind(
        addr: SocketAddr,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> Result<Admin, AdminError> {
        let failed = |cause| AdminError { addr, cause };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Admin {
            listener,
            addr,
            metrics,
            readiness,
        })
    }

    /// The address in use.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until the process ends; while it drains it is alive and not ready.
    pub async fn run(self, draining: Observer) {
        let admin = Arc::new(self);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(permit) = permits.clone().acquire_owned().await {
            match admin.listener.accept().await {
                Ok((socket, _)) => {
                    let (admin, draining) = (admin.clone(), draining.clone());
                    tokio::spawn(async move {
                        admin.serve(socket, move || draining.is_draining()).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept on the admin address");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(&self, socket: TcpStream, draining: impl Fn() -> bool) {
        let answer = service_fn(|request: Request<Incoming>| {
            let draining = draining();
            async move { Ok::<_, Infallible>(self.answer(&request, draining).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), answer);
        let served = tokio::time::timeout(REQUEST_LIMIT, served).await;
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin request failed"),
            Err(_) => tracing::debug!("an admin request took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>, draining: bool) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is answered here\n".to_owned(),
            );
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.encode());
                let kind = HeaderValue::from_static(METRICS_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/healthz" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => self.ready(draining).await,
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /metrics, /healthz and /readyz\n".to_owned(),
            ),
        }
    }

    async fn ready(&self, draining: bool) -> Response<Full<Bytes>> {
        let readiness = self.readiness.clone();
        let asked = tokio::task::spawn_blocking(move || readiness()).await;
        let mut missing =
            asked.unwrap_or_else(|_| vec!["what is missing cannot be told".to_owned()]);
        if draining {
            missing.push("draining".to_owned());
        }
        if missing.is_empty() {
            text(StatusCode::OK, "ready\n".to_owned())
        } else {
            let body = format!("not ready: {}\n", missing.join(", "));
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_probes_and_scrapes() {
        let (_drainer, drain) = drain::channel();
        let readiness: Readiness = Arc::new(|| vec!["gateway".to_owned()]);
        let metrics = Arc::new(Metrics::default());
        metrics.unclaimed();
        let local = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::bind(local, metrics, readiness).await.unwrap();
        let addr = admin.addr();
        tokio::spawn(admin.run(drain.observer()));
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = get(addr, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("not ready: gateway\n"), "{ready}");
        assert!(
            get(addr, "/metrics")
                .await
                .contains("egress_unclaimed_total 1")
        );
        assert!(get(addr, "/other").await.starts_with("HTTP/1.1 404"));
    }

    /// It may take a while to find out what is missing; meanwhile the runtime has other work.
    #[tokio::test]
    async fn readiness_holds_nobody_up() {
        let (_drainer, drain) = drain::channel();
        let (found_out, finding_out) = std::sync::mpsc::channel();
        let finding_out = std::sync::Mutex::new(finding_out);
        let readiness: Readiness = Arc::new(move || {
            let found_out = finding_out.lock().unwrap();
            let missing = found_out.recv_timeout(Duration::from_secs(60));
            vec![missing.unwrap_or("asked for too long").to_owned()]
        });
        let local = "127.0.0.1:0".parse().unwrap();
        let admin = Admin::bind(local, Arc::default(), readiness).await.unwrap();
        let addr = admin.addr();
        tokio::spawn(admin.run(drain.observer()));
        let ready = tokio::spawn(async move { get(addr, "/readyz").await });
        tokio::task::yield_now().await;
        assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200"));
        found_out.send("gateway").unwrap();
        let ready = ready.await.unwrap();
        assert!(ready.ends_with("not ready: gateway\n"), "{ready}");
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let readiness: Readiness = Arc::new(Vec::new);
        let Err(error) = Admin::bind(addr, Arc::default(), readiness).await else {
            panic!("bound");
        };
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}
