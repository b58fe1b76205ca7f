//! An upgrade without a refused connection: the listening sockets go from an agent to its successor.
//!
//! The successor connects to a Unix socket in a folder of root's. The predecessor stops accepting,
//! and passes its listeners and the map of flow records; what connects meanwhile waits in the
//! listeners' queues. Once the successor's programs are attached it says so, and the predecessor
//! drains and ends. If the successor dies before, the predecessor goes on accepting, and puts its
//! programs back in place.

use std::collections::HashMap;
use std::fs;
use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::watch;

use super::Listening;
use crate::netns::{Listeners, NetnsCookie};

/// How long either end may be silent: a successor loads its programs and enters every namespace.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest message; they are a few words.
const MAX_MESSAGE: usize = 256;

/// The most descriptors of one message: two listeners.
const MAX_FDS: usize = 2;

/// Why listeners could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket cannot be used.
    #[error("cannot hand listeners over by {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else's process is at the other end.
    #[error("the process at {} belongs to another user ({uid})", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
}

/// What one end says to the other; descriptors go with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// The successor asks for everything.
    Take,
    /// The map of flow records.
    Flows,
    /// The listeners of a namespace: the one for IPv4, and the one for IPv6 if there is one.
    Scope {
        /// The namespace's cookie.
        cookie: u64,
    },
    /// That was all.
    End,
    /// The successor serves.
    Done,
}

/// What a successor was given.
pub struct Inherited {
    predecessor: Socket,
    flows: Option<OwnedFd>,
    scopes: HashMap<u64, Listeners>,
}

