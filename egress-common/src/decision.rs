//! The decision about every `connect` and `sendmsg` of a captured process.

use crate::{Addr, Counter, Fallback, Port, PrefixAction, ScopeConfig, Settings};

/// The transport of a socket, as far as the decision cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP and what falls back to it (MPTCP).
    Tcp,
    /// UDP and UDP-Lite.
    Udp,
    /// Anything else that reaches the hooks, such as ICMP sockets.
    Other,
}

impl Protocol {
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    const UDPLITE: u32 = 136;
    const MPTCP: u32 = 262;

    /// The transport with this `IPPROTO_` number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Protocol {
        match number {
            Protocol::TCP | Protocol::MPTCP => Protocol::Tcp,
            Protocol::UDP | Protocol::UDPLITE => Protocol::Udp,
            _ => Protocol::Other,
        }
    }
}

/// The form of the socket address that an application gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `AF_INET`.
    V4,
    /// `AF_INET6` with an address in `::ffff:0:0/96`.
    V4Mapped,
    /// `AF_INET6` with any other address.
    V6,
}

impl Form {
    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Form::V4 => 4,
            Form::V4Mapped => 46,
            Form::V6 => 6,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Form {
        match byte {
            4 => Form::V4,
            46 => Form::V4Mapped,
            _ => Form::V6,
        }
    }
}

/// One `connect` or `sendmsg`, before it takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Id of the calling process's cgroup.
    pub cgroup: u64,
    /// The socket's transport.
    pub protocol: Protocol,
    /// The form of the socket address.
    pub form: Form,
    /// The destination.
    pub dst: Addr,
    /// The destination's port.
    pub port: Port,
    /// Whether the socket is bound to a device other than loopback: by that one its packets leave,
    /// wherever they are to go.
    pub bound: bool,
    /// When it is made, in nanoseconds on the clock that starts with the machine.
    pub now: u64,
}

/// What becomes of an [`Attempt`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It takes effect as it is.
    Pass(Pass),
    /// It goes to the agent's listener.
    Redirect(Redirect),
    /// The application gets `EPERM`.
    Refuse(Refuse),
}

/// Why an attempt passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// The destination is inside the namespace.
    Loopback,
    /// The cgroup is exempt.
    Exempt,
    /// The namespace has no scope, and such namespaces pass.
    Unregistered,
    /// A prefix says so.
    Prefix,
    /// Neither TCP nor UDP, where other ports pass.
    Protocol,
    /// The port is not captured, and such ports pass.
    OtherPort,
    /// Other ports are refused, but names must be resolved, at the name servers that are known.
    Dns,
}

/// Which listener an attempt is sent to, and at which port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// `127.0.0.1`.
    V4(Port),
    /// `::ffff:127.0.0.1`: the IPv4 listener, for an `AF_INET6` socket.
    V4Mapped(Port),
    /// `::1`.
    V6(Port),
}

/// Why an attempt is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refuse {
    /// The namespace has no scope, and such namespaces are refused.
    Unregistered,
    /// A prefix says so.
    Prefix,
    /// UDP to a captured port: QUIC would go round the agent.
    Udp,
    /// The port is not captured, and such ports are refused.
    OtherPort,
    /// Neither TCP nor UDP, where other ports are refused.
    Protocol,
    /// The scope has no listener.
    NoListener,
    /// The agent has not been heard of for too long: a redirect would end in a hang.
    Stale,
    /// The socket is bound to a device, or to an address that holds on one device alone, and could
    /// not be released from it, or is not to be: the destination is loopback.
    BoundDevice,
    /// The original destination could not be stored.
    Storage,
    /// The settings could not be read.
    Settings,
}

/// Judges one attempt: `scope` is that of the caller's network namespace, `prefix` what the longest
/// destination prefix that matches says of the attempt's port.
///
/// Link-local destinations get no exemption: metadata services of clouds live there. Neither does
/// loopback where the socket is bound to another device: that has its packets leave by it, in
/// whatever namespace.
#[inline(always)]
pub fn decide(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    prefix: Option<PrefixAction>,
    attempt: &Attempt,
) -> Verdict {
    if attempt.dst.is_local() && !attempt.bound {
        return Verdict::Pass(Pass::Loopback);
    }
    if settings.exempts(attempt.cgroup) {
        return Verdict::Pass(Pass::Exempt);
    }
    if attempt.dst.is_local() {
        return Verdict::Refuse(Refuse::BoundDevice);
    }
    decide_away(settings, scope, prefix, attempt)
}

