//! What the kernel programs tell about a refusal, and how often they may.

use crate::{Addr, COMM_LEN, Caller, Counter, Port};

/// How many events of one cgroup, or without a cgroup of one namespace, are told within [`EVENT_WINDOW_NS`]; the counters stay exact.
pub const EVENTS_PER_WINDOW: u32 = 16;

/// The time for which [`EVENTS_PER_WINDOW`] counts: one second.
pub const EVENT_WINDOW_NS: u64 = 1_000_000_000;

/// What was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The number of the transport protocol (`IPPROTO_`).
    pub protocol: u16,
    /// Where it was to go; [`Addr::UNSPECIFIED`] where nothing was said of that yet.
    pub dst: Addr,
    /// The port there, if the protocol has ports.
    pub port: Port,
}

/// One refusal, as it lies in the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    at_ns: u64,
    netns: u64,
    cgroup: u64,
    dst: Addr,
    pid: u32,
    uid: u32,
    comm: [u8; COMM_LEN],
    reason: u32,
    withheld: u32,
    dst_port: Port,
    protocol: u16,
    zeros: u32,
}

const _: () = assert!(size_of::<Event>() == 80);

impl Event {
    /// The refusal that `reason` counts, of what `caller` of the namespace with the cookie `netns`
    /// tried at `at_ns` of the monotonic clock, after `withheld` that were not told.
    #[inline(always)]
    pub const fn new(
        reason: Counter,
        target: Target,
        caller: Caller,
        netns: u64,
        at_ns: u64,
        withheld: u32,
    ) -> Event {
        Event {
            at_ns,
            netns,
            cgroup: caller.cgroup,
            dst: target.dst,
            pid: caller.pid,
            uid: caller.uid,
            comm: caller.comm,
            reason: reason.index(),
            withheld,
            dst_port: target.port,
            protocol: target.protocol,
            zeros: 0,
        }
    }

    /// The counter that counted the refusal; absent if this is not one that is known.
    pub fn reason(&self) -> Option<Counter> {
        Counter::ALL
            .into_iter()
            .find(|counter| counter.index() == self.reason)
    }

    /// What was refused.
    pub const fn target(&self) -> Target {
        Target {
            protocol: self.protocol,
            dst: self.dst,
            port: self.dst_port,
        }
    }

    /// Who tried it. A process id of 0 says that a packet was refused, which has no process.
    pub const fn caller(&self) -> Caller {
        Caller {
            cgroup: self.cgroup,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
        }
    }

    /// Cookie of the network namespace.
    pub const fn netns(&self) -> u64 {
        self.netns
    }

    /// When it was refused: nanoseconds of the monotonic clock.
    pub const fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// How many events of this cgroup, or without a cgroup of this namespace, were not told since the
    /// last one that was.
    pub const fn withheld(&self) -> u32 {
        self.withheld
    }
}

/// How much of its allowance a cgroup, or a namespace, has spent. Processors that spend at the same moment may
/// tell a few events more.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    since_ns: u64,
    told: u32,
    withheld: u32,
}

const _: () = assert!(size_of::<Allowance>() == 16);

impl Allowance {
    /// Whose allowance an event of this cgroup and of the namespace with the cookie `netns` spends:
    /// the cgroup's; where that is 0, as of a forwarded packet, the namespace's, lest one that is
    /// flooded has what happens in others withheld.
    #[inline(always)]
    pub const fn owner(cgroup: u64, netns: u64) -> u64 {
        /// No id of a cgroup, which counts from below.
        const NETNS: u64 = 1 << 63;

        match cgroup {
            0 => NETNS | netns,
            cgroup => cgroup,
        }
    }

    /// An allowance of which nothing is spent at `now`.
    #[inline(always)]
    pub const fn new(now: u64) -> Allowance {
        Allowance {
            since_ns: now,
            told: 0,
            withheld: 0,
        }
    }

    /// Spends one event at `now`. It may be told if this gives a number: how many before it were
    /// withheld.
    #[inline(always)]
    pub const fn spend(&mut self, now: u64) -> Option<u32> {
        if now.saturating_sub(self.since_ns) >= EVENT_WINDOW_NS {
            self.since_ns = now;
            self.told = 0;
        }
        if self.told >= EVENTS_PER_WINDOW {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        self.told += 1;
        let withheld = self.withheld;
        self.withheld = 0;
        Some(withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    /// Every byte belongs to a field: the kernel's verifier refuses to give out others.
    #[test]
    fn layout_has_no_padding() {
        assert_eq!(offset_of!(Event, dst), 24);
        assert_eq!(offset_of!(Event, pid), 40);
        assert_eq!(offset_of!(Event, comm), 48);
        assert_eq!(offset_of!(Event, reason), 64);
        assert_eq!(offset_of!(Event, dst_port), 72);
        assert_eq!(offset_of!(Event, protocol), 74);
        assert_eq!(offset_of!(Event, zeros), 76);
    }

    #[test]
    fn an_event_gives_back_what_it_was_made_of() {
        let caller = Caller {
            cgroup: 7,
            pid: 8,
            uid: 9,
            comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let target = Target {
            protocol: 262,
            dst: Addr::LOOPBACK_V6,
            port: Port::from_host(443),
        };
        for reason in Counter::ALL {
            let event = Event::new(reason, target, caller, 5, 11, 3);
            assert_eq!(event.reason(), Some(reason));
            assert_eq!(event.target(), target);
            assert_eq!(event.caller(), caller);
            assert_eq!((event.netns(), event.at_ns(), event.withheld()), (5, 11, 3));
        }
    }

    #[test]
    fn an_unknown_reason_is_none() {
        let mut event = Event::new(
            Counter::RefuseUdp,
            Target {
                protocol: 17,
                dst: Addr::UNSPECIFIED,
                port: Port::NONE,
            },
            Caller {
                cgroup: 0,
                pid: 0,
                uid: 0,
                comm: [0; COMM_LEN],
            },
            0,
            0,
            0,
        );
        event.reason = 9999;
        assert_eq!(event.reason(), None);
    }

    #[test]
    fn each_cgroup_has_its_own_allowance_and_without_one_each_namespace() {
        assert_eq!(Allowance::owner(7, 1), Allowance::owner(7, 2));
        assert_ne!(Allowance::owner(7, 1), Allowance::owner(8, 1));
        assert_ne!(Allowance::owner(0, 1), Allowance::owner(0, 2));
        assert_ne!(Allowance::owner(0, 7), Allowance::owner(7, 0));
    }

    #[test]
    fn an_allowance_is_spent_and_comes_back() {
        let start = 5_000;
        let mut allowance = Allowance::new(start);
        for _ in 0..EVENTS_PER_WINDOW {
            assert_eq!(allowance.spend(start), Some(0));
        }
        let last = start + EVENT_WINDOW_NS - 1;
        assert_eq!(allowance.spend(last), None);
        assert_eq!(allowance.spend(last), None);
        // Another processor may have read its clock a little earlier.
        assert_eq!(allowance.spend(0), None);
        assert_eq!(allowance.spend(last + 1), Some(3), "those before it");
        assert_eq!(allowance.spend(last + 1), Some(0));
    }
}
