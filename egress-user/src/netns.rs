//! Network namespaces: their cookies, work inside them, and the agent's listeners there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use socket2::{Domain, Protocol, Socket, Type};

/// The kernel's number for a network namespace: never reused while the machine is up, and the same
/// for a socket option in userspace and for the kernel programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NetnsCookie(u64);

impl NetnsCookie {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The cookie of the calling thread's network namespace.
///
/// # Errors
/// Fails where no socket can be made, and on kernels before 5.14.
pub fn cookie_of_current() -> io::Result<NetnsCookie> {
    /// `SO_NETNS_COOKIE` of `asm-generic/socket.h`, which the libc crate does not have.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))?;
    let mut cookie = 0u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the socket is open, and `cookie` is writable for the `len` bytes that the kernel
    // is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(NetnsCookie(cookie)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A network namespace, kept alive by this handle.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// What went wrong on the way into a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is no such namespace or process, or it may not be looked at.
    #[error("cannot open the network namespace {}{}", path.display(), by_path(path))]
    Open {
        /// The namespace's file.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The file is another one.
    #[error("{} is not the file of a network namespace{}", path.display(), by_path(path))]
    NotOne {
        /// The file.
        path: PathBuf,
    },
    /// The namespace may not be entered.
    #[error("cannot enter the network namespace {}, which takes CAP_SYS_ADMIN", path.display())]
    Enter {
        /// The namespace's file.
        path: PathBuf,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// No namespace can be made.
    #[error("cannot make a network namespace, which takes CAP_SYS_ADMIN")]
    Make(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What is to be said where somebody gave a name instead of a path.
fn by_path(path: &Path) -> String {
    let is_name = path.is_relative() && path.components().count() == 1;
    match is_name {
        true => format!(" (is /run/netns/{} meant?)", path.display()),
        false => String::new(),
    }
}

impl Netns {
    /// The namespace whose file is at `path`, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// Fails when the file cannot be opened, or is no namespace's.
    pub fn at(path: impl Into<PathBuf>) -> Result<Netns, NetnsError> {
        let path = path.into();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => return Err(NetnsError::Open { path, source }),
        };
        match rustix::fs::fstatfs(&file) {
            Ok(stat) if stat.f_type != libc::NSFS_MAGIC => Err(NetnsError::NotOne { path }),
            _ => Ok(Netns { file, path }),
        }
    }

    /// A new namespace, with nothing in it but a loopback device that is down. It lives as long as
    /// this handle and the processes in it.
    ///
    /// # Errors
    /// Fails without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Netns, NetnsError> {
        let made = thread::spawn(|| {
            // SAFETY: the thread stops sharing its network namespace, and ends.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Netns::current().map_err(|_| io::ErrorKind::NotFound.into())
        });
        let made = made.join().unwrap_or_else(|panic| resume_unwind(panic));
        made.map_err(NetnsError::Make)
    }

    /// A path by which processes that this one starts can open the namespace, as long as it lives.
    pub fn path_for_children(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.file.as_raw_fd());
        format!("/proc/{pid}/fd/{fd}").into()
    }

    /// The namespace of the process `pid`.
    ///
    /// # Errors
    /// Fails when there is no such process, or it may not be looked at.
    pub fn of_process(pid: u32) -> Result<Netns, NetnsError> {
        Netns::at(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// Fails where `/proc` is not mounted.
    pub fn current() -> Result<Netns, NetnsError> {
        Netns::at("/proc/thread-self/ns/net")
    }

    /// The inode of the namespace, by which two files of the same one can be told.
    ///
    /// # Errors
    /// Fails when the kernel does not say.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// The file that the namespace was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in this namespace and waits for it. It runs on a thread of its own, so that no
    /// other work is ever found in the wrong namespace; a panic of `work` goes on in the caller.
    ///
    /// It blocks: on an async runtime, call it from a blocking thread.
    ///
    /// # Errors
    /// Fails when the namespace cannot be entered; `work` has not run then.
    pub fn on_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(NetnsError::Thread)?
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this namespace.
    fn enter(&self) -> Result<(), NetnsError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |errno| NetnsError::Enter {
                path: self.path.clone(),
                source: errno.into(),
            },
        )
    }
}

/// Every network namespace that a process is in or that has a name, such as one in `/run/netns`, as
/// far as they can be opened.
pub fn all() -> Vec<Netns> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_processes = processes.map(|process| process.path().join("ns/net"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut seen = HashSet::new();
    of_processes
        .chain(mounts.lines().filter_map(mounted))
        .filter_map(|path| Netns::at(path).ok())
        .filter(|netns| netns.inode().is_ok_and(|inode| seen.insert(inode)))
        .collect()
}

/// Where a line of proc(5)'s `mountinfo` says that a network namespace is mounted.
fn mounted(line: &str) -> Option<PathBuf> {
    let mut words = line.split(' ').skip(3);
    let (root, point) = (words.next()?, words.next()?);
    root.starts_with("net:[").then(|| PathBuf::from(point))
}

/// How many sockets of processes there are in the calling thread's network namespace, whoever holds
/// them and wherever that process is now.
///
/// # Errors
/// Fails when proc(5)'s `net/sockstat` cannot be read.
pub fn sockets_of_current() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat")?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("sockets: used "))
        .and_then(|count| count.parse().ok());
    count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "sockstat has no sockets"))
}

