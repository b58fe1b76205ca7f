//! The kernel's security hooks, where there are programs on them: what no other hook of a cgroup is
//! asked about. Those are sockets of other families than IP, and options that a 32-bit system call sets.

use aya_ebpf::{Global, helpers::generated::bpf_get_current_task_btf, programs::LsmContext};
use core::ffi::{c_int, c_void};
use egress_common::{
    Counter, Member, ScopeConfig, SetOption, Settings, decide_family, decide_option, is_free_family,
};

use crate::{ALLOW, caller::caller, evidence, maps, packet::NO_NETNS};

/// Where the running kernel has each [`Member`]; set by the loader.
#[unsafe(no_mangle)]
static MEMBERS: [Global<u32>; Member::ALL.len()] = [const { Global::new(0) }; Member::ALL.len()];

/// A structure of the kernel's, of which the verifier knows which one it is.
#[derive(Clone, Copy)]
struct Structure(*const c_void);

impl Structure {
    /// The structure at this address, if there is one.
    #[inline(always)]
    fn at(address: *const c_void) -> Option<Structure> {
        (!address.is_null()).then_some(Structure(address))
    }

    /// What a member holds.
    ///
    /// # Safety
    /// The member is one of this structure, of type `T`.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "there is one for each member, and the index is known here"
    )]
    unsafe fn read<T>(self, member: Member) -> T {
        // SAFETY: the loader found the offset in what the kernel says of its types, which the verifier
        // reads too: it lets no read leave the structure. One that is gone reads as zeros.
        unsafe {
            let offset = MEMBERS[member.index()].load();
            let at = self.0.byte_add(offset as usize).cast::<T>();
            at.read_volatile()
        }
    }

    /// The structure that a member points to.
    ///
    /// # Safety
    /// The member is one of this structure, and a pointer.
    #[inline(always)]
    unsafe fn follow(self, member: Member) -> Option<Structure> {
        // SAFETY: the caller's promise.
        Structure::at(unsafe { self.read(member) })
    }
}

/// A socket of any family is made: `socket_create(family, type, protocol, kern)`.
#[inline(always)]
pub(crate) fn create(ctx: &LsmContext) -> i32 {
    let (family, kern): (c_int, c_int) = (ctx.arg(0), ctx.arg(3));
    if kern != 0 || is_free_family(family) {
        return ALLOW;
    }
    judge(
        ctx,
        own_netns(),
        Counter::RefuseSocket,
        |settings, scope, cgroup| decide_family(settings, scope, cgroup, family),
    )
}

/// An option of a socket is set: `socket_setsockopt(sock, level, optname)`.
#[inline(always)]
pub(crate) fn setsockopt(ctx: &LsmContext) -> i32 {
    let Some((option, sock)) = option(ctx) else {
        return evidence::refuse(Counter::RefuseOption, 0, caller(ctx), NO_NETNS);
    };
    if option.is_free() {
        return ALLOW;
    }
    // SAFETY: a `sock`, whose namespace is a `net`.
    let netns = unsafe { sock.follow(Member::SockNetns).map(|netns| cookie(netns)) };
    judge(
        ctx,
        netns,
        Counter::RefuseOption,
        |settings, scope, cgroup| decide_option(settings, scope, cgroup, &option),
    )
}

/// Asks about what not everybody may, and refuses with `reason`; also where the namespace cannot be
/// told.
#[inline(always)]
fn judge(
    ctx: &LsmContext,
    netns: Option<u64>,
    reason: Counter,
    may: impl FnOnce(&Settings, Option<&ScopeConfig>, u64) -> bool,
) -> i32 {
    let netns = netns.unwrap_or(NO_NETNS);
    let caller = caller(ctx);
    let Some(settings) = maps::settings() else {
        return evidence::refuse(Counter::RefuseSettings, 0, caller, netns);
    };
    if netns != NO_NETNS && may(settings, maps::scope(netns), caller.cgroup) {
        ALLOW
    } else {
        evidence::refuse(reason, 0, caller, netns)
    }
}

/// The option that is set, and the `sock` that it is set for.
#[inline(always)]
fn option(ctx: &LsmContext) -> Option<(SetOption, Structure)> {
    let socket = Structure::at(ctx.arg(0))?;
    // SAFETY: the hook's first argument is a `socket`, whose `sock` is one.
    unsafe {
        let sock = socket.follow(Member::SocketSock)?;
        let option = SetOption {
            level: ctx.arg(1),
            option: ctx.arg(2),
            family: u32::from(sock.read::<u16>(Member::SockFamily)),
            kind: u32::from(socket.read::<u16>(Member::SocketKind)),
        };
        Some((option, sock))
    }
}

/// The network namespace of the process that makes the call.
#[inline(always)]
fn own_netns() -> Option<u64> {
    // SAFETY: the helper takes nothing and gives the `task_struct` of the current task, whose
    // `nsproxy` has a `net`.
    unsafe {
        let task = Structure::at(bpf_get_current_task_btf().cast_const().cast())?;
        let namespaces = task.follow(Member::TaskNamespaces)?;
        let netns = namespaces.follow(Member::NamespacesNetns)?;
        Some(cookie(netns))
    }
}

/// The cookie of a network namespace.
///
/// # Safety
/// `netns` is a `net`.
#[inline(always)]
unsafe fn cookie(netns: Structure) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { netns.read(Member::NetnsCookie) }
}
