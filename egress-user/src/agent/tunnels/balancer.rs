//! Which gateway carries the next stream: a list of gateways with what is known of each. Pure; the
//! time is the caller's, as the time since any fixed moment, and so is chance.
//!
//! Of two gateways taken by chance the one with fewer streams is chosen ("power of two choices").
//! Those of the agent's own zone come before others that are no better.
//!
//! One that fails several times in a row is ejected, and one that drains is left alone; both are
//! tried again after a while, by a probe and not by a connection. When nothing better is left,
//! connections try them all the same: to be refused without having asked would help nobody.

use std::time::Duration;

use crate::addr::GatewayAddr;

mod demand;

use demand::Demand;

/// Failures in a row after which a gateway is ejected: one may be a lost packet, two bad luck.
const FAILURES: u32 = 3;

/// How long the first ejection lasts; each one after it, without success between, twice as long.
const FIRST_EJECTION: Duration = Duration::from_secs(1);

/// The longest ejection: a gateway that comes back is used again within this time.
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// How long a gateway that drains is left alone before it is probed: it refuses connections
/// meanwhile, and a restart takes a few seconds.
const DRAIN_PAUSE: Duration = Duration::from_secs(5);

/// How long a gateway that is busy gets no further stream while there are others.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The most warm tunnels of all gateways, beyond one for each. One costs the gateway 22 kB.
const MAX_WARM: usize = 64;

/// The gateways and what is known of each.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    members: Vec<Member>,
}

/// Where a gateway is, seen from the agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Zone {
    /// In the agent's zone, or in whichever where the agent has none.
    Own,
    /// In another one, or nobody said where.
    Other,
}

#[derive(Debug)]
struct Member {
    addr: GatewayAddr,
    zone: Zone,
    /// Whether it is still in the configuration, or its name still leads to it. One that is not
    /// stays until its last stream has ended.
    listed: bool,
    standing: Standing,
    /// Streams that it carries, or is being asked to.
    live: usize,
    failures: u32,
    ejections: u32,
    /// Whether its last word was that it takes this agent.
    takes: bool,
    demand: Demand,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Good,
    /// Not before this time as long as there are others.
    Busy(Duration),
    /// Not before this time, and then by a probe.
    Draining(Duration),
    /// As above.
    Ejected(Duration),
}

/// The gateways that one connection has tried.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Tried {
    /// None of these again.
    gateways: Vec<GatewayAddr>,
    /// A warm tunnel of these was silent or lost. They may be there all the same, but the others
    /// are asked first, and these by a new tunnel.
    silent: Vec<GatewayAddr>,
}

impl Tried {
    /// This one is not asked again.
    pub(super) fn exclude(&mut self, gateway: GatewayAddr) {
        self.gateways.push(gateway);
    }

    /// A warm tunnel of this one was silent or lost.
    pub(super) fn silent(&mut self, gateway: GatewayAddr) {
        self.silent.push(gateway);
    }

    /// How many are not asked again.
    pub(super) fn count(&self) -> usize {
        self.gateways.len()
    }

    /// Whether it wants a tunnel of its own rather than a warm one.
    pub(super) fn was_silent(&self, gateway: GatewayAddr) -> bool {
        self.silent.contains(&gateway)
    }
}

/// How many gateways there are, by how they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Census {
    pub(super) live: usize,
    pub(super) busy: usize,
    pub(super) draining: usize,
    pub(super) ejected: usize,
}

impl Balancer {
    /// These are the gateways from now on. What is known of those that stay is kept.
    pub(super) fn list(&mut self, gateways: &[(GatewayAddr, Zone)]) {
        for member in &mut self.members {
            member.listed = false;
        }
        for &(addr, zone) in gateways {
            match self.member(addr) {
                Some(member) => (member.listed, member.zone) = (true, zone),
                None => self.members.push(Member::new(addr, zone)),
            }
        }
        self.forget();
    }

    /// Where a gateway is.
    pub(super) fn zone(&self, gateway: GatewayAddr) -> Option<Zone> {
        let member = self.members.iter().find(|member| member.addr == gateway)?;
        Some(member.zone)
    }

    /// The gateway to ask next, of those that this connection may still ask. `is_warm` says whether
    /// a tunnel waits, `below` gives a number below its argument by chance.
    pub(super) fn choose(
        &self,
        now: Duration,
        tried: &Tried,
        is_warm: impl Fn(GatewayAddr) -> bool,
        mut below: impl FnMut(usize) -> usize,
    ) -> Option<GatewayAddr> {
        let rank = |member: &Member| {
            let silent = tried.was_silent(member.addr);
            (member.distance(now), silent, member.zone)
        };
        let untried = || {
            let listed = self.members.iter().filter(|member| member.listed);
            listed.filter(|member| !tried.gateways.contains(&member.addr))
        };
        let best = untried().map(rank).min()?;
        let best: Vec<&Member> = untried().filter(|member| rank(member) == best).collect();
        let load = |member: &&&Member| (member.live, !is_warm(member.addr));
        let first = below(best.len());
        // Another one than the first: the rest, counted from the one after it.
        let step = 1 + below(best.len().saturating_sub(1).max(1));
        let second = (first + step) % best.len().max(1);
        let pair = [best.get(first), best.get(second)];
        let chosen = pair.into_iter().flatten().min_by_key(load)?;
        Some(chosen.addr)
    }

