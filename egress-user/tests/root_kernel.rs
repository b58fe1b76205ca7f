//! The kernel programs and their owner in real cgroups and network namespaces, with real sockets:
//! for each redirect and refusal a listener at the original destination shows that nothing
//! arrived there. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of a test fails by panicking, as the test does"
)]

#[path = "root_kernel/client.rs"]
mod client;
#[path = "root_kernel/craft.rs"]
mod craft;
#[path = "root_kernel/world.rs"]
mod world;

#[path = "root_kernel/agent.rs"]
mod agent;
#[path = "root_kernel/bypass.rs"]
mod bypass;
#[path = "root_kernel/evidence.rs"]
mod evidence;
#[path = "root_kernel/forwarded.rs"]
mod forwarded;
#[path = "root_kernel/frames.rs"]
mod frames;
#[path = "root_kernel/full.rs"]
mod full;
#[path = "root_kernel/guard.rs"]
mod guard;
#[path = "root_kernel/lifetime.rs"]
mod lifetime;
#[path = "root_kernel/local.rs"]
mod local;
#[path = "root_kernel/memory.rs"]
mod memory;
#[path = "root_kernel/pins.rs"]
mod pins;
#[path = "root_kernel/redirect.rs"]
mod redirect;
#[path = "root_kernel/refuse.rs"]
mod refuse;
#[path = "root_kernel/sockets.rs"]
mod sockets;
#[path = "root_kernel/steered.rs"]
mod steered;
#[path = "root_kernel/strict.rs"]
mod strict;
#[path = "root_kernel/tunnels.rs"]
mod tunnels;
#[path = "root_kernel/verifier.rs"]
mod verifier;
