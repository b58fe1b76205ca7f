//! Leave for aya to copy the shared types into and out of maps.
#![expect(unsafe_code, reason = "`aya::Pod` is an unsafe trait")]

use crate::{Addr, Device, Flow, FlowKey, PrefixRule, ScopeConfig, Settings};

// SAFETY: `#[repr(C)]`, `Copy`, without padding (held by the size assertions and the
// layout test), and every bit pattern is a value.
unsafe impl aya::Pod for Addr {}
// SAFETY: as above.
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Flow {}
// SAFETY: as above.
unsafe impl aya::Pod for ScopeConfig {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for PrefixRule {}
// SAFETY: as above.
unsafe impl aya::Pod for Device {}