/// The agent's listeners in one network namespace. They stay there, whichever thread accepts.
#[derive(Debug)]
pub struct Listeners {
    /// On `127.0.0.1`.
    pub v4: TcpListener,
    /// On `::1`; absent where the namespace has no such address.
    pub v6: Option<TcpListener>,
}

impl Listeners {
    /// Copies that lead to the same queues.
    ///
    /// # Errors
    /// Fails when no descriptor is left.
    pub fn copies(&self) -> io::Result<Listeners> {
        Ok(Listeners {
            v4: self.v4.try_clone()?,
            v6: self.v6.as_ref().map(TcpListener::try_clone).transpose()?,
        })
    }
}

/// Binds listeners to free ports of the calling thread's loopback, the same port for both families
/// where it is free. They are non-blocking, for an async runtime to take over.
///
/// # Errors
/// Fails when the IPv4 listener cannot be had, for instance because the loopback device is down.
pub fn listen_on_loopback(backlog: i32) -> io::Result<Listeners> {
    let v4 = listen((Ipv4Addr::LOCALHOST, 0).into(), backlog)?;
    let v6 = if has_ipv6_loopback() {
        let same_port = (Ipv6Addr::LOCALHOST, v4.local_addr()?.port()).into();
        let any_port = (Ipv6Addr::LOCALHOST, 0).into();
        Some(listen(same_port, backlog).or_else(|_| listen(any_port, backlog))?)
    } else {
        None
    };
    Ok(Listeners { v4, v6 })
}

/// Whether the calling thread's network namespace has the address `::1`.
pub fn has_ipv6_loopback() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn listen(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_the_namespaces_own() {
        let here = cookie_of_current().unwrap();
        let elsewhere = thread::spawn(cookie_of_current).join().unwrap().unwrap();
        assert_eq!(here, elsewhere);
        assert_ne!(here.get(), 0);
    }

    #[test]
    fn listeners_share_a_port_where_it_is_free() {
        let listeners = listen_on_loopback(8).unwrap();
        let v4 = listeners.v4.local_addr().unwrap();
        assert_eq!(v4.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(listeners.v6.is_some(), has_ipv6_loopback());
        if let Some(v6) = listeners.v6 {
            assert_eq!(v6.local_addr().unwrap().ip(), Ipv6Addr::LOCALHOST);
        }
    }

    #[test]
    fn mounted_namespaces_are_found() {
        let line = "632 28 0:4 net:[4026532288] /run/netns/job rw shared:318 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some(PathBuf::from("/run/netns/job")));
        let proc = "24 30 0:22 / /proc rw,nosuid - proc proc rw";
        assert_eq!(mounted(proc), None);
        assert_eq!(mounted(""), None);
    }

    #[test]
    fn all_has_one_s_own_once() {
        let own = Netns::current().unwrap().inode().unwrap();
        let all: Vec<u64> = all().iter().map(|netns| netns.inode().unwrap()).collect();
        assert_eq!(all.iter().filter(|inode| **inode == own).count(), 1);
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let error = Netns::at("/nonexistent/netns").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open the network namespace /nonexistent/netns"
        );
    }
}
