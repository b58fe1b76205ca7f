//! What the kernel programs and the agent must agree on: the types that cross the border between
//! them, the names and sizes of the maps, and the decisions: [`decide`] about every `connect` and
//! `sendmsg`, [`decide_socket`] about sockets that are made, [`decide_packet`] about packets
//! that leave by another way, and [`decide_unread`] about frames that are none.
//!
//! The decisions are pure functions. The kernel programs gather their arguments and carry out the
//! verdicts; the tests of this crate hold them to their promises on the host.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
#![cfg_attr(feature = "user", deny(unsafe_code))]

mod addr;
mod counter;
mod decision;
mod device;
mod event;
mod flow;
mod kernel;
pub mod maps;
mod packet;
#[cfg(feature = "user")]
mod pod;
mod scope;
mod sent;
mod socket;
mod unread;

pub use addr::{Addr, Port};
pub use counter::Counter;
pub use decision::{Attempt, Form, Pass, Protocol, Redirect, Refuse, Verdict, decide};
pub use device::Device;
pub use event::{Allowance, EVENT_WINDOW_NS, EVENTS_PER_WINDOW, Event, Target};
pub use flow::{COMM_LEN, Caller, Flow, FlowKey, Redirected};
pub use kernel::Member;
pub use packet::{Bytes, Packet, Transport};
pub use scope::{
    EXEMPT_CGROUPS, Fallback, MAX_PORTS, MAX_PREFIX_PORTS, MAX_RESOLVERS, PrefixAction, PrefixRule,
    ScopeConfig, Settings, TooManyPorts, TooManyPrefixPorts, TooManyResolvers,
};
pub use sent::{Bypass, Course, Sender, Sent, decide_packet};
pub use socket::{
    NewSocket, SetOption, SocketVerdict, Unjudged, decide_family, decide_option, decide_socket,
    is_free_family, is_judged,
};
pub use unread::{Unread, decide_unread};
