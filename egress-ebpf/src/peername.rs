//! `getpeername`: a redirected socket names the destination that its application chose.

use aya_ebpf::programs::SockAddrContext;

use crate::{ALLOW, maps::SOCKETS, sockaddr::Family};

#[inline(always)]
pub(crate) fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context is valid; the pointer is this socket's storage or null, and storage is
    // written only under the socket's lock in `connect`.
    let redirected = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() };
    if let Some(redirected) = redirected {
        let peer = F::read(ctx);
        if redirected.went_to(peer.addr, peer.port) {
            let flow = redirected.flow();
            // A family that cannot hold the address keeps the listener's.
            let _written = F::write(ctx, flow.dst(), flow.dst_port());
        }
    }
    ALLOW
}
