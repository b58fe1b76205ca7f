//! The decision about packets that leave by another way than a judged `connect` or `sendmsg`.

use crate::{
    Attempt, Counter, Form, Packet, Pass, PrefixAction, Protocol, ScopeConfig, Settings, Transport,
    Verdict,
    decision::decide_away,
    socket::{ICMP, ICMPV6, SOCK_RAW, TCP, is_judged},
};

/// Who gave a packet to the kernel.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A socket whose `connect` and `sendmsg` are judged.
    Socket,
    /// No socket of the namespace: the packet is forwarded, or the kernel made it.
    Nobody,
    /// A socket as the kernel has them for what it sends by itself. Raw sockets look the same of which
    /// it is not known who made them: processes outside of the cgroup, or before the capture.
    Kernel,
    /// A raw socket.
    Raw,
    /// A socket of another protocol than TCP and UDP, whose `connect` or `sendmsg` nothing judges.
    Unjudged,
    /// A packet socket: the frame was written by a process.
    Frame,
}

impl Sender {
    /// A socket of this kind and protocol of which nobody remembers who made it.
    #[inline(always)]
    pub const fn unknown(kind: u32, protocol: u32) -> Sender {
        match (kind, protocol) {
            (kind, protocol) if is_judged(kind, protocol) => Sender::Socket,
            (SOCK_RAW, ICMP | TCP | ICMPV6) => Sender::Kernel,
            (SOCK_RAW, _) => Sender::Raw,
            _ => Sender::Unjudged,
        }
    }

    /// What such a socket is in a namespace that is not its own.
    #[inline(always)]
    pub const fn elsewhere(self) -> Sender {
        match self {
            // Whoever judges them is not known.
            Sender::Socket | Sender::Kernel | Sender::Nobody => Sender::Nobody,
            Sender::Raw => Sender::Raw,
            Sender::Unjudged => Sender::Unjudged,
            Sender::Frame => Sender::Frame,
        }
    }
}

/// A packet on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Who gave it to the kernel.
    pub sender: Sender,
    /// The packet.
    pub packet: Packet,
    /// Id of the cgroup of its socket, 0 if it has none.
    pub cgroup: u64,
    /// Where it goes.
    pub course: Course,
}

/// Where a packet goes, against what its destination says.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// It stays: to loopback, by the loopback device.
    Stays,
    /// It leaves for its destination.
    Leaves,
    /// It goes elsewhere than its destination says, or than `connect` or `sendmsg` was asked.
    Astray,
}

impl Course {
    /// The course of a packet; `loopback` says whether it goes by that device.
    #[inline(always)]
    pub const fn of(packet: &Packet, loopback: bool) -> Course {
        match (packet.steered, packet.dst.is_local(), loopback) {
            (true, _, _) | (false, true, false) => Course::Astray,
            (false, true, true) => Course::Stays,
            (false, false, _) => Course::Leaves,
        }
    }
}

/// Why a packet is dropped: by which way it would have got round the redirect.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bypass {
    /// By a socket that was not judged, such as one that was connected before, or by none of the
    /// namespace.
    Socket,
    /// By a raw socket.
    Raw,
    /// By a socket of another protocol.
    Protocol,
    /// By a packet socket, or in a frame that nothing can be read in.
    Frame,
    /// By another way than its destination says: of other addresses, or out of the namespace where
    /// it says loopback.
    Route,
}

impl Bypass {
    /// The counter of this way.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Bypass::Socket => Counter::DropSocket,
            Bypass::Raw => Counter::DropRaw,
            Bypass::Protocol => Counter::DropProtocol,
            Bypass::Frame => Counter::DropFrame,
            Bypass::Route => Counter::DropRoute,
        }
    }
}

