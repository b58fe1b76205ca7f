//! The node agent: takes captured sockets, judges them, carries them to a gateway.

pub mod capture;
mod connection;
pub mod listener;
pub mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::addr::ClientAddr;
use crate::cgroup::Cgroup2;
use crate::drain::Drain;
use crate::policy::Policy;
use crate::record::Recorder;
use capture::Flows;
use connection::Accepted;
use listener::{BoundScope, Listener};
use tunnels::Tunnels;

/// How often warm tunnels that are stale or dead are looked for; also how old the
/// word on whether a gateway can be reached may be.
const SWEEP: Duration = Duration::from_secs(15);

/// Limits of the agent, each with its reason.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accept to a whole ClientHello; a client sends it right after it connected.
    pub hello: Duration,
    /// OPEN to the gateway's answer: its own limits for resolving and dialling,
    /// and a little more, so that its reason arrives first.
    pub open: Duration,
    /// A connection in which nothing moves.
    pub idle: Duration,
    /// Connections at once; each is two descriptors while it is carried.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hello: Duration::from_secs(10),
            open: Duration::from_secs(20),
            idle: Duration::from_secs(3600),
            connections: 16 * 1024,
        }
    }
}

/// What an agent is made of.
pub struct AgentParts {
    /// One per captured network namespace.
    pub scopes: Vec<BoundScope>,
    /// What the kernel noted about each redirected connection.
    pub flows: Flows,
    /// The way to the gateways.
    pub tunnels: Arc<Tunnels>,
    /// The policy in force; swapped on reload.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Where records go.
    pub recorder: Recorder,
    /// Names for cgroup ids.
    pub cgroups: Cgroup2,
    /// Limits.
    pub limits: Limits,
}

struct Shared {
    flows: Flows,
    tunnels: Arc<Tunnels>,
    policy: Arc<ArcSwap<Policy>>,
    recorder: Recorder,
    cgroups: Cgroup2,
    limits: Limits,
}

/// An agent whose listeners are ready to serve.
pub struct Agent {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
}

impl Agent {
    /// Takes over the listeners. Must be called on the async runtime.
    pub fn new(parts: AgentParts) -> std::io::Result<Agent> {
        let listeners = parts.scopes.into_iter().map(BoundScope::into_listeners);
        let listeners: std::io::Result<Vec<_>> = listeners.collect();
        Ok(Agent {
            listeners: listeners?.into_iter().flatten().collect(),
            shared: Arc::new(Shared {
                flows: parts.flows,
                tunnels: parts.tunnels,
                policy: parts.policy,
                recorder: parts.recorder,
                cgroups: parts.cgroups,
                limits: parts.limits,
            }),
        })
    }

    /// Serves until the drain begins. Connections under way hold their own `drain`.
    pub async fn run(self, mut drain: Drain) {
        let permits = Arc::new(Semaphore::new(self.shared.limits.connections));
        for listener in self.listeners {
            let (shared, permits) = (self.shared.clone(), permits.clone());
            tokio::spawn(serve(shared, listener, permits, drain.clone()));
        }
        let tunnels = &self.shared.tunnels;
        let refresh = async {
            loop {
                tunnels.refresh().await;
                tokio::time::sleep(SWEEP).await;
            }
        };
        tokio::select! {
            () = refresh => {}
            () = drain.draining() => {}
        }
    }
}

/// Takes a permit first, so that a full agent leaves connections in the kernel's queue.
async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, ClientAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await;
    let permit = permit.map_err(std::io::Error::other)?;
    let (socket, client) = listener.accept().await?;
    Ok((socket, client, permit))
}

/// The accept loop of one listener. One connection's error never ends it. When it
/// ends the listener closes, and the kernel refuses what is redirected here.
async fn serve(shared: Arc<Shared>, listener: Listener, permits: Arc<Semaphore>, mut drain: Drain) {
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = drain.draining() => return,
        };
        let (socket, client, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a captured connection");
                // Out of descriptors is over once others have ended; spinning helps nobody.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(flow) = shared.flows.take(listener.cookie(), client) else {
            tracing::debug!(%client, "closed a connection that was not redirected here");
            shared.recorder.metrics().unclaimed();
            crate::farewell::reset(socket);
            continue;
        };
        let accepted = Accepted {
            socket,
            client,
            flow,
        };
        let (shared, drain) = (shared.clone(), drain.clone());
        tokio::spawn(async move {
            connection::serve(shared, accepted, drain).await;
            drop(permit);
        });
    }
}
