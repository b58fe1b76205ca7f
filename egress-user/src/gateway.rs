//! The gateway: authenticates agents, judges again, resolves and dials.

pub mod agents;
mod connection;
mod dial;
mod door;
pub mod forbidden;
mod raw;
pub mod resolve;
mod stream;
pub mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::addr::AgentAddr;
use crate::descriptors;
use crate::dns::ClientError;
use crate::drain::Drain;
use crate::farewell;
use crate::in_force::InForce;
use crate::record::{Recorder, TunnelEvent};
use crate::tunnel::raw::RawAccess;
use crate::tunnel::tls::InUse;
use agents::{AgentRule, Agents, Quotas};
use dial::Route;
use door::Door;
use resolve::{ResolveOptions, Resolver};
use upstream::Upstream;

/// Limits of the gateway, each with its reason.
#[derive(Clone, Debug)]
pub struct Limits {
    /// TCP and TLS handshake of an agent; a healthy one takes two round trips.
    pub handshake: Duration,
    /// OPEN to a whole ClientHello: both leave the agent together.
    pub hello: Duration,
    /// Name resolution and connect together, as long as a browser would wait.
    pub dial: Duration,
    /// A tunnel without a stream; agents close theirs earlier.
    pub tunnel_idle: Duration,
    /// A stream in which nothing moves.
    pub idle: Duration,
    /// Tunnels at once; each is one descriptor, and one more while it carries. Half of them may be in
    /// their handshakes.
    pub tunnels: usize,
}

impl Limits {
    /// The usual limits, as far as this process may open files.
    pub fn within_descriptors() -> Limits {
        let usual = Limits::default();
        Limits {
            tunnels: usual.tunnels.min(descriptors::room_for(2)),
            ..usual
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(10),
            hello: Duration::from_secs(5),
            dial: Duration::from_secs(10),
            tunnel_idle: Duration::from_secs(300),
            idle: Duration::from_secs(3600),
            tunnels: 16 * 1024,
        }
    }
}

/// What a gateway is made of.
pub struct GatewayParts {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// TLS with client authentication.
    pub tls: InUse<ServerConfig>,
    /// How those are taken who speak raw, if they are.
    pub raw: Option<RawAccess>,
    /// Agents that may open tunnels, and for whom.
    pub agents: Vec<AgentRule>,
    /// How much each agent and each workload may take.
    pub quotas: Quotas,
    /// The policy in force; swapped on reload.
    pub policy: InForce,
    /// Name resolution.
    pub resolve: ResolveOptions,
    /// The proxy by which origins are reached, if not directly.
    pub upstream: Option<Upstream>,
    /// Where records go.
    pub recorder: Recorder,
    /// Limits.
    pub limits: Limits,
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or needs a privilege.
    #[error("cannot listen on {addr}: {cause}; choose another address with `listen` or --listen")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the kernel said, in the middle of the sentence.
        cause: io::Error,
    },
    /// Name resolution cannot be set up.
    #[error(transparent)]
    Resolver(#[from] ClientError),
}

struct Shared {
    tls: InUse<ServerConfig>,
    raw: Option<RawAccess>,
    agents: Arc<Agents>,
    policy: InForce,
    resolver: Resolver,
    route: Route,
    recorder: Recorder,
    limits: Limits,
    port: u16,
}

/// A gateway that is bound and not yet serving.
pub struct Gateway {
    listener: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Gateway {
    /// Binds everything, so that what is wrong is wrong at the start.
    pub async fn bind(parts: GatewayParts) -> Result<Gateway, BindError> {
        let failed = |cause| BindError::Listen {
            addr: parts.listen,
            cause,
        };
        let listener = TcpListener::bind(parts.listen).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Shared {
            tls: parts.tls,
            raw: parts.raw,
            agents: Agents::new(parts.agents, parts.quotas.within(parts.limits.tunnels)),
            policy: parts.policy,
            resolver: Resolver::new(parts.resolve)?,
            route: parts.upstream.map(Arc::new),
            recorder: parts.recorder,
            limits: parts.limits,
            port: addr.port(),
        };
        Ok(Gateway {
            listener,
            addr,
            shared: Arc::new(shared),
        })
    }

    /// The address that agents connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the drain begins. Tunnels under way hold their own `drain`.
    pub async fn run(self, mut drain: Drain) {
        let permits = Arc::new(Semaphore::new(self.shared.limits.tunnels));
        let door = Door::new(self.shared.limits.tunnels.div_ceil(2));
        loop {
            let accepted = tokio::select! {
                // Once the end has begun nobody is taken, however many wait.
                biased;
                () = drain.draining() => return,
                accepted = accept(&self.listener, &permits) => accepted,
            };
            let Some((socket, agent, permit)) = accepted else {
                continue;
            };
            let Some(at_door) = door.enter(agent) else {
                // Unheard and without a record: there may be any number of them.
                self.shared.recorder.metrics().tunnel(TunnelEvent::Crowded);
                farewell::reset(socket);
                continue;
            };
            let shared = self.shared.clone();
            let drain = drain.clone();
            tokio::spawn(async move {
                connection::serve(shared, socket, (agent, at_door), drain).await;
                drop(permit);
            });
        }
    }
}

/// Takes a permit first, so that a full gateway leaves connections in the
/// kernel's queue. One peer's error never ends the loop.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, AgentAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, addr)) => Some((socket, AgentAddr::new(addr), permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept an agent");
            // Out of descriptors is over once others have ended; spinning helps nobody.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
