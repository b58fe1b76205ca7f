//! Guards on the network devices by which packets leave captured namespaces.

use std::collections::HashMap as Registry;
use std::fmt;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use egress_common::Device;

use super::{CaptureError, error};
use crate::netns::{Netns, NetnsCookie};

mod devices;
mod filter;
mod hold;
mod pinned;
mod worker;

use devices::{Interface, Link as LinkLayer, interfaces};
use hold::Hold;
pub(super) use pinned::cleanup;
use worker::Worker;

/// A handle on the guards: which devices have one, and what puts them there. Cheap to clone.
#[derive(Clone)]
pub struct Guards {
    shared: Arc<Shared>,
}

struct Shared {
    /// Whether the kernel has tcx; the programs hang on clsact otherwise.
    tcx: bool,
    /// That there are programs.
    loaded: OnceLock<()>,
    /// Whoever changes guards. The kernel takes 10 to 25 ms for each, until no packet is on its way
    /// past it any more.
    work: Mutex<Work>,
    /// Which devices are guarded. Nobody holds this while a guard is put on or taken off.
    guarded: Mutex<Registry<NetnsCookie, Guarded>>,
}

/// What guards are made with.
struct Work {
    programs: Option<Programs>,
    devices: HashMap<MapData, Device, u64>,
    /// Given to the last filter, see [`Device::with_class`].
    class: u16,
    /// Where guards are pinned, if they are.
    pins: Option<PathBuf>,
}

/// By the link layer of the device.
struct Programs {
    ethernet: SchedClassifier,
    bare: SchedClassifier,
}

/// The guards of one namespace, by the index of their device.
struct Guarded {
    netns: Netns,
    guards: Registry<u32, Guard>,
}

impl Guarded {
    fn missing(&self, tcx: bool) -> Vec<String> {
        // Links can be asked from anywhere; filters, and what has become of devices, cannot.
        let mut guards = self.guards.iter();
        if tcx && guards.all(|(index, guard)| guard.hold.holds(*index)) {
            return Vec::new();
        }
        let asked = self.netns.on_thread(|| {
            let bare = |interface: &Interface| {
                let guard = self.guards.get(&interface.index);
                guard.is_some_and(|guard| !guard.hold.holds(interface.index))
            };
            let there = interfaces()?.into_iter();
            io::Result::Ok(there.filter(bare).map(|bare| bare.name).collect())
        });
        match asked {
            Ok(Ok(missing)) => missing,
            // What cannot be asked does not count as there.
            _ => self.guards.keys().map(u32::to_string).collect(),
        }
    }
}

/// A guard on one device.
struct Guard {
    device: Device,
    hold: Hold,
}

impl Guards {
    pub(super) fn new(devices: HashMap<MapData, Device, u64>, tcx: bool) -> Guards {
        let work = Work {
            programs: None,
            devices,
            class: 0,
            pins: None,
        };
        Guards {
            shared: Arc::new(Shared {
                tcx,
                loaded: OnceLock::new(),
                work: Mutex::new(work),
                guarded: Mutex::default(),
            }),
        }
    }

    /// Loads the programs, the first time.
    pub(super) fn load(&self, ebpf: &mut Ebpf) -> Result<(), CaptureError> {
        // Before that nobody is at work for long.
        if self.shared.loaded.get().is_none() {
            self.work().programs = Some(Programs::load(ebpf)?);
            self.shared.loaded.get_or_init(|| ());
        }
        Ok(())
    }

    /// Puts a guard on every way out of a captured network namespace: on each of its network
    /// devices but loopback that has none yet. What [`attach`](super::Capture::attach) cannot see
    /// is dropped there: frames of packet sockets, packets of sockets from outside of the cgroup,
    /// and forwarded ones. Gives the names of the devices that are guarded now. One that cannot be
    /// guarded keeps none of the others from it.
    ///
    /// It is for namespaces that belong to workloads alone: others in the namespace, which no
    /// cgroup exempts, are held to the same rules. Devices that are made later are not guarded
    /// until this is called again. The guards are taken away with the
    /// [scope](super::Capture::remove_scope), and when the capture is dropped, unless they are
    /// [pinned](super::Capture::pin). Before Linux 6.15 those of a process that is killed stay on
    /// their devices as they are, until the next process guards them or takes them away.
    ///
    /// It blocks for the time of a thread's life, and as long as the kernel takes for each device;
    /// not to be called on an async worker.
    ///
    /// # Errors
    /// Fails when the namespace has more than `most` devices, and nothing is done then; when it
    /// cannot be entered, the kernel refuses, or packets on a device begin with a header that is not
    /// known.
    pub fn guard(&self, netns: &Netns, most: usize) -> Result<Vec<String>, CaptureError> {
        let mut work = self.work();
        let mut worker = Worker {
            shared: &self.shared,
            work: &mut work,
        };
        netns.on_thread(|| worker.guard(netns, most))?
    }

