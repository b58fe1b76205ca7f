//! Where the kernel has no room left for what the programs remember.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::{io, thread};

use egress_common::{Addr, COMM_LEN, Caller, Flow, FlowKey, Form, Port, maps::FLOWS_LEN};
use egress_user::agent::capture::Flows;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::client::{Outcome, Script, Step};
use crate::world::World;

/// What is stored with a socket counts against the memory that its options may have, which any user
/// can use up.
#[test]
fn a_socket_whose_option_memory_is_used_up() {
    let mut world = World::new();
    let mut events = world.capture.events().unwrap();
    let destinations = [
        "192.0.2.1:443",
        "[2001:db8::1]:443",
        "[::ffff:192.0.2.1]:443",
    ];
    for dst in destinations {
        let script = Script::connect(dst).first(Step::FillOptionMemory);
        let outcomes = world.run(&script);
        assert_eq!(outcomes, [Outcome::Done, Outcome::REFUSED], "{dst}");
        let event = events.take().expect("an event");
        assert_eq!(event.reason, "refuse_storage");
        assert_eq!(event.original_dst.unwrap().to_string(), dst_text(dst));
    }
    assert_eq!(world.counter("refuse_storage"), 3);
    world.place.agent_is_untouched();
    world.place.origin_is_untouched();
}

fn dst_text(dst: &str) -> String {
    dst.replace("[::ffff:192.0.2.1]", "192.0.2.1")
}

/// The oldest records go: who was redirected and not accepted for so long is closed, and who
/// connects now is served.
#[test]
fn flow_records_without_room() {
    let world = World::new();
    let script = Script::connect("192.0.2.1:443");
    assert_eq!(world.run(&script), [Outcome::Done]);
    fill(&world.flows);
    let (_evicted, record) = world.take(false);
    assert_eq!(record, None);
    assert_eq!(world.run(&script), [Outcome::Done]);
    let record = world.record(false);
    assert_eq!(record.original_dst.to_string(), "192.0.2.1:443");
    assert_eq!(world.counter("flow_lost"), 0);
    world.place.origin_is_untouched();
}

/// More records than there is room for, from each processor: each keeps its newest apart.
fn fill(flows: &Flows) {
    let all = sched_getaffinity(None).unwrap();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)) {
        let fill_from = || {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one).unwrap();
            for number in 0..2 * FLOWS_LEN {
                insert(flows, cpu, number);
            }
        };
        thread::scope(|scope| scope.spawn(fill_from).join()).unwrap();
    }
}

/// The record of a connection in no namespace that there is.
fn insert(flows: &Flows, cpu: usize, number: usize) {
    /// `BPF_MAP_UPDATE_ELEM` of the kernel's `bpf.h`.
    const COMMAND: libc::c_int = 2;

    /// The part of `union bpf_attr` that the command uses.
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let netns = u64::MAX - u64::try_from(cpu * 2 * FLOWS_LEN + number).unwrap();
    let port = Port::from_host(443);
    let addr = Addr::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let key = FlowKey::new(netns, addr, port);
    let caller = Caller {
        cgroup: 1,
        pid: 1,
        uid: 0,
        comm: [0; COMM_LEN],
    };
    let value = Flow::new(addr, port, Form::V4, caller, 0);
    let mut attributes = Attributes {
        map: flows.descriptor().as_fd().as_raw_fd().try_into().unwrap(),
        zero: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a key and a value, of the map's types, which live.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            COMMAND,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
