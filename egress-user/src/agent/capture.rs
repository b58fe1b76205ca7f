//! The kernel programs, loaded: the only room that knows aya. One owner, typed verbs; nobody else
//! touches a map.
//!
//! Everything dies with the process, also when it is killed, unless it was [pinned](Capture::pin)
//! or attached [to stay](Capture::attach_to_stay).

mod cgroups;
mod counters;
mod error;
mod events;
mod features;
mod flows;
mod guard;
mod heartbeat;
mod kernel_types;
mod link;
mod memory;
mod pins;
mod programs;

use std::io;
use std::mem;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::{EbpfLogger, Level};
use egress_common::{
    Addr, Attempt, EXEMPT_CGROUPS, Form, Port, Protocol, ScopeConfig, Settings, Verdict, decide,
    maps,
};
use ipnet::IpNet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

pub use cgroups::check_cgroup;
pub use counters::Counters;
pub use egress_common::{Fallback, PrefixAction, PrefixRule};
pub use error::CaptureError;
pub use events::{EventStream, Events, KernelEvent};
pub use flows::{Claim, FlowRecord, Flows};
pub use guard::{Guards, count_interfaces};
pub use heartbeat::Heartbeat;
pub use pins::{check_pins, cleanup};
pub use programs::UNASKED;

use cgroups::Captured;
use kernel_types::Members;
use link::Link;

use crate::addr::OriginalDst;
use crate::netns::{Netns, NetnsCookie};

/// The kernel programs; empty where they were not built.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf.o"));

/// What holds for every namespace, as long as the programs are loaded.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// What becomes of connections of namespaces that have no scope.
    pub unregistered: Fallback,
    /// Id of a cgroup that is never captured: the agent's own.
    pub exempt_cgroup: Option<u64>,
    /// Name servers that captured processes may ask where other ports are refused.
    pub resolvers: Vec<IpAddr>,
    /// How long this process may be silent, see [`Heartbeat::beat`]; no limit when absent.
    pub heartbeat: Option<Duration>,
    /// Where an earlier process [pinned](Capture::pin) what its programs remember of sockets, and
    /// this one will. Sockets outlive processes: without, those of before are forgotten.
    pub pins: Option<PathBuf>,
    /// Whether the kernel is to ask the programs at its security hooks too, where it
    /// [does](Capture::security_hooks).
    pub security_hooks: bool,
    /// Whether the programs log what they redirect and refuse; it costs some time on each.
    pub log: bool,
}

/// How one network namespace is captured.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Port of the agent's listener on the namespace's `127.0.0.1`.
    pub listen_v4: u16,
    /// Port of the agent's listener on the namespace's `::1`, if it has one. Without, IPv6
    /// connections go to the IPv4 listener, and sockets that insist on IPv6 fail.
    pub listen_v6: Option<u16>,
    /// The captured ports: TCP to them is redirected, UDP refused.
    pub ports: Vec<u16>,
    /// What becomes of TCP and UDP to other ports, and of other protocols. Where they are refused,
    /// names can still be resolved at [`CaptureOptions::resolvers`].
    pub other_ports: Fallback,
    /// Whether sockets whose packets nothing redirects are not even made: raw ones, those of
    /// other protocols than TCP, UDP and ping, and those of other families than Unix, IP, netlink
    /// and the kernel's cryptography. Not every kernel [asks](Capture::security_hooks) about these; what packet sockets send ends at
    /// the guard of the [interfaces](Capture::guard_interfaces).
    pub strict: bool,
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Capture {
    ebpf: Ebpf,
    /// Each with the name of its pin.
    links: Vec<(String, Link)>,
    cgroups: Vec<Captured>,
    /// Where the links are pinned, if they are.
    pinned: Option<PathBuf>,
    scopes: HashMap<MapData, u64, ScopeConfig>,
    prefixes: LpmTrie<MapData, Addr, PrefixRule>,
    flows: Flows,
    counters: Counters,
    events: Option<Events>,
    guards: Guards,
    settings: Settings,
    heartbeat: Heartbeat,
    /// Why the kernel does not ask at its security hooks, if it does not.
    security: Result<(), String>,
}