/// [`decide`], of what is neither to loopback nor of an exempt cgroup.
#[inline(always)]
pub(crate) fn decide_away(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    prefix: Option<PrefixAction>,
    attempt: &Attempt,
) -> Verdict {
    let Some(scope) = scope else {
        return match settings.unregistered() {
            Fallback::Pass => Verdict::Pass(Pass::Unregistered),
            Fallback::Refuse => Verdict::Refuse(Refuse::Unregistered),
        };
    };
    let captured = match prefix {
        Some(PrefixAction::Pass) => return Verdict::Pass(Pass::Prefix),
        Some(PrefixAction::Refuse) => return Verdict::Refuse(Refuse::Prefix),
        Some(PrefixAction::Redirect) => true,
        Some(PrefixAction::Judge) | None => scope.captures(attempt.port),
    };
    match (attempt.protocol, captured) {
        (Protocol::Other, _) => match scope.other_ports() {
            Fallback::Pass => Verdict::Pass(Pass::Protocol),
            Fallback::Refuse => Verdict::Refuse(Refuse::Protocol),
        },
        (Protocol::Tcp, true) if settings.is_stale(attempt.now) => Verdict::Refuse(Refuse::Stale),
        (Protocol::Tcp, true) => redirect(scope, attempt.form),
        (Protocol::Udp, true) => Verdict::Refuse(Refuse::Udp),
        (Protocol::Tcp | Protocol::Udp, false) => other_port(settings, scope, attempt),
    }
}

#[inline(always)]
fn redirect(scope: &ScopeConfig, form: Form) -> Verdict {
    let to = match form {
        Form::V4 => Redirect::V4(scope.listen_v4()),
        Form::V4Mapped => Redirect::V4Mapped(scope.listen_v4()),
        // A socket with IPV6_V6ONLY cannot go to a v4-mapped address; the kernel then fails its
        // connect, which is a refusal too.
        Form::V6 if scope.listen_v6().is_none() => Redirect::V4Mapped(scope.listen_v4()),
        Form::V6 => Redirect::V6(scope.listen_v6()),
    };
    if to.port().is_none() {
        Verdict::Refuse(Refuse::NoListener)
    } else {
        Verdict::Redirect(to)
    }
}

#[inline(always)]
fn other_port(settings: &Settings, scope: &ScopeConfig, attempt: &Attempt) -> Verdict {
    match scope.other_ports() {
        Fallback::Pass => Verdict::Pass(Pass::OtherPort),
        // Anywhere else, port 53 would be a door for whatever is not on the list.
        Fallback::Refuse if settings.resolves_at(attempt.dst, attempt.port) => {
            Verdict::Pass(Pass::Dns)
        }
        Fallback::Refuse => Verdict::Refuse(Refuse::OtherPort),
    }
}

impl Redirect {
    /// The listener's address, in the form in which the socket is given it.
    #[inline(always)]
    pub const fn addr(self) -> Addr {
        match self {
            Redirect::V4(_) | Redirect::V4Mapped(_) => Addr::LOOPBACK_V4,
            Redirect::V6(_) => Addr::LOOPBACK_V6,
        }
    }

    /// The listener's port.
    #[inline(always)]
    pub const fn port(self) -> Port {
        match self {
            Redirect::V4(port) | Redirect::V4Mapped(port) | Redirect::V6(port) => port,
        }
    }
}

impl Verdict {
    /// The counter of this verdict.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Verdict::Pass(Pass::Loopback) => Counter::PassLoopback,
            Verdict::Pass(Pass::Exempt) => Counter::PassExempt,
            Verdict::Pass(Pass::Unregistered) => Counter::PassUnregistered,
            Verdict::Pass(Pass::Prefix) => Counter::PassPrefix,
            Verdict::Pass(Pass::Protocol) => Counter::PassProtocol,
            Verdict::Pass(Pass::OtherPort) => Counter::PassOtherPort,
            Verdict::Pass(Pass::Dns) => Counter::PassDns,
            Verdict::Redirect(Redirect::V4(_)) => Counter::RedirectV4,
            Verdict::Redirect(Redirect::V4Mapped(_)) => Counter::RedirectV4Mapped,
            Verdict::Redirect(Redirect::V6(_)) => Counter::RedirectV6,
            Verdict::Refuse(Refuse::Unregistered) => Counter::RefuseUnregistered,
            Verdict::Refuse(Refuse::Prefix) => Counter::RefusePrefix,
            Verdict::Refuse(Refuse::Udp) => Counter::RefuseUdp,
            Verdict::Refuse(Refuse::OtherPort) => Counter::RefuseOtherPort,
            Verdict::Refuse(Refuse::Protocol) => Counter::RefuseProtocol,
            Verdict::Refuse(Refuse::NoListener) => Counter::RefuseNoListener,
            Verdict::Refuse(Refuse::Stale) => Counter::RefuseStale,
            Verdict::Refuse(Refuse::BoundDevice) => Counter::RefuseBoundDevice,
            Verdict::Refuse(Refuse::Storage) => Counter::RefuseStorage,
            Verdict::Refuse(Refuse::Settings) => Counter::RefuseSettings,
        }
    }
}

#[cfg(test)]
mod tests;
