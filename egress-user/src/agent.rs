//! The node agent: takes captured sockets, judges them, carries them to a gateway.

pub mod capture;
mod connection;
pub mod directory;
pub mod discovery;
pub mod evidence;
mod existing;
mod gate;
pub mod handover;
pub mod listener;
mod places;
pub mod scopes;
pub mod tunnels;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::addr::ClientAddr;
use crate::drain::Drain;
use crate::in_force::InForce;
use crate::intake::Allowance;
use crate::netns::{Listeners, NetnsCookie};
use crate::record::Recorder;
use capture::{Claim, Flows};
use connection::Accepted;
use directory::Directory;
use gate::Gate;
use listener::{BoundScope, Listener};
use places::{Place, Places, Room};
use tunnels::Tunnels;

/// How often warm tunnels that are stale or dead are looked for, and gateways that are to be
/// probed: no longer than their shortest ejection.
const SWEEP: Duration = Duration::from_secs(1);

/// Limits of the agent, each with its reason.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accept to a whole ClientHello; a client sends it right after it connected.
    pub hello: Duration,
    /// OPEN to one gateway's answer: its own limit for resolving and dialling, and a little
    /// more, so that its reason arrives first.
    pub answer: Duration,
    /// Verdict to an answer, however many gateways are asked.
    pub open: Duration,
    /// A connection in which nothing moves.
    pub idle: Duration,
    /// Connections at once; each is two descriptors while it is carried.
    pub connections: usize,
    /// Connections at once of one scope, so that it does not take the place of all.
    pub of_scope: usize,
    /// Connections at once of one workload in a scope that have sent no ClientHello yet, once half
    /// of the places are taken.
    pub unheard_of_workload: usize,
    /// Whether scopes leave room for others, and workloads for others in their scope.
    pub shared: bool,
}

impl Limits {
    /// The usual limits where there is room for so many connections: a scope may have half of them
    /// at the most.
    pub fn within(room: usize) -> Limits {
        let whole = Limits::of_one_workload(room);
        let of_scope = whole.connections.div_ceil(2);
        Limits {
            of_scope,
            unheard_of_workload: of_scope.div_ceil(8),
            shared: true,
            ..whole
        }
    }

    /// The usual limits where there is room for so many connections, and nobody to leave any to.
    pub fn of_one_workload(room: usize) -> Limits {
        let usual = Limits::default();
        let connections = usual.connections.min(room);
        Limits {
            connections,
            of_scope: connections,
            unheard_of_workload: connections,
            shared: false,
            ..usual
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hello: Duration::from_secs(10),
            answer: Duration::from_secs(12),
            open: Duration::from_secs(20),
            idle: Duration::from_secs(3600),
            connections: 16 * 1024,
            of_scope: 16 * 1024,
            unheard_of_workload: 16 * 1024,
            shared: false,
        }
    }
}

/// What an agent is made of.
pub struct AgentParts {
    /// What the kernel noted about each redirected connection.
    pub flows: Flows,
    /// The way to the gateways.
    pub tunnels: Arc<Tunnels>,
    /// The policy in force; swapped on reload.
    pub policy: InForce,
    /// Where records go.
    pub recorder: Recorder,
    /// Who a process is.
    pub directory: Directory,
    /// Limits.
    pub limits: Limits,
}

struct Shared {
    flows: Flows,
    tunnels: Arc<Tunnels>,
    policy: InForce,
    recorder: Recorder,
    directory: Directory,
    limits: Limits,
}

/// An agent that serves scopes as they come and go. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
    room: Arc<Room>,
    /// What large hellos may take.
    hellos: Arc<Allowance>,
    gate: Arc<Gate>,
    /// What is listened on, for a successor.
    listeners: Arc<Mutex<HashMap<NetnsCookie, Listeners>>>,
    drain: Drain,
}

/// The accept loops of one scope; they end when this is dropped. Connections that
/// were accepted go on.
pub struct Serving {
    _stop: watch::Sender<()>,
    cookie: NetnsCookie,
    listeners: Arc<Mutex<HashMap<NetnsCookie, Listeners>>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.remove(&self.cookie);
    }
}

impl Agent {
    /// An agent that serves nothing yet. It takes part in the drain until the last
    /// clone is dropped.
    pub fn new(parts: AgentParts, drain: Drain) -> Agent {
        Agent {
            room: Room::new(&parts.limits),
            hellos: Allowance::of_process(),
            shared: Arc::new(Shared {
                flows: parts.flows,
                tunnels: parts.tunnels,
                policy: parts.policy,
                recorder: parts.recorder,
                directory: parts.directory,
                limits: parts.limits,
            }),
            gate: Arc::default(),
            listeners: Arc::default(),
            drain,
        }
    }