impl Capture {
    /// Loads the programs into the kernel. They do nothing until they are
    /// [attached](Self::attach).
    ///
    /// # Errors
    /// Fails when this binary has no programs, the kernel is too old, this process lacks a
    /// capability, or the kernel rejects a map or a program.
    pub fn load(options: &CaptureOptions) -> Result<Capture, CaptureError> {
        if OBJECT.is_empty() {
            return Err(CaptureError::NotBuilt);
        }
        error::check_kernel()?;
        error::check_capabilities()?;

        // Where packets tell their namespace, there is tcx too.
        let tcx = features::packet_netns();
        let hooks = match options.security_hooks {
            true => features::security_hooks(),
            false => Err("they are not wanted".to_owned()),
        };
        let members = hooks.as_ref().map(|hooks| hooks.members);
        let mut ebpf = load_object(options, tcx, members.unwrap_or_default())?;
        let settings = settings(options)?;
        let limit = options.heartbeat.unwrap_or_default();
        write_settings(&mut ebpf, heartbeat::beating(settings, limit))?;
        programs::load(&mut ebpf)?;
        let security = hooks.and_then(|hooks| programs::load_security(&mut ebpf, &hooks));
        Ok(Capture {
            scopes: take(&mut ebpf, maps::SCOPES)?,
            prefixes: take(&mut ebpf, maps::PREFIXES)?,
            flows: Flows::new(take_map(&mut ebpf, maps::FLOWS)?)?,
            counters: Counters::new(take(&mut ebpf, maps::COUNTERS)?),
            events: Some(Events::new(take(&mut ebpf, maps::EVENTS)?)),
            guards: Guards::new(take(&mut ebpf, maps::DEVICES)?, tcx),
            settings,
            heartbeat: Heartbeat::new(take(&mut ebpf, maps::SETTINGS)?, settings, limit),
            security,
            links: Vec::new(),
            cgroups: Vec::new(),
            pinned: None,
            ebpf,
        })
    }

    /// Captures a network namespace, or changes how it is captured.
    ///
    /// # Errors
    /// Fails when there are too many ports or namespaces.
    pub fn add_scope(&mut self, netns: NetnsCookie, scope: &Scope) -> Result<(), CaptureError> {
        let listen_v6 = scope.listen_v6.map_or(Port::NONE, Port::from_host);
        let config = ScopeConfig::new(Port::from_host(scope.listen_v4), listen_v6)
            .with_ports(&scope.ports)?
            .with_other_ports(scope.other_ports)
            .with_strict(scope.strict);
        self.scopes
            .insert(netns.get(), config, 0)
            .map_err(error::write(maps::SCOPES))
    }

