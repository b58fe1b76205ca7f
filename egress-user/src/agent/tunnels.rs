//! Tunnels to the gateways: which gateway carries the next stream, warm tunnels to each, and new
//! ones where none is warm.

mod balancer;
mod dial;
mod names;
mod pool;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::addr::GatewayAddr;
use crate::endpoint::Zoned;
use crate::record::{Metrics, TunnelEvent};
use crate::refusal::{Class, Refusal};
use crate::tunnel;
use crate::tunnel::frame::ResetCode;
use crate::tunnel::identity::SpiffeId;
use crate::tunnel::raw::Protocol;
use crate::tunnel::tls::{InUse, Peer};
use balancer::Zone;
use names::{Age, Names};
use pool::{Pool, Warm};

pub(super) use balancer::Tried;
pub use dial::DialError;
pub(super) use pool::AgentTunnel;

/// Gateways that are tried for one connection.
const MAX_TRIES: usize = 8;

/// Tunnels that are made at once without a connection asking for them.
const MAX_DIALS: usize = 32;

/// The gateways and the tunnels to them.
pub struct Tunnels {
    names: Names,
    /// Whether gateways of the agent's zone come before others.
    zoned: bool,
    protocol: Protocol,
    tls: InUse<ClientConfig>,
    metrics: Arc<Metrics>,
    pool: Mutex<Pool>,
    started: Instant,
    reachable: AtomicBool,
}

impl Tunnels {
    /// A pool that dials these gateways, first those of this zone, with this configuration, which
    /// offers the protocol's name, and shows them in the metrics.
    pub fn new(
        gateways: Vec<Zoned>,
        zone: Option<&str>,
        protocol: Protocol,
        tls: InUse<ClientConfig>,
        metrics: Arc<Metrics>,
    ) -> Arc<Tunnels> {
        let tunnels = Arc::new(Tunnels {
            names: Names::new(gateways, zone),
            zoned: zone.is_some(),
            protocol,
            tls,
            metrics: metrics.clone(),
            pool: Mutex::default(),
            started: Instant::now(),
            reachable: AtomicBool::new(false),
        });
        let shown = Arc::downgrade(&tunnels);
        metrics.gateways(move || {
            let shown = shown.upgrade();
            shown.map_or_else(Vec::new, |tunnels| tunnels.census())
        });
        tunnels
    }

