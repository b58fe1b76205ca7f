//! Listeners inside a captured network namespace, where the kernel redirects to.

use std::io;
use std::net::TcpListener;

use tokio::net::TcpStream;

use crate::addr::ClientAddr;
use crate::netns::{self, Listeners, NetnsCookie};

/// Connections that may wait to be accepted. The kernel cuts it to
/// net.core.somaxconn, whose default is this.
const BACKLOG: i32 = 4096;

/// The listeners of one network namespace, made by [`bind_here`].
#[derive(Debug)]
pub struct BoundScope {
    cookie: NetnsCookie,
    listeners: Listeners,
}

/// Binds 127.0.0.1 and, where the namespace has it, ::1, each to a free port, in
/// the network namespace of the calling thread.
pub fn bind_here() -> io::Result<BoundScope> {
    Ok(BoundScope {
        cookie: netns::cookie_of_current()?,
        listeners: netns::listen_on_loopback(BACKLOG)?,
    })
}

impl BoundScope {
    /// Listeners that a predecessor bound in the namespace.
    pub fn inherited(cookie: NetnsCookie, listeners: Listeners) -> BoundScope {
        BoundScope { cookie, listeners }
    }

    /// Copies that lead to the same queues.
    pub(super) fn copies(&self) -> io::Result<Listeners> {
        self.listeners.copies()
    }

    /// The namespace, as the kernel programs know it.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Port of the listener on 127.0.0.1.
    pub fn v4_port(&self) -> io::Result<u16> {
        Ok(self.listeners.v4.local_addr()?.port())
    }

    /// Port of the listener on ::1, if the namespace has one.
    pub fn v6_port(&self) -> io::Result<Option<u16>> {
        let v6 = self.listeners.v6.as_ref();
        let addr = v6.map(TcpListener::local_addr).transpose()?;
        Ok(addr.map(|addr| addr.port()))
    }

    /// Hands the listeners to the async runtime.
    pub(super) fn into_listeners(self) -> io::Result<Vec<Listener>> {
        let Listeners { v4, v6 } = self.listeners;
        let listeners = [Some(v4), v6].into_iter().flatten();
        listeners
            .map(|listener| {
                Ok(Listener {
                    cookie: self.cookie,
                    inner: tokio::net::TcpListener::from_std(listener)?,
                })
            })
            .collect()
    }
}

/// One listener on the async runtime.
pub(super) struct Listener {
    cookie: NetnsCookie,
    inner: tokio::net::TcpListener,
}

impl Listener {
    pub(super) fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    pub(super) async fn accept(&self) -> io::Result<(TcpStream, ClientAddr)> {
        let (socket, addr) = self.inner.accept().await?;
        // Bytes are forwarded as they come; the ends decide how to batch them. It
        // fails for a socket that its client has reset already, which shows later.
        let _ = socket.set_nodelay(true);
        Ok((socket, ClientAddr::new(addr)))
    }
}
