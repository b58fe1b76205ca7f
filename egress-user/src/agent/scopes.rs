//! The captured network namespaces, added and removed while traffic flows.

mod earlier;
mod guarding;
mod shares;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::capture::{Capture, CaptureError, Fallback, Scope, count_interfaces};
use super::handover::Inherited;
use super::listener::{self, BoundScope};
use super::{Agent, Serving};
use crate::netns::{Netns, NetnsCookie, NetnsError, cookie_of_current, sockets_of_current};
use crate::record::Metrics;
pub use shares::Excess;
use shares::Shares;

/// How every namespace is captured.
#[derive(Clone, Debug)]
pub struct ScopeOptions {
    /// Ports that are redirected.
    pub ports: Vec<u16>,
    /// What happens to other ports, and to other protocols.
    pub other_ports: Fallback,
    /// Whether sockets that nothing redirects are refused, see [`Scope::strict`].
    pub strict: bool,
    /// What becomes of connections of namespaces that are not captured.
    pub unregistered: Fallback,
    /// The cgroups whose processes are captured.
    pub cgroups: Vec<PathBuf>,
    /// What becomes of connections from before.
    pub existing: ExistingAction,
    /// Descriptors that the namespaces may take.
    pub descriptors: u64,
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
    /// Its workload, or all together, would take too much.
    #[error("a network namespace of {owner} is not captured: {excess}")]
    Excess {
        /// The workload's cgroup, or the namespace's file where that was named.
        owner: String,
        /// What there is too much of.
        excess: Excess,
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
    shares: Shares,
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
    /// Whose it counts as.
    owner: String,
    /// Why it has no guard on its devices was said.
    unguarded: bool,
    /// That it has more devices than get a guard was said.
    overgrown: bool,
}

impl Scopes {
    /// An empty registry. Must be called on the async runtime.
    pub fn new(agent: Agent, capture: Arc<Mutex<Capture>>, options: ScopeOptions) -> Scopes {
        Scopes {
            agent,
            capture,
            shares: Shares::new(options.descriptors),
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

    /// Of a cgroup's directory the part that counts as one workload.
    pub fn owner_of(&self, cgroup: &Path) -> String {
        let cgroups = self.agent.directory().cgroups();
        let path = cgroup.to_string_lossy();
        let mount = cgroups.mount().to_string_lossy();
        match path.strip_prefix(&*mount) {
            Some(below) => cgroups.of_one_owner(below).to_owned(),
            None => path.into_owned(),
        }
    }

    /// Whether a namespace of this workload, of which so many could not be captured, would be
    /// [captured](Self::add) too.
    ///
    /// # Errors
    /// [`ScopeError::Excess`].
    pub fn has_room(&self, owner: &str, failed: usize) -> Result<(), ScopeError> {
        let room = self.shares.has_room(owner, failed);
        room.map_err(|excess| too_much(owner, excess))
    }

    /// Where it is counted what is captured.
    pub fn metrics(&self) -> &Metrics {
        self.agent.recorder().metrics()
    }

    /// Captures a namespace: first the listeners, then what leads to them, then the guard on its
    /// devices, unless it is one that others live in too. It counts as one of `owner`. Gives its
    /// inode. One that is captured already is left as it is.
    ///
    /// It blocks for the time of a thread's life; not to be called on a worker.
    ///
    /// # Errors
    /// Any [`ScopeError`]; nothing is captured then.
    pub fn add(&mut self, netns: Netns, owner: &str) -> Result<u64, ScopeError> {
        let inode = netns.inode().map_err(not_listening(&netns))?;
        if self.contains(inode) {
            return Ok(inode);
        }
        let is_shared = self.shared.contains(&inode);
        let looked = netns.on_thread(|| {
            let devices = if is_shared { 0 } else { count_interfaces()? };
            Ok((cookie_of_current()?, devices))
        })?;
        let (cookie, devices) = looked.map_err(not_listening(&netns))?;
        self.shares
            .take(inode, owner, devices)
            .map_err(|excess| too_much(owner, excess))?;
        let added = self.serve(netns, inode, cookie, owner);
        let added = added.and_then(|()| self.guard(inode));
        if let Err(error) = added {
            self.remove(inode)?;
            return Err(error);
        }
        if self.attached {
            self.settle_existing(inode);
        }
        Ok(inode)
    }

    fn serve(
        &mut self,
        netns: Netns,
        inode: u64,
        cookie: NetnsCookie,
        owner: &str,
    ) -> Result<(), ScopeError> {
        let failed = not_listening(&netns);
        let inherited = self.inherited.as_mut();
        let bound = match inherited.and_then(|inherited| inherited.listeners(cookie)) {
            Some(listeners) => BoundScope::inherited(cookie, listeners),
            None => netns.on_thread(listener::bind_here)?.map_err(&failed)?,
        };
        let scope = self.scope(&bound).map_err(&failed)?;
        let runtime = self.runtime.enter();
        let serving = self.agent.serve(bound).map_err(&failed)?;
        drop(runtime);
        self.kernel().add_scope(cookie, &scope)?;
        tracing::debug!(netns = %netns.path().display(), "captured a network namespace");
        let served = Served {
            cookie,
            netns,
            listeners: 1 + usize::from(scope.listen_v6.is_some()),
            _serving: serving,
            owner: owner.to_owned(),
            unguarded: false,
            overgrown: false,
        };
        self.serving.insert(inode, served);
        Ok(())
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
        let failed = not_listening(&served.netns);
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
        let Some(served) = self.serving.get(&inode) else {
            self.shares.leave(inode);
            return Ok(());
        };
        // Guards take their time, and the owner of the programs is not held for that.
        let guards = self.kernel().guards()?;
        guards.release(served.cookie)?;
        self.kernel().remove_scope(served.cookie)?;
        self.serving.remove(&inode);
        self.shares.leave(inode);
        tracing::info!(remaining = self.len(), "released a network namespace");
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

fn not_listening(netns: &Netns) -> impl Fn(io::Error) -> ScopeError + use<> {
    let path = netns.path().to_owned();
    move |source| ScopeError::Listen {
        path: path.clone(),
        source,
    }
}

fn too_much(owner: &str, excess: Excess) -> ScopeError {
    ScopeError::Excess {
        owner: owner.to_owned(),
        excess,
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