    /// A warm tunnel of the gateway that has the least to do of two, or a new one. Gateways that
    /// cannot be reached are added to `tried`.
    pub(super) async fn lease(self: &Arc<Self>, tried: &mut Tried) -> Result<Lease, DialError> {
        let mut last = None;
        let mut looked_up = false;
        while tried.count() < MAX_TRIES {
            let taken = self.lock().take(self.now(), tried);
            let Some((gateway, warm)) = taken else {
                // What names lead to may have changed, or was never looked up.
                if looked_up {
                    break;
                }
                looked_up = true;
                let error = self.look_up(Age::Suspect).await;
                last = last.or(error);
                continue;
            };
            let place = Place {
                gateway,
                tunnels: self.clone(),
            };
            match self.warm_or_dial(gateway, warm).await {
                Ok((warm, reused)) => {
                    return Ok(Lease {
                        warm,
                        reused,
                        place,
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a gateway cannot be used");
                    tried.exclude(gateway);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(DialError::NoGateway))
    }

    /// What is spoken with the gateways.
    pub(super) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// Whether the last word of any gateway was that it takes this agent. A handshake is no such
    /// word: in TLS 1.3 the agent's side of it ends before the gateway has seen the agent's
    /// certificate. Only of a gateway that speaks raw nothing better is known.
    pub fn is_reachable(&self) -> bool {
        self.lock().balancer.is_reachable()
    }

    /// Looks up the names that are due.
    pub(super) async fn follow_names(&self) {
        self.look_up(Age::Usual).await;
    }

    /// One round of upkeep: what has been idle for too long, has died or is too much is closed; and a
    /// tunnel is made to each gateway that has none warm, or is to be probed. The next connection
    /// finds one, and whether a gateway can be reached is known before it comes.
    pub(super) async fn refresh(self: &Arc<Self>) {
        let wanting = {
            let mut pool = self.lock();
            pool.sweep(self.now());
            match self.protocol {
                Protocol::Egress => pool.wanting(self.now()),
                // None is ever warm, and the next connection makes its own.
                Protocol::Raw(_) => pool.balancer.wanting(self.now(), |_| true),
            }
        };
        let mut dials = JoinSet::new();
        for gateway in wanting.into_iter().take(MAX_DIALS) {
            let tunnels = self.clone();
            dials.spawn(async move { tunnels.make_warm(gateway).await });
        }
        dials.join_all().await;
    }

    async fn make_warm(&self, gateway: GatewayAddr) {
        match dial::dial_ready(gateway, &self.protocol, &self.tls).await {
            Ok(warm) => {
                self.metrics.tunnel(TunnelEvent::Opened);
                self.note(None, |pool, now| {
                    pool.balancer.worked(gateway, true);
                    // The raw one was to see whether the gateway is there.
                    if self.protocol == Protocol::Egress {
                        pool.keep(warm, now);
                    }
                });
            }
            Err(error) => self.note_failed(gateway, &error),
        }
    }

    async fn warm_or_dial(
        &self,
        gateway: GatewayAddr,
        warm: Option<Warm>,
    ) -> Result<(Warm, bool), DialError> {
        if let Some(warm) = warm {
            self.metrics.tunnel(TunnelEvent::Reused);
            return Ok((warm, true));
        }
        let dialled = dial::dial(gateway, &self.protocol, &self.tls).await;
        match &dialled {
            Ok(_) => self.metrics.tunnel(TunnelEvent::Opened),
            Err(error) => self.note_failed(gateway, error),
        }
        Ok((dialled?, false))
    }

    /// Looks up the names if they are due; the error is of one that has no address.
    async fn look_up(&self, age: Age) -> Option<DialError> {
        let answer = self.names.look_up(age).await?;
        if let Some(error) = &answer.error {
            tracing::debug!(%error, "a gateway's name cannot be looked up");
        }
        self.metrics.gateway_names_unresolved(answer.unresolved);
        self.note(answer.error.as_ref(), |pool, _| {
            pool.balancer.list(&answer.addresses);
        });
        answer.error
    }

    fn note_failed(&self, gateway: GatewayAddr, error: &DialError) {
        self.metrics.tunnel(TunnelEvent::Failed);
        if !error.is_own() {
            self.note(Some(error), |pool, now| {
                pool.balancer.failed(gateway, now);
            });
        }
    }

    /// Changes what is known of the gateways, and says so when whether any takes this agent has
    /// changed with it.
    fn note(&self, error: Option<&DialError>, change: impl FnOnce(&mut Pool, Duration)) {
        let (before, after) = {
            let mut pool = self.lock();
            change(&mut pool, self.now());
            let reachable = pool.balancer.is_reachable();
            (self.reachable.swap(reachable, Ordering::Relaxed), reachable)
        };
        let reason = error.map(|error| error.refusal().reason);
        match (before, after) {
            (false, true) => tracing::info!("a gateway takes this agent"),
            (true, false) => {
                tracing::warn!(reason = reason.as_deref(), "no gateway takes this agent")
            }
            (true, true) | (false, false) => {}
        }
    }

    /// How many gateways there are of each kind, for the metrics.
    fn census(&self) -> Vec<(&'static str, usize)> {
        let census = self.lock().balancer.census(self.now());
        vec![
            ("live", census.live),
            ("busy", census.busy),
            ("draining", census.draining),
            ("ejected", census.ejected),
        ]
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place at a gateway; counted until it is dropped.
struct Place {
    gateway: GatewayAddr,
    tunnels: Arc<Tunnels>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tunnels.lock().balancer.release(self.gateway);
    }
}

/// A tunnel on loan for one stream; closed when dropped.
pub(super) struct Lease {
    warm: Warm,
    reused: bool,
    place: Place,
}

impl Lease {
    pub(super) fn gateway(&self) -> GatewayAddr {
        self.place.gateway
    }

    pub(super) fn peer(&self) -> &SpiffeId {
        self.warm.peer.id()
    }

    /// The tunnel, and who is at its other end.
    pub(super) fn parts(&mut self) -> (&mut AgentTunnel, &mut Peer<ClientConfig>) {
        (&mut self.warm.tunnel, &mut self.warm.peer)
    }

    pub(super) fn tunnel(&mut self) -> &mut AgentTunnel {
        &mut self.warm.tunnel
    }

    /// The gateway carries the stream.
    pub(super) fn carries(&self) {
        let gateway = self.gateway();
        self.note(|pool, _| pool.balancer.worked(gateway, !self.reused));
        let tunnels = &self.place.tunnels;
        if tunnels.zoned {
            let zone = tunnels.lock().balancer.zone(gateway);
            tunnels.metrics.carried_in_zone(zone == Some(Zone::Own));
        }
    }

    /// The gateway has answered that it does not carry the stream; it is not asked again.
    pub(super) fn turned_down(self, refusal: &Refusal, tried: &mut Tried) {
        let gateway = self.gateway();
        tried.exclude(gateway);
        self.note(|pool, now| match refusal.class {
            Class::Busy if refusal.reason == tunnel::DRAINING => pool.drains(gateway, now),
            Class::Busy => pool.balancer.busy(gateway, now),
            _ if self.warm.tunnel.is_refused() => pool.balancer.failed(gateway, now),
            _ => pool.balancer.worked(gateway, !self.reused),
        });
        self.give_back();
    }

    /// The gateway, which speaks raw, closed before anything came back. It may have meant this one
    /// stream, so that it says nothing of how the gateway stands.
    pub(super) fn was_closed(self, tried: &mut Tried) {
        tried.exclude(self.gateway());
    }

    /// The tunnel was lost, or nothing came out of it in time. What was warm may have died alone;
    /// the gateway is asked once more, but after the others.
    pub(super) fn went_silent(self, tried: &mut Tried) {
        let gateway = self.gateway();
        if self.reused {
            tried.silent(gateway);
        } else {
            tried.exclude(gateway);
        }
        self.note(|pool, now| pool.balancer.failed(gateway, now));
    }

    /// Back into the pool, if the stream ended in good order.
    pub(super) fn give_back(self) {
        let Lease { warm, place, .. } = self;
        let tunnels = place.tunnels.clone();
        let gateway = place.gateway;
        // First the place, then the tunnel: what the stream took is room for it.
        drop(place);
        let mut pool = tunnels.lock();
        let now = tunnels.now();
        if warm.tunnel.may_open() {
            pool.keep(warm, now);
        } else if warm.tunnel.is_draining() {
            pool.drains(gateway, now);
        }
    }

    /// Gives the stream up and closes the tunnel; what is on its way in either
    /// direction belongs to nobody any more.
    pub(super) async fn reset(mut self, code: ResetCode) {
        let told = self.warm.tunnel.send_reset(code);
        // A gateway that cannot be told sees the connection close.
        let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
    }

    fn note(&self, change: impl FnOnce(&mut Pool, Duration)) {
        self.place.tunnels.note(None, change);
    }
}
