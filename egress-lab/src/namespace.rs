//! Network namespaces without a name: they live as long as something holds them.

use std::fs::File;
use std::io::{self, Write as _};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::tools;

/// A network namespace of its own, with loopback up.
///
/// It is held by a descriptor alone, without an entry in `/run/netns`: the kernel removes it,
/// with its interfaces, when the lab and the processes in it are gone.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a namespace.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn new() -> anyhow::Result<Namespace> {
        let fd = thread::spawn(unshared)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("cannot make a network namespace (CAP_SYS_ADMIN is needed)")?;
        Ok(Namespace { fd })
    }

    /// A path under which other processes can open this namespace while the lab lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd()).into()
    }

    /// Makes `command` run in this namespace. Only the network changes: unlike with
    /// `ip netns exec`, the mounts, and with them the cgroup file system, stay as they are.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let fd = self.fd.try_clone()?;
        let enter = move || enter_fd(&fd);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// A command that will run `program`, found by [`tools::locate`], in this namespace.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = tools::locate(program)?.command();
        self.enter(&mut command)?;
        Ok(command)
    }

    /// Runs `job` on a thread of its own in this namespace and returns what it returns.
    /// Sockets made there stay in the namespace wherever they are used afterwards. Do not start
    /// lab processes there: they end with the thread that started them.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| enter_fd(&self.fd).map(|()| job()))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A TCP listener in this namespace.
    ///
    /// # Errors
    /// When the address is not of this namespace or is taken.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(address))?
    }

    /// A UDP socket in this namespace.
    ///
    /// # Errors
    /// When the address is not of this namespace or is taken.
    pub fn udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        self.run(|| UdpSocket::bind(address))?
    }

    /// Runs a batch of `ip` commands, one a line, in this namespace.
    ///
    /// # Errors
    /// When one fails; the error carries the batch and what `ip` said.
    pub fn ip(&self, batch: &str) -> anyhow::Result<()> {
        let mut child = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ip failed: {said}\nin the batch:\n{batch}");
        }
        Ok(())
    }

    /// Sets a `net.…` sysctl of this namespace, named by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// When the kernel has no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot write {path}"))
    }
}

fn unshared() -> io::Result<OwnedFd> {
    // SAFETY: `NEWNET` leaves the descriptor table shared; only sockets made later by this
    // thread, which ends right here, would be affected.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    loopback_up()?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// As `ip link set lo up` in the namespace of this thread, without another program.
fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: the request's name ends with a zero, and its flags are set.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn enter_fd(fd: impl AsFd) -> io::Result<()> {
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}