    /// Whether the kernel asks the programs at its security hooks: about sockets of every family, and
    /// about options however they are set. Where it does not, a strict scope makes
    /// [packet sockets](Scope::strict), and 32-bit system calls set any option.
    ///
    /// # Errors
    /// Says why it does not.
    pub fn security_hooks(&self) -> Result<(), &str> {
        let unasked = self.cgroups.iter().any(Captured::is_unasked);
        match &self.security {
            Ok(()) if unasked => Err("the kernel cannot be had to ask about a cgroup"),
            Ok(()) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// A handle by which this process says that it lives.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// A handle by which guards are put on devices and taken off: that takes its time, which those
    /// who need this owner should not wait for.
    ///
    /// # Errors
    /// Fails when the kernel rejects the programs.
    pub fn guards(&mut self) -> Result<Guards, CaptureError> {
        self.guards.load(&mut self.ebpf)?;
        Ok(self.guards.clone())
    }

    /// As [`Guards::guard`], however many devices there are.
    ///
    /// # Errors
    /// As there.
    pub fn guard_interfaces(&mut self, netns: &Netns) -> Result<Vec<String>, CaptureError> {
        self.guards()?.guard(netns, usize::MAX)
    }

    /// Ends the capture of a network namespace: it is unregistered from now on.
    ///
    /// # Errors
    /// Fails when the kernel refuses; a namespace that has no scope is no error.
    pub fn remove_scope(&mut self, netns: NetnsCookie) -> Result<(), CaptureError> {
        // First: without a scope, a guard would let through nothing, or all.
        self.guards.release(netns)?;
        match self.scopes.remove(&netns.get()) {
            Err(error) if !error::is_missing(&error) => Err(error::write(maps::SCOPES)(error)),
            _ => Ok(()),
        }
    }

    /// Says what becomes of connections of captured namespaces into a destination prefix; the
    /// longest prefix decides.
    ///
    /// # Errors
    /// Fails when there are too many prefixes.
    pub fn set_prefix(&mut self, prefix: IpNet, rule: PrefixRule) -> Result<(), CaptureError> {
        self.prefixes
            .insert(&prefix_key(prefix), rule, 0)
            .map_err(error::write(maps::PREFIXES))
    }

    /// Takes back what [`set_prefix`](Self::set_prefix) said.
    ///
    /// # Errors
    /// Fails when the kernel refuses; a prefix of which nothing was said is no error.
    pub fn clear_prefix(&mut self, prefix: IpNet) -> Result<(), CaptureError> {
        match self.prefixes.remove(&prefix_key(prefix)) {
            Err(error) if !error::is_missing(&error) => Err(error::write(maps::PREFIXES)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a TCP connection that a process of a namespace made now would go where it is meant to,
    /// past the agent.
    pub fn lets_pass(&self, netns: NetnsCookie, cgroup: Option<u64>, to: OriginalDst) -> bool {
        let attempt = Attempt {
            cgroup: cgroup.unwrap_or_default(),
            protocol: Protocol::Tcp,
            form: Form::V6,
            dst: Addr::from(to.ip()),
            port: Port::from_host(to.port()),
            bound: false,
            now: 0,
        };
        let scope = self.scopes.get(&netns.get(), 0).ok();
        let rule = self.prefixes.get(&lpm_trie::Key::new(128, attempt.dst), 0);
        let prefix = rule.ok().map(|rule| rule.action(attempt.port));
        let verdict = decide(&self.settings, scope.as_ref(), prefix, &attempt);
        matches!(verdict, Verdict::Pass(_))
    }

    /// A handle on the records of redirected connections.
    pub fn flows(&self) -> Flows {
        self.flows.clone()
    }

    /// A handle on the counters.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// What the programs tell of refusals and attempts to get round the capture. There is one
    /// reader: who asks again gets nothing.
    pub fn events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// Starts a task that passes on what the programs log, as long as the runtime lives. It goes
    /// through the `log` crate's logger, which tracing-subscriber installs with itself.
    ///
    /// # Errors
    /// Fails when called twice, or outside of a runtime.
    pub fn start_log(&mut self) -> Result<(), CaptureError> {
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(CaptureError::Log)?;
        // SAFETY: the logger owns its descriptor and keeps it as long as it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = logger
            .map_err(io::Error::from)
            .map_err(|error| CaptureError::Log(aya::maps::MapError::from(error).into()))?;
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(())
    }

    /// Pins every link in the directory `dir` of a bpf file system, and the guards of interfaces
    /// too, those to come included: the programs stay attached when this process ends, and captured
    /// connections that nobody listens for are refused. What the programs remember of sockets is
    /// pinned for a [successor](CaptureOptions::pins).
    ///
    /// Links that an earlier process pinned there are replaced, after this one's programs were
    /// attached, so that there is no moment without programs: while both are, an address that the
    /// first rewrote is loopback for the second and passes.
    ///
    /// # Errors
    /// Fails when `dir` is not on a bpf file system or the kernel refuses. This process's programs
    /// are detached then; earlier pins that were not replaced yet stay.
    pub fn pin(&mut self, dir: &Path) -> Result<(), CaptureError> {
        self.pin_links(dir)?;
        self.guards.pin(dir)
    }

    fn pin_links(&mut self, dir: &Path) -> Result<(), CaptureError> {
        // Only the pins hold the links from now on, so that a successor that replaces them ends
        // them, while this process goes on serving what it has accepted.
        let memories = memory::descriptors(&self.ebpf)?;
        drop(pins::replace(dir, &memories, mem::take(&mut self.links))?);
        self.pinned = Some(dir.to_owned());
        Ok(())
    }
}

fn load_object(
    options: &CaptureOptions,
    packet_netns: bool,
    members: Members,
) -> Result<Ebpf, CaptureError> {
    let log_level = if options.log { Level::Debug as u8 } else { 0 };
    let mptcp_sock = u8::from(features::mptcp_sock());
    let packet_netns = u8::from(packet_netns);
    let mut loader = EbpfLoader::new();
    loader
        .override_global(aya_log::LEVEL, &log_level, true)
        .override_global(maps::MPTCP_SOCK, &mptcp_sock, true)
        .override_global(maps::PACKET_NETNS, &packet_netns, true)
        .override_global(maps::MEMBERS, &members, true);
    if let Some(dir) = &options.pins {
        memory::inherit(&mut loader, dir);
    }
    loader.load(OBJECT).map_err(error::object)
}

fn settings(options: &CaptureOptions) -> Result<Settings, CaptureError> {
    let mut exempt = [0; EXEMPT_CGROUPS];
    for (slot, cgroup) in exempt.iter_mut().zip(options.exempt_cgroup) {
        *slot = cgroup;
    }
    let resolvers: Vec<Addr> = options.resolvers.iter().copied().map(Addr::from).collect();
    Ok(Settings::new(exempt, options.unregistered).with_resolvers(&resolvers)?)
}

fn write_settings(ebpf: &mut Ebpf, settings: Settings) -> Result<(), CaptureError> {
    // Borrowed, not taken: a map that is dropped before the programs are loaded is gone.
    let missing = CaptureError::WrongObject {
        missing: maps::SETTINGS,
    };
    let Some(map) = ebpf.map_mut(maps::SETTINGS) else {
        return Err(missing);
    };
    let mut map: Array<_, Settings> = map.try_into().map_err(|_| missing)?;
    map.set(0, settings, 0)
        .map_err(error::write(maps::SETTINGS))
}

fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, CaptureError> {
    ebpf.take_map(name)
        .ok_or(CaptureError::WrongObject { missing: name })
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, CaptureError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    M::try_from(take_map(ebpf, name)?).map_err(|error| {
        debug!(map = name, %error, "the embedded kernel programs do not fit this binary");
        CaptureError::WrongObject { missing: name }
    })
}

/// IPv4 prefixes lie in `::ffff:0:0/96`.
fn prefix_key(prefix: IpNet) -> lpm_trie::Key<Addr> {
    let len = match prefix {
        IpNet::V4(v4) => 96 + u32::from(v4.prefix_len()),
        IpNet::V6(v6) => u32::from(v6.prefix_len()),
    };
    lpm_trie::Key::new(len, Addr::from(prefix.network()))
}
