//! What the kernel programs and the agent must agree on: the types that cross the border between
//! them, the names and sizes of the maps, and the decision about every `connect` and `sendmsg`.
//!
//! The decision is [`decide`], a pure function. The kernel programs gather its arguments and carry
//! out its verdict; the tests of this crate hold it to its promises on the host.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
#![cfg_attr(feature = "user", deny(unsafe_code))]

mod addr;
mod counter;
mod decision;
mod flow;
pub mod maps;
#[cfg(feature = "user")]
mod pod;
mod scope;

pub use addr::{Addr, Port};
pub use counter::Counter;
pub use decision::{Attempt, Form, Pass, Protocol, Redirect, Refuse, Verdict, decide};
pub use flow::{COMM_LEN, Caller, Flow, FlowKey, Redirected};
pub use scope::{
    EXEMPT_CGROUPS, Fallback, MAX_PORTS, MAX_RESOLVERS, PrefixAction, PrefixRule, ScopeConfig,
    Settings, TooManyPorts, TooManyResolvers,
};