impl Inherited {
    /// Asks the agent at `path` for its listeners; `None` when there is no agent.
    ///
    /// # Errors
    /// When the agent is another user's, or does not tell everything.
    pub fn ask(path: &Path) -> Result<Option<Inherited>, HandoverError> {
        let failed = |source| failed(path, source);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(failed)?;
        match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
            Err(error) if is_nobody(&error) => return Ok(None),
            connected => connected.map_err(failed)?,
        }
        check_peer(&socket, path)?;
        let mut inherited = Inherited {
            predecessor: socket,
            flows: None,
            scopes: HashMap::new(),
        };
        inherited.take().map_err(failed)?;
        Ok(Some(inherited))
    }

    fn take(&mut self) -> io::Result<()> {
        set_patience(&self.predecessor)?;
        send(&self.predecessor, Message::Take, &[])?;
        loop {
            let (message, fds) = receive(&self.predecessor)?;
            let mut fds = fds.into_iter();
            match message {
                Message::Flows => self.flows = fds.next(),
                Message::Scope { cookie } => {
                    let v4 = fds.next().ok_or(io::ErrorKind::InvalidData)?;
                    let listeners = Listeners {
                        v4: TcpListener::from(v4),
                        v6: fds.next().map(TcpListener::from),
                    };
                    self.scopes.insert(cookie, listeners);
                }
                Message::End => return Ok(()),
                Message::Take | Message::Done => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// The predecessor's map of flow records.
    pub fn flows(&mut self) -> Option<OwnedFd> {
        self.flows.take()
    }

    /// The listeners of a namespace, if the predecessor had it.
    pub fn listeners(&mut self, cookie: NetnsCookie) -> Option<Listeners> {
        self.scopes.remove(&cookie.get())
    }

    /// Tells the predecessor that everything is served: it ends.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn done(self) -> io::Result<()> {
        send(&self.predecessor, Message::Done, &[])
    }
}

/// Waits for a successor.
pub struct Offer {
    socket: Socket,
    path: PathBuf,
}

impl Offer {
    /// Listens at `path`, in the place of a predecessor.
    ///
    /// # Errors
    /// When its folder cannot be made or the socket cannot be bound.
    pub fn bind(path: &Path) -> Result<Offer, HandoverError> {
        let failed = |source| failed(path, source);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let _absent = fs::remove_file(path);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(failed)?;
        socket
            .bind(&SockAddr::unix(path).map_err(failed)?)
            .map_err(failed)?;
        socket.listen(1).map_err(failed)?;
        Ok(Offer {
            socket,
            path: path.to_owned(),
        })
    }

    /// Waits on a thread of its own until a successor serves what `agent` served. A successor that
    /// fails is logged, `reclaim` undoes what it did to the kernel, and the next one is waited for.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        self,
        agent: Listening,
        reclaim: impl Fn() + Send + 'static,
    ) -> io::Result<Succeeded> {
        let (sender, seen) = watch::channel(false);
        thread::Builder::new()
            .name("handover".to_owned())
            .spawn(move || {
                self.wait(&agent, reclaim);
                sender.send_replace(true);
            })?;
        Ok(Succeeded(Some(seen)))
    }

    fn wait(&self, agent: &Listening, reclaim: impl Fn()) {
        loop {
            let successor = self.accept();
            match self.give(agent, &successor) {
                Ok(()) => return,
                Err(error) => {
                    agent.go_on();
                    if matches!(error, HandoverError::Socket { .. }) {
                        reclaim();
                    }
                    tracing::warn!("{:#}", anyhow::Error::new(error));
                }
            }
        }
    }

    fn accept(&self) -> Socket {
        loop {
            match self.socket.accept() {
                Ok((successor, _)) => return successor,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    // Out of descriptors is over once others have ended; spinning helps nobody.
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn give(&self, agent: &Listening, successor: &Socket) -> Result<(), HandoverError> {
        check_peer(successor, &self.path)?;
        let give = || {
            set_patience(successor)?;
            expect(successor, Message::Take)?;
            agent.hold()?;
            send(successor, Message::Flows, &[agent.flows().descriptor()])?;
            for (cookie, listeners) in agent.listeners()? {
                let fds = [
                    Some(listeners.v4.as_fd()),
                    listeners.v6.as_ref().map(AsFd::as_fd),
                ];
                let fds: Vec<BorrowedFd<'_>> = fds.into_iter().flatten().collect();
                let cookie = cookie.get();
                send(successor, Message::Scope { cookie }, &fds)?;
            }
            send(successor, Message::End, &[])?;
            expect(successor, Message::Done)
        };
        give().map_err(|source| failed(&self.path, source))
    }
}

/// Whether a successor serves by now.
#[derive(Clone)]
pub struct Succeeded(Option<watch::Receiver<bool>>);

impl Succeeded {
    /// For an agent that hands nothing over.
    pub fn never() -> Succeeded {
        Succeeded(None)
    }

    /// Resolves when a successor serves.
    pub async fn reached(self) {
        let Succeeded(Some(mut seen)) = self else {
            return pending().await;
        };
        if seen.wait_for(|succeeded| *succeeded).await.is_err() {
            // Nobody waits for a successor any more.
            pending::<()>().await;
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn failed(path: &Path, source: io::Error) -> HandoverError {
    HandoverError::Socket {
        path: path.to_owned(),
        source,
    }
}

fn check_peer(socket: &Socket, path: &Path) -> Result<(), HandoverError> {
    let peer = rustix::net::sockopt::socket_peercred(socket);
    let peer = peer.map_err(|errno| failed(path, errno.into()))?;
    if peer.uid == rustix::process::geteuid() {
        Ok(())
    } else {
        Err(HandoverError::Foreign {
            path: path.to_owned(),
            uid: peer.uid.as_raw(),
        })
    }
}

fn set_patience(socket: &Socket) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

fn expect(socket: &Socket, expected: Message) -> io::Result<()> {
    match receive(socket)? {
        (message, _) if message == expected => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send(socket: &Socket, message: Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(&message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive(socket: &Socket) -> io::Result<(Message, Vec<OwnedFd>)> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let bytes = bytes.get(..received.bytes).unwrap_or_default();
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(bytes)?, fds))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_listener_passes_with_its_queue() {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let waiting = std::net::TcpStream::connect(addr).unwrap();
        send(&one, Message::Scope { cookie: 7 }, &[listener.as_fd()]).unwrap();
        drop(listener);
        let (message, mut fds) = receive(&other).unwrap();
        assert_eq!(message, Message::Scope { cookie: 7 });
        let passed = TcpListener::from(fds.pop().unwrap());
        let (_, client) = passed.accept().unwrap();
        assert_eq!(client, waiting.local_addr().unwrap());
        drop(one);
        let end = receive(&other).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn without_an_agent_there_is_nothing_to_inherit() {
        let folder = egress_lab::lab::scratch().unwrap();
        let path = folder.path().join("handover");
        assert!(Inherited::ask(&path).unwrap().is_none());
        let offer = Offer::bind(&path).unwrap();
        drop(offer);
        assert!(Inherited::ask(&path).unwrap().is_none(), "nobody listens");
    }
}