    /// Takes the guards of a namespace away.
    ///
    /// It blocks as long as the kernel takes for each device; not to be called on an async worker.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn release(&self, cookie: NetnsCookie) -> Result<(), CaptureError> {
        let mut work = self.work();
        let mut worker = Worker {
            shared: &self.shared,
            work: &mut work,
        };
        let guarded = self.shared.guarded().remove(&cookie);
        let mut guards = guarded.map(|guarded| guarded.guards).unwrap_or_default();
        guards
            .drain()
            .try_for_each(|(index, guard)| worker.end(cookie, index, guard))
    }

    /// The devices that had a guard and have none any more, by the kernel's word. It does not wait
    /// for guards that are put on or taken off.
    pub(super) fn missing(&self) -> Vec<String> {
        let guarded = self.shared.guarded();
        let namespaces = guarded.values();
        namespaces
            .flat_map(|guarded| guarded.missing(self.shared.tcx))
            .collect()
    }

    /// Pins the guards, those that are there and those to come, in `dir` of a bpf file system, in
    /// place of those that an earlier process pinned there.
    pub(super) fn pin(&self, dir: &Path) -> Result<(), CaptureError> {
        let mut work = self.work();
        let mut pinned = Vec::new();
        for (cookie, guarded) in &mut *self.shared.guarded() {
            for (index, guard) in &mut guarded.guards {
                pinned.push(guard.hold.pin(dir, *cookie, *index)?);
            }
        }
        pinned::remove_others(dir, &pinned)?;
        work.pins = Some(dir.to_owned());
        Ok(())
    }

    /// Has every device guarded again, in place of whatever guards it now. What is pinned stays
    /// until then.
    pub(super) fn begin_anew(&self) {
        let before = mem::take(&mut *self.shared.guarded());
        drop(before);
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        let work = self.shared.work.lock();
        work.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn guarded(&self) -> MutexGuard<'_, Registry<NetnsCookie, Guarded>> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_guarded(&self, cookie: NetnsCookie, index: u32) -> bool {
        let guarded = self.guarded();
        let guard = guarded
            .get(&cookie)
            .and_then(|guarded| guarded.guards.get(&index));
        guard.is_some_and(|guard| guard.hold.holds(index))
    }

    /// What is to be ended of a namespace's guards.
    fn take(&self, cookie: NetnsCookie, mut which: impl FnMut(u32) -> bool) -> Vec<(u32, Guard)> {
        let mut guarded = self.guarded();
        let Some(guarded) = guarded.get_mut(&cookie) else {
            return Vec::new();
        };
        let taken = guarded.guards.extract_if(|index, _| which(*index));
        taken.collect()
    }
}

impl Programs {
    fn load(ebpf: &mut Ebpf) -> Result<Programs, CaptureError> {
        Ok(Programs {
            ethernet: load(ebpf, "egress_guard")?,
            bare: load(ebpf, "egress_guard_ip")?,
        })
    }

    fn of(&mut self, interface: &Interface) -> Result<&mut SchedClassifier, CaptureError> {
        match interface.link {
            LinkLayer::Unknown(kind) => Err(CaptureError::LinkLayer {
                device: interface.name.clone(),
                kind,
            }),
            LinkLayer::Ethernet => Ok(&mut self.ethernet),
            LinkLayer::Bare => Ok(&mut self.bare),
        }
    }
}

/// Loads a program, and gives a handle on it that needs nothing else of the object.
fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<SchedClassifier, CaptureError> {
    let failed = |error| error::load(name, error);
    let program = ebpf.program_mut(name);
    let program = program.ok_or(CaptureError::WrongObject { missing: name })?;
    let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    let info = program.info().map_err(failed)?;
    SchedClassifier::from_program_info(info, name.into()).map_err(failed)
}

/// How many devices of the calling thread's namespace [would be guarded](Guards::guard).
///
/// # Errors
/// Fails when the kernel does not tell.
pub fn count_interfaces() -> io::Result<usize> {
    Ok(interfaces()?.len())
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards")
            .field("tcx", &self.shared.tcx)
            .finish_non_exhaustive()
    }
}
