//! A capture that is there for the test alone, with a listener that notes what comes and closes it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::addr::{ClientAddr, OriginalDst};
use crate::agent::capture::{Capture, CaptureOptions, Claim, Fallback, Flows, Heartbeat, Scope};
use crate::cgroup::Cgroup;
use crate::netns::{Listeners, Netns, NetnsCookie, cookie_of_current, listen_on_loopback};

use super::attempt::CAPTURED;

/// How long the programs believe that we live.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How often the threads look whether they are to end.
const TICK: Duration = Duration::from_millis(100);

/// A connection that a process believes to have takes no longer to be accepted.
const PATIENCE: Duration = Duration::from_secs(5);

const BACKLOG: i32 = 64;

/// What came to the listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// A connection that was redirected, and where it was meant to go.
    Redirected(OriginalDst),
    /// One that was not.
    Nobodys,
}

/// The capture. It ends when this is dropped.
pub(super) struct Own {
    _capture: Capture,
    port: u16,
    arrivals: Receiver<Arrival>,
    listening: Task,
    beating: Task,
}

/// A thread that is told when to end.
struct Task {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Own {
    /// Captures what is in the cgroup and namespace, as closed as it can be but for strictness:
    /// sockets that are not made prove nothing.
    pub(super) fn start(cgroup: &Cgroup, netns: &Netns) -> anyhow::Result<Own> {
        let mut capture = Capture::load(&CaptureOptions {
            unregistered: Fallback::Refuse,
            exempt_cgroup: None,
            resolvers: Vec::new(),
            heartbeat: Some(HEARTBEAT),
            pins: None,
            security_hooks: true,
            log: false,
        })?;
        let bound = netns.on_thread(|| Ok((cookie_of_current()?, listen_on_loopback(BACKLOG)?)))?;
        let (cookie, listeners): (NetnsCookie, Listeners) = bound
            .map_err(|error: io::Error| error)
            .context("cannot listen on loopback")?;
        let port = listeners.v4.local_addr()?.port();
        let v6 = listeners.v6.as_ref().map(TcpListener::local_addr);
        capture.add_scope(
            cookie,
            &Scope {
                listen_v4: port,
                listen_v6: v6.transpose()?.map(|addr| addr.port()),
                ports: vec![CAPTURED],
                other_ports: Fallback::Refuse,
                strict: false,
            },
        )?;
        capture.guard_interfaces(netns)?;
        let (sender, arrivals) = channel();
        let flows = capture.flows();
        let listening = Task::start(move |stop| listen(&listeners, cookie, &flows, &sender, stop))?;
        let heartbeat = capture.heartbeat();
        let beating = Task::start(move |stop| beat(&heartbeat, stop))?;
        capture.attach(cgroup.path())?;
        Ok(Own {
            _capture: capture,
            port,
            arrivals,
            listening,
            beating,
        })
    }

    /// The port of the listener on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What has come since the last time. Waits for what is wanted, if it does not come too late.
    pub(super) fn arrived(&self, wanted: Option<Arrival>) -> Vec<Arrival> {
        let mut arrived: Vec<Arrival> = self.arrivals.try_iter().collect();
        let deadline = Instant::now() + PATIENCE;
        while wanted.is_some_and(|wanted| !arrived.contains(&wanted)) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left) {
                Ok(arrival) => arrived.push(arrival),
                Err(_) => break,
            }
        }
        arrived
    }

    /// Listens no longer, as an agent that is dead.
    pub(super) fn close_listeners(&self) {
        self.listening.end();
    }

    /// Says no longer that it lives, and waits until that is not believed any more.
    pub(super) fn fall_silent(&self) {
        self.beating.end();
        thread::sleep(HEARTBEAT + TICK);
    }
}

impl Task {
    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<Task> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::Builder::new().spawn(move || work(&told))?;
        Ok(Task {
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread of the self-test ended early");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

fn beat(heartbeat: &Heartbeat, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = heartbeat.beat() {
            tracing::warn!(%error, "the kernel cannot be told that the self-test lives");
        }
        thread::sleep(TICK);
    }
}

fn listen(
    listeners: &Listeners,
    cookie: NetnsCookie,
    flows: &Flows,
    arrivals: &Sender<Arrival>,
    stop: &AtomicBool,
) {
    let listeners: Vec<&TcpListener> = [Some(&listeners.v4), listeners.v6.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    while !stop.load(Ordering::Relaxed) {
        let fds = listeners
            .iter()
            .map(|each| PollFd::from_borrowed_fd(each.as_fd(), PollFlags::IN));
        let timeout = Timespec::try_from(TICK).ok();
        // Interrupted or not, the listeners are asked.
        let _ = poll(&mut fds.collect::<Vec<_>>(), timeout.as_ref());
        for listener in &listeners {
            // They do not block; an error is nobody.
            while let Ok((socket, client)) = listener.accept() {
                let arrival = arrival(flows, cookie, client, &socket);
                // The receiver is gone when the test is over.
                let _ = arrivals.send(arrival);
            }
        }
    }
}

fn arrival(
    flows: &Flows,
    cookie: NetnsCookie,
    client: SocketAddr,
    socket: &std::net::TcpStream,
) -> Arrival {
    match flows.claim(cookie, ClientAddr::new(client), socket) {
        Claim::Redirected(flow) => Arrival::Redirected(flow.original_dst),
        Claim::Dead | Claim::Unknown => Arrival::Nobodys,
    }
}
