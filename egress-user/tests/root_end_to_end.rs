//! The whole product with real clients, a real nginx and a real name server: one application,
//! node, gateway and internet a test, each a network namespace. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test fails by panicking, as the test does"
)]

#[path = "root_end_to_end/world.rs"]
mod world;

#[path = "root_end_to_end/clients.rs"]
mod clients;

#[path = "root_end_to_end/admin.rs"]
mod admin;
#[path = "root_end_to_end/bulk.rs"]
mod bulk;
#[path = "root_end_to_end/bypass.rs"]
mod bypass;
#[path = "root_end_to_end/carried.rs"]
mod carried;
#[path = "root_end_to_end/certificates.rs"]
mod certificates;
#[path = "root_end_to_end/crowd.rs"]
mod crowd;
#[path = "root_end_to_end/discovery.rs"]
mod discovery;
#[path = "root_end_to_end/drain.rs"]
mod drain;
#[path = "root_end_to_end/dying.rs"]
mod dying;
#[path = "root_end_to_end/existing.rs"]
mod existing;
#[path = "root_end_to_end/failures.rs"]
mod failures;
#[path = "root_end_to_end/flights.rs"]
mod flights;
#[path = "root_end_to_end/gateways.rs"]
mod gateways;
#[path = "root_end_to_end/greedy.rs"]
mod greedy;
#[path = "root_end_to_end/half_close.rs"]
mod half_close;
#[path = "root_end_to_end/identity.rs"]
mod identity;
#[path = "root_end_to_end/log.rs"]
mod log;
#[path = "root_end_to_end/messages.rs"]
mod messages;
#[path = "root_end_to_end/names.rs"]
mod names;
#[path = "root_end_to_end/peers.rs"]
mod peers;
#[path = "root_end_to_end/raw.rs"]
mod raw;
#[path = "root_end_to_end/refused.rs"]
mod refused;
#[path = "root_end_to_end/reload.rs"]
mod reload;
#[path = "root_end_to_end/retry.rs"]
mod retry;
#[path = "root_end_to_end/reused.rs"]
mod reused;
#[path = "root_end_to_end/run.rs"]
mod run;
#[path = "root_end_to_end/silent.rs"]
mod silent;
#[path = "root_end_to_end/steady.rs"]
mod steady;
#[path = "root_end_to_end/strangers.rs"]
mod strangers;
#[path = "root_end_to_end/tunnels.rs"]
mod tunnels;
#[path = "root_end_to_end/upgrade.rs"]
mod upgrade;
#[path = "root_end_to_end/upstream.rs"]
mod upstream;
#[path = "root_end_to_end/workload_api.rs"]
mod workload_api;
#[path = "root_end_to_end/workloads.rs"]
mod workloads;
