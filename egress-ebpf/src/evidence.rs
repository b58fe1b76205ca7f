//! Tells the agent of refusals. The counters count each of them, this tells some of each cgroup
//! and namespace.

use aya_ebpf::bindings::BPF_ANY;
use egress_common::{Allowance, Caller, Counter, Event, Target};

use crate::maps::{ALLOWANCES, EVENTS, count};

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