impl Sent {
    /// Whether the packet belongs to something that passed: a connection that stands, also if it
    /// stood before the capture began; a fragment that the kernel made of a datagram; what the
    /// kernel sends by itself, such as neighbour discovery.
    #[inline(always)]
    pub const fn continues(&self) -> bool {
        if matches!(self.course, Course::Astray) {
            return false;
        }
        match (self.sender, self.packet.transport) {
            // What a socket of TCP or UDP sends is of another protocol once it is in a tunnel.
            (
                Sender::Socket,
                Transport::Segment
                | Transport::Link
                | Transport::Answer
                | Transport::Portless
                | Transport::Fragment
                | Transport::Hidden,
            )
            | (Sender::Kernel, Transport::Segment | Transport::Link | Transport::Answer)
            | (Sender::Nobody, Transport::Segment | Transport::Link) => true,
            (
                Sender::Socket
                | Sender::Nobody
                | Sender::Kernel
                | Sender::Raw
                | Sender::Unjudged
                | Sender::Frame,
                _,
            ) => false,
        }
    }

    #[inline(always)]
    const fn attempt(&self) -> Attempt {
        let protocol = match self.packet.transport {
            Transport::Opens | Transport::Segment => Protocol::Tcp,
            // Those of SCTP and DCCP too: nothing redirects them to where the port is captured.
            Transport::Ports => Protocol::Udp,
            Transport::Link
            | Transport::Answer
            | Transport::Portless
            | Transport::Fragment
            | Transport::Hidden => Protocol::Other,
        };
        Attempt {
            cgroup: self.cgroup,
            protocol,
            form: Form::V6,
            dst: self.packet.dst,
            port: self.packet.port,
            bound: false,
            // A packet that would be redirected is dropped, whether the agent lives or not.
            now: 0,
        }
    }

    /// The way that the packet takes.
    #[inline(always)]
    pub const fn way(&self) -> Bypass {
        if matches!(self.course, Course::Astray) {
            return Bypass::Route;
        }
        match self.sender {
            Sender::Socket | Sender::Nobody => Bypass::Socket,
            // The kernel sends hardly anything that does not continue.
            Sender::Raw | Sender::Kernel => Bypass::Raw,
            Sender::Unjudged => Bypass::Protocol,
            Sender::Frame => Bypass::Frame,
        }
    }
}

/// Judges a packet that leaves the namespace: what [`decide`](crate::decide) would not let pass to where the
/// packet goes is dropped, and what it would redirect as well, since a redirected connection's
/// packets go to loopback. `scope` and `prefix` are those of [`decide`](crate::decide).
///
/// Of packets that go [astray](Course::Astray) only those of exempt cgroups leave, in whatever
/// namespace.
///
/// # Errors
/// The packet is to be dropped.
#[inline(always)]
pub fn decide_packet(
    settings: &Settings,
    scope: Option<&ScopeConfig>,
    prefix: Option<PrefixAction>,
    sent: &Sent,
) -> Result<(), Bypass> {
    match sent.course {
        Course::Stays => return Ok(()),
        _ if settings.exempts(sent.cgroup) => return Ok(()),
        Course::Leaves => {}
        Course::Astray => return Err(sent.way()),
    }
    if sent.continues() {
        return Ok(());
    }
    let strict = scope.is_some_and(ScopeConfig::strict);
    match decide_away(settings, scope, prefix, &sent.attempt()) {
        Verdict::Pass(Pass::Loopback | Pass::Exempt | Pass::Unregistered) => Ok(()),
        Verdict::Pass(Pass::Prefix | Pass::Protocol | Pass::OtherPort | Pass::Dns) => {
            match sent.sender {
                // The kernel made the packet: its fragments hide nothing.
                Sender::Socket | Sender::Unjudged => Ok(()),
                Sender::Raw | Sender::Kernel | Sender::Frame if strict => Err(sent.way()),
                sender => match sent.packet.transport {
                    Transport::Hidden => Err(sent.way()),
                    // Without the first, which was judged, it is of no use.
                    Transport::Fragment if !matches!(sender, Sender::Nobody) => Err(sent.way()),
                    _ => Ok(()),
                },
            }
        }
        Verdict::Redirect(_) | Verdict::Refuse(_) => Err(sent.way()),
    }
}

#[cfg(test)]
mod tests;
