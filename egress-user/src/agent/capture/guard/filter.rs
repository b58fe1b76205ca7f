//! The filters of a device, asked of the kernel by netlink.

use std::io;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Whether there is a filter with this handle and priority on the way out of the device with this
/// index in the calling thread's namespace.
///
/// # Errors
/// Fails with [`io::ErrorKind::NotFound`] when there is no such device.
pub(super) fn is_there(index: u32, priority: u16, handle: u32) -> io::Result<bool> {
    /// `NLMSG_ERROR`.
    const ERROR: u16 = 2;

    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    send(
        &socket,
        &request(index, priority, handle),
        SendFlags::empty(),
    )?;
    let mut buffer = [0; 4096];
    let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let answer = buffer.get(..len).unwrap_or_default();
    // Type and error number of the first message.
    let kind = answer.get(4..).and_then(|rest| rest.first_chunk());
    let errno = answer.get(16..).and_then(|rest| rest.first_chunk());
    match (kind.map(|kind| u16::from_ne_bytes(*kind)), errno) {
        (Some(ERROR), Some(errno)) => match i32::from_ne_bytes(*errno).saturating_neg() {
            libc::ENODEV => Err(io::ErrorKind::NotFound.into()),
            // No filter, or nothing that could have one.
            libc::ENOENT | libc::EINVAL => Ok(false),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
        (Some(_), _) => Ok(true),
        (None, _) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nlmsghdr`, `struct tcmsg` and an attribute with the kind of the filter.
fn request(index: u32, priority: u16, handle: u32) -> Vec<u8> {
    const LEN: u32 = 44;
    /// `RTM_GETTFILTER`.
    const GET: u16 = 46;
    /// `NLM_F_REQUEST`.
    const ASK: u16 = 1;
    /// `ETH_P_ALL`.
    const EVERY_PROTOCOL: u16 = 3_u16.to_be();
    /// The way out of clsact.
    const PARENT: u32 = 0xffff_fff3;
    /// `TCA_KIND` with its length.
    const KIND: [u16; 2] = [8, 1];

    let mut out = Vec::new();
    out.extend(LEN.to_ne_bytes());
    out.extend(GET.to_ne_bytes());
    out.extend(ASK.to_ne_bytes());
    // Neither number nor sender, nor family.
    out.extend([0; 12]);
    out.extend(index.to_ne_bytes());
    out.extend(handle.to_ne_bytes());
    out.extend(PARENT.to_ne_bytes());
    out.extend((u32::from(priority) << 16 | u32::from(EVERY_PROTOCOL)).to_ne_bytes());
    out.extend(KIND.into_iter().flat_map(u16::to_ne_bytes));
    out.extend(*b"bpf\0");
    out
}
