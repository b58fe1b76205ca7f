//! Tells the agent of refusals. The counters count each of them, this tells some of each cgroup
//! and namespace.

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_ns};
use egress_common::{Addr, Allowance, Caller, Counter, Event, Port, Target};

use crate::{
    DENY,
    maps::{ALLOWANCES, EVENTS, count},
};

/// Tells, unless the caller's cgroup, or for want of one its namespace, has told enough lately, that `reason` met the caller's
/// `target` at `now`.
#[inline(always)]
pub(crate) fn tell(reason: Counter, target: Target, caller: Caller, netns: u64, now: u64) {
    let Some(withheld) = spend(Allowance::owner(caller.cgroup, netns), now) else {
        return count(Counter::EventWithheld);
    };
    match EVENTS.reserve(0) {
        Some(mut entry) => {
            entry.write(Event::new(reason, target, caller, netns, now, withheld));
            entry.submit(0);
        }
        None => count(Counter::EventLost),
    }
}

/// Refuses a socket of this protocol, or an option of one, to the caller: counts it and tells of it.
#[inline(always)]
pub(crate) fn refuse(reason: Counter, protocol: u16, caller: Caller, netns: u64) -> i32 {
    count(reason);
    let target = Target {
        protocol,
        dst: Addr::UNSPECIFIED,
        port: Port::NONE,
    };
    // SAFETY: the helper takes nothing and only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    tell(reason, target, caller, netns, now);
    DENY
}

/// How many events were withheld before this one, if this one may be told.
#[inline(always)]
fn spend(owner: u64, now: u64) -> Option<u32> {
    if let Some(allowance) = ALLOWANCES.get_ptr_mut(owner) {
        // SAFETY: the map's value, which stays readable until the program ends. Processors that
        // write it at once spoil no more than the count.
        return unsafe { (*allowance).spend(now) };
    }
    let mut fresh = Allowance::new(now);
    let told = fresh.spend(now);
    // Without room it is told all the same.
    let _remembered = ALLOWANCES.insert(owner, fresh, u64::from(BPF_ANY));
    told
}
