//! The maps. Their names and sizes are `egress_common::maps`'s.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage, lpm_trie},
    macros::btf_map,
};
use core::arch::asm;
use egress_common::{
    Addr, Allowance, Counter, Device, Event, Flow, FlowKey, Port, PrefixAction, PrefixRule,
    Redirected, ScopeConfig, Settings, Unjudged,
    maps::{
        ALLOWANCES_LEN, COUNTERS_LEN, DEVICES_LEN, EVENTS_BYTES, FLOWS_LEN, PREFIXES_LEN,
        SCOPES_LEN,
    },
};

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

/// Namespace cookie → scope.
#[btf_map]
static SCOPES: HashMap<u64, ScopeConfig, SCOPES_LEN, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Guarded network device → cookie of its namespace.
#[btf_map]
static DEVICES: HashMap<Device, u64, DEVICES_LEN, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Destination prefix → what becomes of connections into it.
#[btf_map]
static PREFIXES: LpmTrie<Addr, PrefixRule, PREFIXES_LEN> = LpmTrie::new();

/// What the agent takes after `accept`.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, FLOWS_LEN> = LruHashMap::new();

/// Redirected sockets; an entry lives exactly as long as its socket.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<Redirected> = SkStorage::new();

/// Sockets that processes made and whose `connect` or `sendmsg` nothing judges; an entry lives
/// exactly as long as its socket.
#[btf_map]
pub(crate) static UNJUDGED: SkStorage<Unjudged> = SkStorage::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// What the agent is told of refusals.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

/// Cgroup or namespace, see [`Allowance::owner`] → how many events it has told lately.
#[btf_map]
pub(crate) static ALLOWANCES: LruHashMap<u64, Allowance, ALLOWANCES_LEN> = LruHashMap::new();

/// Whether the running kernel knows `bpf_skc_to_mptcp_sock`; set by the loader, so that the
/// verifier never looks at the call where it does not.
#[unsafe(no_mangle)]
pub(crate) static MPTCP_SOCK: Global<u8> = Global::new(0);

/// Whether the running kernel tells packets' programs the namespace; set by the loader as above.
#[unsafe(no_mangle)]
pub(crate) static PACKET_NETNS: Global<u8> = Global::new(0);

#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

#[inline(always)]
pub(crate) fn scope(netns: u64) -> Option<&'static ScopeConfig> {
    // SAFETY: userspace replaces a scope as a whole, and a record that it removes meanwhile stays
    // readable until the program ends.
    unsafe { SCOPES.get(netns) }
}

#[inline(always)]
pub(crate) fn netns_of(device: Device) -> Option<u64> {
    // SAFETY: a namespace's cookie is read in one piece.
    unsafe { DEVICES.get(device) }.copied()
}

#[inline(always)]
pub(crate) fn prefix(addr: Addr, port: Port) -> Option<PrefixAction> {
    PREFIXES
        .get(&lpm_trie::Key::new(128, addr))
        .map(|rule| rule.action(port))
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the slot is this processor's own. A packet's program may interrupt another one
        // on it, so that the addition is one instruction; `core` has none for this target.
        unsafe {
            asm!(
                "lock *(u64 *)({slot} + 0) += {one}",
                slot = in(reg) slot,
                one = in(reg) 1u64,
                options(nostack),
            );
        }
    }
}
