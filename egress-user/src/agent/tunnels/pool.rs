//! Tunnels that wait for a stream, and what is known of the gateways they lead to.

use std::collections::HashMap;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::balancer::{Balancer, Tried};
use crate::addr::GatewayAddr;
use crate::tunnel::stream::{Idle, Tunnel};
use crate::tunnel::tls::Peer;

/// How long a warm tunnel may wait; shorter than the gateway's own limit, so
/// that the agent is the one that closes.
const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// A tunnel as the agent holds it.
pub(in crate::agent) type AgentTunnel = Tunnel<TlsStream<TcpStream>>;

/// A tunnel that waits for a stream.
pub(super) struct Warm {
    pub(super) tunnel: AgentTunnel,
    pub(super) gateway: GatewayAddr,
    pub(super) peer: Peer<ClientConfig>,
    pub(super) since: Instant,
}

impl Warm {
    /// What it is good for: with certificates that have ended or are out of use, nothing.
    fn look(&mut self) -> Idle {
        match self.tunnel.look() {
            Idle::Usable if !self.peer.is_current() => Idle::Gone,
            other => other,
        }
    }
}

/// The pool behind its lock.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) balancer: Balancer,
    idle: HashMap<GatewayAddr, Vec<Warm>>,
}

impl Pool {
    /// Takes a place at the gateway that is to be asked next, and the tunnel that waited longest
    /// the least. `None` for the gateway: there is none to ask.
    pub(super) fn take(
        &mut self,
        now: Duration,
        tried: &Tried,
    ) -> Option<(GatewayAddr, Option<Warm>)> {
        loop {
            let idle = &self.idle;
            let is_warm = |addr| idle.contains_key(&addr);
            let below = |limit| fastrand::usize(..limit);
            let gateway = self.balancer.choose(now, tried, is_warm, below)?;
            let wants_warm = !tried.was_silent(gateway);
            match self.warm(gateway).filter(|_| wants_warm) {
                Some(Ok(warm)) => {
                    self.balancer.lend(gateway, now);
                    return Some((gateway, Some(warm)));
                }
                Some(Err(Draining)) => self.drains(gateway, now),
                None => {
                    self.balancer.lend(gateway, now);
                    return Some((gateway, None));
                }
            }
        }
    }

    /// The warmest tunnel of a gateway that can carry another stream.
    fn warm(&mut self, gateway: GatewayAddr) -> Option<Result<Warm, Draining>> {
        let idle = self.idle.get_mut(&gateway)?;
        let mut found = None;
        while let Some(mut warm) = idle.pop() {
            match warm.look() {
                Idle::Usable => found = Some(Ok(warm)),
                Idle::Draining => found = Some(Err(Draining)),
                Idle::Gone => continue,
            }
            break;
        }
        if idle.is_empty() {
            self.idle.remove(&gateway);
        }
        found
    }

    /// Keeps a tunnel that can carry another stream, if there is room.
    pub(super) fn keep(&mut self, mut warm: Warm, now: Duration) {
        let gateway = warm.gateway;
        let own = self.idle.get(&gateway).map_or(0, Vec::len);
        let others = self.count() - own;
        if own < self.balancer.room(gateway, others, now) {
            warm.since = Instant::now();
            self.idle.entry(gateway).or_default().push(warm);
        }
    }

    /// The gateway asked for no more streams.
    pub(super) fn drains(&mut self, gateway: GatewayAddr, now: Duration) {
        self.idle.remove(&gateway);
        self.balancer.drains(gateway, now);
    }

    /// Closes what has been idle for too long, has died, or is more than what is needed, and notes
    /// which gateways drain.
    pub(super) fn sweep(&mut self, now: Duration) {
        let mut draining = Vec::new();
        let mut total = self.count();
        for (gateway, idle) in &mut self.idle {
            let before = idle.len();
            let room = self.balancer.room(*gateway, total - before, now);
            // The coldest are at the front.
            idle.drain(..before.saturating_sub(room));
            idle.retain_mut(|warm| match warm.look() {
                Idle::Usable => warm.since.elapsed() < IDLE_LIMIT,
                Idle::Gone => false,
                Idle::Draining => {
                    draining.push(*gateway);
                    false
                }
            });
            total -= before - idle.len();
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        for gateway in draining {
            self.drains(gateway, now);
        }
    }

    /// The gateways to which a tunnel is to be made now.
    pub(super) fn wanting(&self, now: Duration) -> Vec<GatewayAddr> {
        self.balancer
            .wanting(now, |addr| self.idle.contains_key(&addr))
    }

    fn count(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }
}

/// A gateway asked for no more streams.
struct Draining;
