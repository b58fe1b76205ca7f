//! What a service manager is told (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the process serves, where somebody waits for that.
pub(super) fn ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = tell(&socket, "READY=1") {
        tracing::warn!(%error, "the service manager cannot be told that this process is ready");
    }
}

/// A name that begins with `@` is in the abstract namespace (unix(7)), anything else is a path.
fn tell(socket: &OsStr, what: &str) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read is nobody's reason to wait.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(what.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(receiver: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn both_kinds_of_names_are_told() {
        let dir = egress_lab::lab::scratch().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&receiver), b"READY=1");

        let name = format!("egress-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        tell(format!("@{name}").as_ref(), "READY=1").unwrap();
        assert_eq!(heard(&receiver), b"READY=1");
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(tell("/nonexistent/notify".as_ref(), "READY=1").is_err());
    }
}