    /// Serves the listeners of a scope. Must be called on the async runtime.
    pub fn serve(&self, scope: BoundScope) -> io::Result<Serving> {
        let (stop, stopped) = watch::channel(());
        let cookie = scope.cookie();
        self.offered().insert(cookie, scope.copies()?);
        let places = Places::of_scope(&self.room, &self.hellos);
        for listener in scope.into_listeners()? {
            let (agent, stopped) = (self.clone(), stopped.clone());
            tokio::spawn(agent.accept_all(listener, places.clone(), stopped));
        }
        Ok(Serving {
            _stop: stop,
            cookie,
            listeners: self.listeners.clone(),
        })
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// What a successor is given. It does not take part in the drain.
    pub fn listening(&self) -> Listening {
        Listening {
            flows: self.shared.flows.clone(),
            gate: self.gate.clone(),
            listeners: self.listeners.clone(),
        }
    }

    fn offered(&self) -> std::sync::MutexGuard<'_, HashMap<NetnsCookie, Listeners>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a tunnel warm until the drain begins.
    pub async fn keep_warm(mut self) {
        let tunnels = &self.shared.tunnels;
        // Apart, since name servers may be slow; but whom to keep warm must be known.
        let refresh = async {
            tunnels.follow_names().await;
            loop {
                tunnels.refresh().await;
                tokio::time::sleep(SWEEP).await;
            }
        };
        let follow = async {
            loop {
                tunnels.follow_names().await;
                tokio::time::sleep(SWEEP).await;
            }
        };
        tokio::select! {
            () = refresh => {}
            () = follow => {}
            () = self.drain.draining() => {}
        }
    }

    /// The accept loop of one listener. One connection's error never ends it. When
    /// it ends the listener closes, and the kernel refuses what is redirected here.
    async fn accept_all(
        mut self,
        listener: Listener,
        places: Places,
        mut stopped: watch::Receiver<()>,
    ) {
        let gate = self.gate.clone();
        let mut passage = gate.passage();
        loop {
            let accepted = tokio::select! {
                // Once the end has begun nobody is taken, however many wait.
                biased;
                () = self.drain.draining() => return,
                _ = stopped.changed() => return,
                () = passage.changed() => continue,
                accepted = accept(&listener, &places), if passage.is_open() => accepted,
            };
            match accepted {
                Ok((socket, client)) => tokio::select! {
                    // Who has been accepted is served where there is a place.
                    biased;
                    place = places.take() => self.claim(&listener, socket, client, place),
                    _ = stopped.changed() => return,
                    () = self.drain.draining() => return,
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a captured connection");
                    // Out of descriptors is over once others have ended; spinning helps nobody.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Serves the connection if it was redirected here, and resets it otherwise.
    fn claim(&self, listener: &Listener, socket: TcpStream, client: ClientAddr, place: Place) {
        let shared = self.shared.clone();
        let flow = match shared.flows.claim(listener.cookie(), client, &socket) {
            Claim::Redirected(flow) => flow,
            Claim::Dead => return connection::left_behind(&shared, client),
            Claim::Unknown => {
                tracing::debug!(%client, "closed a connection that was not redirected here");
                shared.recorder.metrics().unclaimed();
                return crate::farewell::reset(socket);
            }
        };
        let accepted = Accepted {
            socket,
            client,
            flow,
            place,
        };
        let drain = self.drain.clone();
        tokio::spawn(connection::serve(shared, accepted, drain));
    }
}

/// The listeners of an agent and what is known of those who connect.
pub struct Listening {
    flows: Flows,
    gate: Arc<Gate>,
    listeners: Arc<Mutex<HashMap<NetnsCookie, Listeners>>>,
}

impl Listening {
    /// Accepts nothing until told to [go on](Self::go_on): what connects waits in the listeners'
    /// queues. Blocks until no loop is in the middle of accepting; not to be called on a worker.
    fn hold(&self) -> io::Result<()> {
        self.gate.close()
    }

    /// Accepts again.
    fn go_on(&self) {
        self.gate.open();
    }

    fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Copies of what is listened on; they lead to the same queues.
    fn listeners(&self) -> io::Result<Vec<(NetnsCookie, Listeners)>> {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let copies = listeners.iter();
        copies
            .map(|(cookie, listeners)| Ok((*cookie, listeners.copies()?)))
            .collect()
    }
}

/// Waits for a place first, so that a full agent leaves connections in the kernel's queue.
async fn accept(listener: &Listener, places: &Places) -> io::Result<(TcpStream, ClientAddr)> {
    places.wait().await;
    listener.accept().await
}
