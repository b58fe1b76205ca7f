//! The socket address in a hook's context, one type for each family: the verifier lets a program
//! touch only the fields of the family it is attached for.

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use egress_common::{Addr, Form, Port};

/// A socket address as the application gave it.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr {
    pub(crate) form: Form,
    pub(crate) addr: Addr,
    pub(crate) port: Port,
}

/// The address family of a hook.
pub(crate) trait Family {
    /// The socket address in the context.
    fn read(ctx: &SockAddrContext) -> SockAddr;

    /// Replaces the socket address in the context; `None`, and no change, where the family cannot
    /// hold the address.
    fn write(ctx: &SockAddrContext, addr: Addr, port: Port) -> Option<()>;

    /// Whether the socket is bound to an address that holds on one link alone, so that answers from
    /// loopback do not find it. By IPv4 the connect fails by itself.
    fn is_link_local(socket: *const bpf_sock) -> bool;
}

/// `AF_INET`.
pub(crate) enum V4 {}

/// `AF_INET6`.
pub(crate) enum V6 {}

// Contexts are read and written with volatile accesses of single words at fixed offsets: the
// verifier refuses what the optimiser makes of plain ones (merged words, computed offsets).

/// Reads an address out of a context.
///
/// # Safety
/// `ip` points at four words of a valid context that the program may read.
#[inline(always)]
pub(crate) unsafe fn read_words(ip: *const [u32; 4]) -> Addr {
    // SAFETY: the caller's promise.
    let words = unsafe {
        [
            (&raw const (*ip)[0]).read_volatile(),
            (&raw const (*ip)[1]).read_volatile(),
            (&raw const (*ip)[2]).read_volatile(),
            (&raw const (*ip)[3]).read_volatile(),
        ]
    };
    Addr::from_be_words(words)
}

impl Family for V4 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> SockAddr {
        // SAFETY: the kernel hands a valid context to the program; this word is readable in
        // IPv4 hooks.
        let ip = unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() };
        SockAddr {
            form: Form::V4,
            addr: Addr::from_be_v4(ip),
            port: read_port(ctx),
        }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: Addr, port: Port) -> Option<()> {
        let ip = addr.be_v4()?;
        // SAFETY: as in `read`; this word is writable too.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(ip) };
        write_port(ctx, port);
        Some(())
    }

    #[inline(always)]
    fn is_link_local(_: *const bpf_sock) -> bool {
        false
    }
}

impl Family for V6 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> SockAddr {
        // SAFETY: the kernel hands a valid context to the program; these words are readable in
        // IPv6 hooks.
        let addr = unsafe { read_words(&raw const (*ctx.sock_addr).user_ip6) };
        let form = match addr.be_v4() {
            Some(_) => Form::V4Mapped,
            None => Form::V6,
        };
        SockAddr {
            form,
            addr,
            port: read_port(ctx),
        }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, addr: Addr, port: Port) -> Option<()> {
        let [a, b, c, d] = addr.be_words();
        // SAFETY: as in `read`; these words are writable too.
        unsafe {
            let ip = &raw mut (*ctx.sock_addr).user_ip6;
            (&raw mut (*ip)[0]).write_volatile(a);
            (&raw mut (*ip)[1]).write_volatile(b);
            (&raw mut (*ip)[2]).write_volatile(c);
            (&raw mut (*ip)[3]).write_volatile(d);
        }
        write_port(ctx, port);
        Some(())
    }

    #[inline(always)]
    fn is_link_local(socket: *const bpf_sock) -> bool {
        // SAFETY: a socket address program's context always has its socket, whose words are readable.
        let first = unsafe { (&raw const (*socket).src_ip6[0]).read_volatile() };
        Addr::from_be_words([first, 0, 0, 0]).is_link_local_v6()
    }
}

#[inline(always)]
fn read_port(ctx: &SockAddrContext) -> Port {
    // SAFETY: the kernel hands a valid context to the program; this word is readable in every
    // socket address hook.
    let port = unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the word holds a 16-bit port in network byte order"
    )]
    Port::from_be(port as u16)
}

#[inline(always)]
fn write_port(ctx: &SockAddrContext, port: Port) {
    // SAFETY: as in `read_port`; this word is writable too.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be())) };
}
