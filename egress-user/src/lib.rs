//! Lets workloads reach exactly the outside names they may reach, and proves it.
//!
//! The rooms, in the order in which a connection walks through them:
//! [`agent`] (capture, accept) → [`hello`] → [`policy`] → [`tunnel`] →
//! [`gateway`] → hello and policy again → resolve, dial → [`relay`] → [`record`].
//! `agent` and `gateway` never use each other; both use the neutral rooms.

pub mod addr;
pub mod admin;
pub mod agent;
pub mod cgroup;
pub mod cli;
pub mod compat;
pub mod config;
pub mod connection_id;
pub mod descriptors;
pub mod dns;
pub mod document;
pub mod drain;
pub mod endpoint;
mod farewell;
pub mod gateway;
pub mod hello;
pub mod in_force;
pub mod intake;
pub mod netns;
pub mod pins;
pub mod pki;
pub mod policy;
pub mod record;
pub mod refusal;
pub mod relay;
pub mod reload;
pub mod renewal;
pub mod resolvers;
pub mod rule_name;
pub mod run;
pub mod selftest;
pub mod tunnel;
pub mod watched;
pub mod workload;
pub mod workload_api;