    /// A stream is on its way to this gateway.
    pub(super) fn lend(&mut self, gateway: GatewayAddr, now: Duration) {
        if let Some(member) = self.member(gateway) {
            member.live += 1;
            member.demand.note(member.live, now);
        }
    }

    /// A stream is over.
    pub(super) fn release(&mut self, gateway: GatewayAddr) {
        if let Some(member) = self.member(gateway) {
            member.live = member.live.saturating_sub(1);
        }
        self.forget();
    }

    /// The gateway said that it takes this agent; `anew`: on a connection that was just made, which
    /// one that drains would not have taken.
    pub(super) fn worked(&mut self, gateway: GatewayAddr, anew: bool) {
        let Some(member) = self.member(gateway) else {
            return;
        };
        member.takes = true;
        member.failures = 0;
        if anew || !matches!(member.standing, Standing::Draining(_)) {
            member.ejections = 0;
            member.standing = Standing::Good;
        }
    }

    /// The gateway could not be reached, was silent, or did not take this agent.
    pub(super) fn failed(&mut self, gateway: GatewayAddr, now: Duration) {
        let Some(member) = self.member(gateway) else {
            return;
        };
        member.takes = false;
        member.failures = member.failures.saturating_add(1);
        let is_over = match member.standing {
            Standing::Good | Standing::Busy(_) => member.failures >= FAILURES,
            // While it is out only the probe that was due counts: connections that try it because
            // there is no other would put the probe off further and further.
            Standing::Draining(until) | Standing::Ejected(until) => now >= until,
        };
        if is_over {
            let factor = 1u32.checked_shl(member.ejections).unwrap_or(u32::MAX);
            let lasts = FIRST_EJECTION.saturating_mul(factor).min(LONGEST_EJECTION);
            member.ejections = member.ejections.saturating_add(1);
            member.standing = Standing::Ejected(now + lasts);
        }
    }

    /// The gateway asked for no more streams.
    pub(super) fn drains(&mut self, gateway: GatewayAddr, now: Duration) {
        if let Some(member) = self.member(gateway)
            && !matches!(
                member.standing,
                Standing::Draining(_) | Standing::Ejected(_)
            )
        {
            member.standing = Standing::Draining(now + DRAIN_PAUSE);
        }
    }

    /// The gateway is there, but has no room.
    pub(super) fn busy(&mut self, gateway: GatewayAddr, now: Duration) {
        if let Some(member) = self.member(gateway)
            && matches!(member.standing, Standing::Good | Standing::Busy(_))
        {
            member.takes = true;
            member.failures = 0;
            member.standing = Standing::Busy(now + BUSY_PAUSE);
        }
    }

    /// How many warm tunnels of this gateway may wait, when `others` wait at the other gateways: one,
    /// and as many more as it lately carried streams beyond those of now.
    pub(super) fn room(&self, gateway: GatewayAddr, others: usize, now: Duration) -> usize {
        let member = self.members.iter().find(|member| member.addr == gateway);
        let Some(member) = member.filter(|member| member.listed) else {
            return 0;
        };
        let wanted = member.demand.peak(now).saturating_sub(member.live);
        wanted.min(MAX_WARM.saturating_sub(others)).max(1)
    }

    /// The gateways to which a tunnel is to be made without a connection asking for it: to have one
    /// warm, or to see whether they are there again.
    pub(super) fn wanting(
        &self,
        now: Duration,
        is_warm: impl Fn(GatewayAddr) -> bool,
    ) -> Vec<GatewayAddr> {
        let wants = |member: &&Member| match member.standing {
            Standing::Good => !member.takes || !is_warm(member.addr),
            Standing::Busy(_) => false,
            Standing::Draining(until) | Standing::Ejected(until) => now >= until,
        };
        let listed = self.members.iter().filter(|member| member.listed);
        listed.filter(wants).map(|member| member.addr).collect()
    }

    /// Whether the last word of any gateway was that it takes this agent.
    pub(super) fn is_reachable(&self) -> bool {
        let mut listed = self.members.iter().filter(|member| member.listed);
        listed.any(|member| member.takes)
    }

    /// How the gateways stand.
    pub(super) fn census(&self, now: Duration) -> Census {
        let mut census = Census::default();
        for member in self.members.iter().filter(|member| member.listed) {
            match member.standing {
                Standing::Busy(until) if now < until => census.busy += 1,
                Standing::Good | Standing::Busy(_) => census.live += 1,
                Standing::Draining(_) => census.draining += 1,
                Standing::Ejected(_) => census.ejected += 1,
            }
        }
        census
    }

    fn member(&mut self, gateway: GatewayAddr) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.addr == gateway)
    }

    fn forget(&mut self) {
        self.members
            .retain(|member| member.listed || member.live > 0);
    }
}

/// How far from being chosen: a connection asks nearer ones first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Distance {
    Near,
    Busy,
    Out,
}

impl Member {
    fn new(addr: GatewayAddr, zone: Zone) -> Member {
        Member {
            addr,
            zone,
            listed: true,
            standing: Standing::Good,
            live: 0,
            failures: 0,
            ejections: 0,
            takes: false,
            demand: Demand::default(),
        }
    }

    fn distance(&self, now: Duration) -> Distance {
        match self.standing {
            Standing::Busy(until) if now < until => Distance::Busy,
            Standing::Good | Standing::Busy(_) => Distance::Near,
            Standing::Draining(_) | Standing::Ejected(_) => Distance::Out,
        }
    }
}

#[cfg(test)]
mod tests;
