//! What the kernel programs remember about a redirected connection.

use crate::{Addr, Form, Port, Redirect};

/// Length of the kernel's command name with its closing zero.
pub const COMM_LEN: usize = 16;

/// What the agent can see of an accepted connection, and so the key of its record.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    netns: u64,
    source: Addr,
    source_port: Port,
    // Not an array: the compiler would call a function to clear it.
    zero: u16,
    zeros: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 32);

impl FlowKey {
    /// The key of the connection from `source` in the namespace with the cookie `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, source: Addr, source_port: Port) -> FlowKey {
        FlowKey {
            netns,
            source,
            source_port,
            zero: 0,
            zeros: 0,
        }
    }
}

/// The process that called `connect`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Its process id (thread group) in the initial pid namespace.
    pub pid: u32,
    /// Its user id in the initial user namespace.
    pub uid: u32,
    /// Its command name, closed by a zero byte.
    pub comm: [u8; COMM_LEN],
}

/// One redirected connection: where it was meant to go, and who opened it when.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    connected_ns: u64,
    cgroup: u64,
    dst: Addr,
    pid: u32,
    uid: u32,
    comm: [u8; COMM_LEN],
    dst_port: Port,
    form: u8,
    zero: u8,
    zeros: u32,
}

const _: () = assert!(size_of::<Flow>() == 64);

impl Flow {
    /// A connection to `dst` that `caller` opened at `connected_ns` of the monotonic clock, with
    /// a socket address of this `form`.
    #[inline(always)]
    pub const fn new(
        dst: Addr,
        dst_port: Port,
        form: Form,
        caller: Caller,
        connected_ns: u64,
    ) -> Flow {
        Flow {
            connected_ns,
            cgroup: caller.cgroup,
            dst,
            pid: caller.pid,
            uid: caller.uid,
            comm: caller.comm,
            dst_port,
            form: form.to_byte(),
            zero: 0,
            zeros: 0,
        }
    }

    /// The address the application meant to connect to.
    #[inline(always)]
    pub const fn dst(&self) -> Addr {
        self.dst
    }

    /// The port the application meant to connect to.
    #[inline(always)]
    pub const fn dst_port(&self) -> Port {
        self.dst_port
    }

    /// The form of the socket address that the application gave.
    pub const fn form(&self) -> Form {
        Form::from_byte(self.form)
    }

    /// When `connect` was called: nanoseconds of the monotonic clock.
    pub const fn connected_ns(&self) -> u64 {
        self.connected_ns
    }

    /// Who called `connect`.
    pub const fn caller(&self) -> Caller {
        Caller {
            cgroup: self.cgroup,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
        }
    }
}

/// What is stored with a redirected socket until its source port is known, and for `getpeername`
/// as long as it lives, also when another agent takes over: it knows the form by the size.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirected {
    flow: Flow,
    netns: u64,
    listener: Addr,
    listener_port: Port,
    /// 1 until the SYN leaves.
    pending: u16,
    zeros: u32,
}

const _: () = assert!(size_of::<Redirected>() == 96);

impl Redirected {
    /// A connection of the namespace with the cookie `netns` that goes to the listener `to`.
    #[inline(always)]
    pub const fn new(flow: Flow, netns: u64, to: Redirect) -> Redirected {
        Redirected {
            flow,
            netns,
            listener: to.addr(),
            listener_port: to.port(),
            pending: 1,
            zeros: 0,
        }
    }

    /// The connection itself.
    #[inline(always)]
    pub const fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The cookie of the connection's network namespace.
    #[inline(always)]
    pub const fn netns(&self) -> u64 {
        self.netns
    }

    /// Whether this is the listener that the socket was sent to.
    #[inline(always)]
    pub fn went_to(&self, addr: Addr, port: Port) -> bool {
        self.listener == addr && self.listener_port == port
    }

    /// Whether this connect goes to the listener because another program redirected it just now:
    /// while one agent takes over from another, the programs of both judge it in turn.
    #[inline(always)]
    pub fn is_under_way_to(&self, addr: Addr, port: Port) -> bool {
        self.pending != 0 && self.went_to(addr, port)
    }

    /// The SYN leaves: who connects again does so anew.
    #[inline(always)]
    pub const fn set_sent(&mut self) {
        self.pending = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use core::net::{IpAddr, Ipv4Addr};

    /// Every byte belongs to a field: the kernel reads and compares these structures as bytes.
    #[test]
    fn layout_has_no_padding() {
        assert_eq!(offset_of!(FlowKey, source), 8);
        assert_eq!(offset_of!(FlowKey, source_port), 24);
        assert_eq!(offset_of!(FlowKey, zero), 26);
        assert_eq!(offset_of!(FlowKey, zeros), 28);

        assert_eq!(offset_of!(Flow, cgroup), 8);
        assert_eq!(offset_of!(Flow, dst), 16);
        assert_eq!(offset_of!(Flow, pid), 32);
        assert_eq!(offset_of!(Flow, uid), 36);
        assert_eq!(offset_of!(Flow, comm), 40);
        assert_eq!(offset_of!(Flow, dst_port), 56);
        assert_eq!(offset_of!(Flow, form), 58);
        assert_eq!(offset_of!(Flow, zero), 59);
        assert_eq!(offset_of!(Flow, zeros), 60);

        assert_eq!(offset_of!(Redirected, netns), 64);
        assert_eq!(offset_of!(Redirected, listener), 72);
        assert_eq!(offset_of!(Redirected, listener_port), 88);
        assert_eq!(offset_of!(Redirected, pending), 90);
        assert_eq!(offset_of!(Redirected, zeros), 92);
    }

    #[test]
    fn a_redirect_is_under_way_until_its_syn_leaves() {
        let caller = Caller {
            cgroup: 7,
            pid: 8,
            uid: 9,
            comm: [0; COMM_LEN],
        };
        let dst = Addr::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
        let flow = Flow::new(dst, Port::from_host(443), Form::V4, caller, 11);
        let to = Redirect::V4(Port::from_host(15001));
        let mut redirected = Redirected::new(flow, 1, to);
        assert!(redirected.is_under_way_to(to.addr(), to.port()));
        assert!(!redirected.is_under_way_to(to.addr(), Port::from_host(15002)));
        assert!(!redirected.is_under_way_to(dst, Port::from_host(443)));
        redirected.set_sent();
        assert!(!redirected.is_under_way_to(to.addr(), to.port()));
        assert!(redirected.went_to(to.addr(), to.port()));
    }

    #[test]
    fn a_flow_gives_back_what_it_was_made_of() {
        let caller = Caller {
            cgroup: 7,
            pid: 8,
            uid: 9,
            comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let dst = Addr::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
        for form in [Form::V4, Form::V4Mapped, Form::V6] {
            let flow = Flow::new(dst, Port::from_host(443), form, caller, 11);
            assert_eq!(flow.dst(), dst);
            assert_eq!(flow.dst_port().to_host(), 443);
            assert_eq!(flow.form(), form);
            assert_eq!(flow.connected_ns(), 11);
            assert_eq!(flow.caller(), caller);
        }
    }
}
