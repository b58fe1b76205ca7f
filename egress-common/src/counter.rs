//! Counters of what the kernel programs did.

/// One counter; its number is its index in the counters' map.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Counter {
    /// Passed: the destination is inside the namespace.
    PassLoopback,
    /// Passed: the cgroup is exempt.
    PassExempt,
    /// Passed: the namespace has no scope.
    PassUnregistered,
    /// Passed: a destination prefix says so.
    PassPrefix,
    /// Passed: neither TCP nor UDP.
    PassProtocol,
    /// Passed: the port is not captured.
    PassOtherPort,
    /// Passed: name resolution, where other ports are refused.
    PassDns,
    /// Redirected to `127.0.0.1`.
    RedirectV4,
    /// Redirected to `::ffff:127.0.0.1`.
    RedirectV4Mapped,
    /// Redirected to `::1`.
    RedirectV6,
    /// Refused: the namespace has no scope.
    RefuseUnregistered,
    /// Refused: a destination prefix says so.
    RefusePrefix,
    /// Refused: UDP to a captured port.
    RefuseUdp,
    /// Refused: the port is not captured.
    RefuseOtherPort,
    /// Refused: the scope has no listener.
    RefuseNoListener,
    /// Refused: the agent has not been heard of for too long.
    RefuseStale,
    /// Refused: bound to a device, or to an address of one, and not to be released from it.
    RefuseBoundDevice,
    /// Refused: the original destination could not be stored.
    RefuseStorage,
    /// Refused: the settings could not be read.
    RefuseSettings,
    /// Refused: neither TCP nor UDP, where other ports are refused.
    RefuseProtocol,
    /// Refused: a raw socket, or one of a protocol that is not listed, in a strict scope.
    RefuseSocket,
    /// Refused: a socket option that would get frames past the interface's guard.
    RefuseOption,
    /// A packet was dropped: of a socket that was not judged, or of none.
    DropSocket,
    /// A packet was dropped: of a raw socket.
    DropRaw,
    /// A packet was dropped: of a socket of another protocol than TCP and UDP.
    DropProtocol,
    /// A packet was dropped: a frame of a packet socket, or one that is no IP packet.
    DropFrame,
    /// A packet was dropped: its header has it go by way of other addresses, or it was to leave for
    /// loopback.
    DropRoute,
    /// A flow record was written for the agent.
    FlowRecorded,
    /// A flow record could not be written; the agent closes the connection.
    FlowLost,
    /// A process connected to the agent's listener by itself; the agent closes the connection.
    DirectToListener,
    /// An event was not told: its cgroup, or its namespace, has told enough for now.
    EventWithheld,
    /// An event was not told: the ring buffer is full.
    EventLost,
}

impl Counter {
    /// Every counter, in the order of its number.
    pub const ALL: [Counter; 32] = [
        Counter::PassLoopback,
        Counter::PassExempt,
        Counter::PassUnregistered,
        Counter::PassPrefix,
        Counter::PassProtocol,
        Counter::PassOtherPort,
        Counter::PassDns,
        Counter::RedirectV4,
        Counter::RedirectV4Mapped,
        Counter::RedirectV6,
        Counter::RefuseUnregistered,
        Counter::RefusePrefix,
        Counter::RefuseUdp,
        Counter::RefuseOtherPort,
        Counter::RefuseNoListener,
        Counter::RefuseStale,
        Counter::RefuseBoundDevice,
        Counter::RefuseStorage,
        Counter::RefuseSettings,
        Counter::RefuseProtocol,
        Counter::RefuseSocket,
        Counter::RefuseOption,
        Counter::DropSocket,
        Counter::DropRaw,
        Counter::DropProtocol,
        Counter::DropFrame,
        Counter::DropRoute,
        Counter::FlowRecorded,
        Counter::FlowLost,
        Counter::DirectToListener,
        Counter::EventWithheld,
        Counter::EventLost,
    ];

    /// The counter's number.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The counter's name: verdict and reason.
    pub const fn name(self) -> &'static str {
        match self {
            Counter::PassLoopback => "pass_loopback",
            Counter::PassExempt => "pass_exempt",
            Counter::PassUnregistered => "pass_unregistered",
            Counter::PassPrefix => "pass_prefix",
            Counter::PassProtocol => "pass_protocol",
            Counter::PassOtherPort => "pass_other_port",
            Counter::PassDns => "pass_dns",
            Counter::RedirectV4 => "redirect_v4",
            Counter::RedirectV4Mapped => "redirect_v4_mapped",
            Counter::RedirectV6 => "redirect_v6",
            Counter::RefuseUnregistered => "refuse_unregistered",
            Counter::RefusePrefix => "refuse_prefix",
            Counter::RefuseUdp => "refuse_udp",
            Counter::RefuseOtherPort => "refuse_other_port",
            Counter::RefuseNoListener => "refuse_no_listener",
            Counter::RefuseStale => "refuse_stale",
            Counter::RefuseBoundDevice => "refuse_bound_device",
            Counter::RefuseStorage => "refuse_storage",
            Counter::RefuseSettings => "refuse_settings",
            Counter::RefuseProtocol => "refuse_protocol",
            Counter::RefuseSocket => "refuse_socket",
            Counter::RefuseOption => "refuse_option",
            Counter::DropSocket => "drop_socket",
            Counter::DropRaw => "drop_raw",
            Counter::DropProtocol => "drop_protocol",
            Counter::DropFrame => "drop_frame",
            Counter::DropRoute => "drop_route",
            Counter::FlowRecorded => "flow_recorded",
            Counter::FlowLost => "flow_lost",
            Counter::DirectToListener => "direct_to_listener",
            Counter::EventWithheld => "event_withheld",
            Counter::EventLost => "event_lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(usize::try_from(counter.index()), Ok(position));
        }
    }
}
