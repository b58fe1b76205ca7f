//! The captured network namespaces, added and removed while traffic flows.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::capture::{Capture, CaptureError, Fallback, Scope};
use super::existing::{self, Existing};
use super::handover::Inherited;
use super::listener::{self, BoundScope};
use super::{Agent, Serving};
use crate::netns::{Netns, NetnsCookie, NetnsError, cookie_of_current, sockets_of_current};
use crate::record::ConnectedBefore;

/// How every namespace is captured.
#[derive(Clone, Debug)]
pub struct ScopeOptions {
    /// Ports that are redirected.
    pub ports: Vec<u16>,
    /// What happens to other ports, and to other protocols.
    pub other_ports: Fallback,
    /// Whether sockets that nothing redirects are refused, see [`Scope::strict`].
    pub strict: bool,
    /// The cgroups whose processes are captured.
    pub cgroups: Vec<PathBuf>,
    /// What becomes of connections from before.
    pub existing: ExistingAction,
}

/// What becomes of the connections that were there before the capture, and that would be redirected or
/// refused now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ExistingAction {
    /// They go on, and are on record.
    #[default]
    Keep,
    /// They are reset.
    Close,
}

/// Why a namespace cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// It cannot be opened or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// There is no loopback to listen on, most often because `lo` is down.
    #[error("cannot listen on loopback in {}; is `lo` up there?", path.display())]
    Listen {
        /// The namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel programs cannot be told.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// The registry: which namespaces are served, by inode.
pub struct Scopes {
    agent: Agent,
    capture: Arc<Mutex<Capture>>,
    options: ScopeOptions,
    runtime: Handle,
    serving: HashMap<u64, Served>,
    /// Namespaces that others live in as well, by inode.
    shared: HashSet<u64>,
    inherited: Option<Inherited>,
    /// Whether the programs are attached: what connects later is judged.
    attached: bool,
}

/// One namespace that is served.
struct Served {
    cookie: NetnsCookie,
    netns: Netns,
    /// How many sockets in it are the agent's for as long as it is served.
    listeners: usize,
    _serving: Serving,
    /// Why it has no guard on its devices was said.
    unguarded: bool,
}

impl Scopes {
    /// An empty registry. Must be called on the async runtime.
    pub fn new(agent: Agent, capture: Arc<Mutex<Capture>>, options: ScopeOptions) -> Scopes {
        Scopes {
            agent,
            capture,
            options,
            runtime: Handle::current(),
            serving: HashMap::new(),
            shared: shared(),
            inherited: None,
            attached: false,
        }
    }

    /// Serves the listeners of a predecessor where there are some.
    pub fn inheriting(mut self, inherited: Option<Inherited>) -> Scopes {
        self.inherited = inherited;
        self
    }

    /// What was inherited and nobody asked for.
    pub fn take_inherited(&mut self) -> Option<Inherited> {
        self.inherited.take()
    }

    /// How many namespaces are served.
    pub fn len(&self) -> usize {
        self.serving.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.serving.is_empty()
    }

    /// The inodes of the namespaces that are served.
    pub fn inodes(&self) -> Vec<u64> {
        self.serving.keys().copied().collect()
    }

    /// Whether the namespace with this inode is served.
    pub fn contains(&self, inode: u64) -> bool {
        self.serving.contains_key(&inode)
    }

    /// Captures a namespace: first the listeners, then what leads to them, then the guard on its
    /// devices, unless it is one that others live in too. Gives its inode. One that is captured
    /// already is left as it is.
    ///
    /// It blocks for the time of a thread's life; not to be called on a worker.
    ///
    /// # Errors
    /// Any [`ScopeError`]; nothing is captured then.
    pub fn add(&mut self, netns: Netns) -> Result<u64, ScopeError> {
        let path = netns.path().to_owned();
        let failed = |source| ScopeError::Listen {
            path: path.clone(),
            source,
        };
        let inode = netns.inode().map_err(failed)?;
        if self.contains(inode) {
            return Ok(inode);
        }
        let cookie = netns.on_thread(cookie_of_current)?.map_err(failed)?;
        let inherited = self.inherited.as_mut();
        let bound = match inherited.and_then(|inherited| inherited.listeners(cookie)) {
            Some(listeners) => BoundScope::inherited(cookie, listeners),
            None => netns.on_thread(listener::bind_here)?.map_err(failed)?,
        };
        let scope = self.scope(&bound).map_err(failed)?;
        let runtime = self.runtime.enter();
        let serving = self.agent.serve(bound).map_err(failed)?;
        drop(runtime);
        self.kernel().add_scope(cookie, &scope)?;
        let served = Served {
            cookie,
            netns,
            listeners: 1 + usize::from(scope.listen_v6.is_some()),
            _serving: serving,
            unguarded: false,
        };
        self.serving.insert(inode, served);
        if let Err(error) = self.guard(inode) {
            self.remove(inode)?;
            return Err(error.into());
        }
        tracing::debug!(netns = %path.display(), "captured a network namespace");
        if self.attached {
            self.settle_existing(inode);
        }
        Ok(inode)
    }

    /// The programs are attached from now on. What was connected before is recorded, and ended
    /// where that is wanted, as it will be in namespaces that are added later.
    ///
    /// It blocks for the time of a thread's life; not to be called on a worker.
    pub fn attached(&mut self) {
        self.attached = true;
        for inode in self.inodes() {
            self.settle_existing(inode);
        }
    }

    fn settle_existing(&self, inode: u64) {
        let Some(served) = self.serving.get(&inode) else {
            return;
        };
        let listed = served
            .netns
            .on_thread(|| existing::made_here(&self.options.ports))
            .map_err(anyhow::Error::new)
            .and_then(|listed| Ok(listed?));
        let listed = listed.unwrap_or_else(|error| {
            tracing::warn!("connections from before the capture cannot be listed: {error:#}");
            Vec::new()
        });
        for found in listed {
            let (cgroup, to) = (found.cgroup, found.original_dst);
            let passes = self.kernel().lets_pass(served.cookie, cgroup, to);
            if !passes && self.is_captured(&found, inode) {
                self.settle(&found, &served.netns);
            }
        }
    }

    /// In a namespace that others live in too, only what is known to be of the cgroup.
    fn is_captured(&self, found: &Existing, inode: u64) -> bool {
        match found.cgroup {
            Some(id) => {
                let known = self.agent.directory().cgroups();
                let mut captured = self.options.cgroups.iter();
                captured.any(|cgroup| known.is_below(id, cgroup))
            }
            None => !self.shared.contains(&inode),
        }
    }

    fn settle(&self, found: &Existing, netns: &Netns) {
        let ended = match self.options.existing {
            ExistingAction::Keep => false,
            ExistingAction::Close => {
                let ended = netns
                    .on_thread(|| existing::end(found))
                    .map_err(anyhow::Error::new)
                    .and_then(|ended| Ok(ended?));
                if let Err(error) = &ended {
                    tracing::warn!("a connection from before the capture goes on: {error:#}");
                }
                ended.is_ok()
            }
        };
        let directory = self.agent.directory();
        self.agent.recorder().connected_before(ConnectedBefore {
            client: found.client,
            original_dst: found.original_dst,
            workload: directory.workload(found.cgroup, Some(found.uid)),
            ended,
        });
    }

    /// Guards the devices of a namespace that have come since they were last guarded; not those of
    /// a namespace that others live in too.
    ///
    /// It blocks for the time of a thread's life; not to be called on a worker.
    ///
    /// # Errors
    /// When a strict namespace has a device that cannot be guarded. Elsewhere that is said once,
    /// and the rest of the capture stands.
    pub fn guard(&mut self, inode: u64) -> Result<(), CaptureError> {
        if self.shared.contains(&inode) {
            return Ok(());
        }
        let Some(served) = self.serving.get_mut(&inode) else {
            return Ok(());
        };
        let mut capture = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        match capture.guard_interfaces(&served.netns) {
            Ok(_) => served.unguarded = false,
            Err(error) if self.options.strict => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut served.unguarded, true) {
                    let error = anyhow::Error::new(error);
                    tracing::warn!("what packet sockets send is not stopped: {error:#}");
                }
            }
        }
        Ok(())
    }

    /// See [`Capture::follow_cgroups`].
    ///
    /// # Errors
    /// As there.
    pub fn follow_cgroups(&self) -> Result<Vec<PathBuf>, CaptureError> {
        self.kernel().follow_cgroups()
    }

    /// The cgroups whose processes are captured.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.options.cgroups
    }

    /// Whether somebody has sockets in a namespace, other than the agent its listeners. Processes can
    /// leave a namespace and keep their sockets, which still connect from there.
    ///
    /// It blocks for the time of a thread's life; not to be called on a worker.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn has_sockets(&self, inode: u64) -> Result<bool, ScopeError> {
        let Some(served) = self.serving.get(&inode) else {
            return Ok(false);
        };
        let failed = |source| ScopeError::Listen {
            path: served.netns.path().to_owned(),
            source,
        };
        let count = served
            .netns
            .on_thread(sockets_of_current)?
            .map_err(failed)?;
        Ok(count > served.listeners)
    }

    /// Ends the capture of a namespace: it is unregistered from now on, and its
    /// listeners, which had kept it alive, are closed.
    ///
    /// # Errors
    /// When the kernel programs cannot be told; the namespace stays captured.
    pub fn remove(&mut self, inode: u64) -> Result<(), CaptureError> {
        if let Some(served) = self.serving.get(&inode) {
            self.kernel().remove_scope(served.cookie)?;
            self.serving.remove(&inode);
            tracing::info!(remaining = self.len(), "released a network namespace");
        }
        Ok(())
    }

    fn scope(&self, bound: &BoundScope) -> io::Result<Scope> {
        Ok(Scope {
            listen_v4: bound.v4_port()?,
            listen_v6: bound.v6_port()?,
            ports: self.options.ports.clone(),
            other_ports: self.options.other_ports,
            strict: self.options.strict,
        })
    }

    fn kernel(&self) -> std::sync::MutexGuard<'_, Capture> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent's own namespace and the machine's: a guard would judge what belongs to no workload.
fn shared() -> HashSet<u64> {
    let inode = |path: &str| std::fs::metadata(path).map(|metadata| metadata.ino());
    ["/proc/self/ns/net", "/proc/1/ns/net"]
        .into_iter()
        .filter_map(|path| inode(path).ok())
        .collect()
}
