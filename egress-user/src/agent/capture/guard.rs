//! Guards on the network devices by which packets leave captured namespaces.

use std::collections::HashMap as Registry;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use egress_common::{Device, maps};
use tracing::warn;

use super::{CaptureError, error};
use crate::netns::{Netns, NetnsCookie, cookie_of_current};

mod devices;
mod filter;
mod hold;
mod pinned;

use devices::{Interface, Link as LinkLayer, interfaces};
use hold::Hold;
pub(super) use pinned::cleanup;

/// Which devices are guarded.
pub(super) struct Guards {
    devices: HashMap<MapData, Device, u64>,
    /// Whether the kernel has tcx; the programs hang on clsact otherwise.
    tcx: bool,
    /// Given to the last filter, see [`Device::with_class`].
    class: u16,
    guarded: Registry<NetnsCookie, Guarded>,
    /// Where guards are pinned, if they are.
    pins: Option<PathBuf>,
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
        Guards {
            devices,
            tcx,
            class: 0,
            guarded: Registry::new(),
            pins: None,
        }
    }

    /// Guards the devices of a namespace that are not guarded yet, and gives the names of all that
    /// are. One that cannot be guarded keeps none of the others from it.
    pub(super) fn guard(
        &mut self,
        ebpf: &mut Ebpf,
        netns: &Netns,
    ) -> Result<Vec<String>, CaptureError> {
        netns.on_thread(|| {
            let list = |source| CaptureError::Devices {
                netns: netns.path().to_owned(),
                source,
            };
            let cookie = cookie_of_current().map_err(list)?;
            let interfaces = interfaces().map_err(list)?;
            if let Entry::Vacant(entry) = self.guarded.entry(cookie) {
                entry.insert(Guarded {
                    netns: Netns::current()?,
                    guards: Registry::new(),
                });
            }
            self.forget_missing(cookie, &interfaces)?;
            let mut guarded = Vec::new();
            let mut failed = None;
            for interface in interfaces {
                match self.guard_one(ebpf, cookie, &interface) {
                    Ok(()) => guarded.push(interface.name),
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(guarded), Err)
        })?
    }

    /// Takes the guards of a namespace away.
    pub(super) fn release(&mut self, cookie: NetnsCookie) -> Result<(), CaptureError> {
        let guarded = self.guarded.remove(&cookie);
        for (index, guard) in guarded.map(|guarded| guarded.guards).unwrap_or_default() {
            self.end(cookie, index, guard)?;
        }
        Ok(())
    }

    /// The devices that had a guard and have none any more, by the kernel's word.
    pub(super) fn missing(&self) -> Vec<String> {
        let namespaces = self.guarded.values();
        namespaces
            .flat_map(|guarded| guarded.missing(self.tcx))
            .collect()
    }

    /// Pins the guards, those that are there and those to come, in `dir` of a bpf file system, in
    /// place of those that an earlier process pinned there.
    pub(super) fn pin(&mut self, dir: &Path) -> Result<(), CaptureError> {
        let mut pinned = Vec::new();
        for (cookie, guarded) in &mut self.guarded {
            for (index, guard) in &mut guarded.guards {
                pinned.push(guard.hold.pin(dir, *cookie, *index)?);
            }
        }
        pinned::remove_others(dir, &pinned)?;
        self.pins = Some(dir.to_owned());
        Ok(())
    }

    /// Has every device guarded again, in place of whatever guards it now. What is pinned stays
    /// until then.
    pub(super) fn begin_anew(&mut self) {
        self.guarded.clear();
    }

    fn guard_one(
        &mut self,
        ebpf: &mut Ebpf,
        cookie: NetnsCookie,
        interface: &Interface,
    ) -> Result<(), CaptureError> {
        if self.is_guarded(cookie, interface.index) {
            return Ok(());
        }
        self.forget_bare(cookie, interface)?;
        let program = program(ebpf, interface)?;
        let class = self.free_class();
        let device = if self.tcx {
            Device::with_index(interface.index)
        } else {
            Device::with_class(class)
        };
        // Before the program asks for it.
        self.devices
            .insert(device, cookie.get(), 0)
            .map_err(error::write(maps::DEVICES))?;
        match self.hold(program, interface, cookie, class) {
            Ok(hold) => {
                if let Some(guarded) = self.guarded.get_mut(&cookie) {
                    let guard = Guard { device, hold };
                    guarded.guards.insert(interface.index, guard);
                }
                Ok(())
            }
            Err(error) => {
                self.forget(cookie, interface.index, device)?;
                Err(error)
            }
        }
    }

    fn hold(
        &self,
        program: &mut SchedClassifier,
        interface: &Interface,
        cookie: NetnsCookie,
        class: u16,
    ) -> Result<Hold, CaptureError> {
        let hold = if self.tcx {
            Hold::by_tcx(program, interface.index)
        } else {
            Hold::by_clsact(program, &interface.name, class)
        };
        let mut hold = hold.map_err(|source| CaptureError::Guard {
            device: interface.name.clone(),
            source,
        })?;
        if let Some(dir) = &self.pins {
            hold.pin(dir, cookie, interface.index)?;
        }
        Ok(hold)
    }

    fn is_guarded(&self, cookie: NetnsCookie, index: u32) -> bool {
        let guarded = self.guarded.get(&cookie);
        let guard = guarded.and_then(|guarded| guarded.guards.get(&index));
        guard.is_some_and(|guard| guard.hold.holds(index))
    }

    /// Of a guard that somebody else took off.
    fn forget_bare(
        &mut self,
        cookie: NetnsCookie,
        interface: &Interface,
    ) -> Result<(), CaptureError> {
        let guarded = self.guarded.get_mut(&cookie);
        let bare = guarded.and_then(|guarded| guarded.guards.remove(&interface.index));
        let Some(bare) = bare else {
            return Ok(());
        };
        warn!(device = %interface.name, "somebody took the guard off a network device");
        self.end(cookie, interface.index, bare)
    }

    /// The index of a device that is gone may belong to another one soon.
    fn forget_missing(
        &mut self,
        cookie: NetnsCookie,
        interfaces: &[Interface],
    ) -> Result<(), CaptureError> {
        let Some(guarded) = self.guarded.get_mut(&cookie) else {
            return Ok(());
        };
        let gone: Vec<(u32, Guard)> = guarded
            .guards
            .extract_if(|index, _| interfaces.iter().all(|each| each.index != *index))
            .collect();
        gone.into_iter()
            .try_for_each(|(index, guard)| self.end(cookie, index, guard))
    }

    fn end(&mut self, cookie: NetnsCookie, index: u32, guard: Guard) -> Result<(), CaptureError> {
        guard.hold.end()?;
        self.forget(cookie, index, guard.device)
    }

    /// Devices of several namespaces may have one index: the entry may be another's by now, and
    /// another may need it.
    fn forget(
        &mut self,
        cookie: NetnsCookie,
        index: u32,
        device: Device,
    ) -> Result<(), CaptureError> {
        match self.devices.get(&device, 0) {
            Ok(owner) if owner == cookie.get() => {}
            _ => return Ok(()),
        }
        let mut others = self.guarded.iter().filter(|(other, _)| **other != cookie);
        let heir = others.find(|(_, guarded)| {
            let guard = guarded.guards.get(&index);
            guard.is_some_and(|guard| guard.device == device)
        });
        let told = match heir {
            Some((heir, _)) => self.devices.insert(device, heir.get(), 0),
            None => self.devices.remove(&device),
        };
        match told {
            Err(error) if !error::is_missing(&error) => Err(error::write(maps::DEVICES)(error)),
            _ => Ok(()),
        }
    }

    /// A class that no filter has. There are more of them than devices can be guarded.
    fn free_class(&mut self) -> u16 {
        for _ in 0..=u16::MAX {
            // 0 is none.
            self.class = self.class.checked_add(1).unwrap_or(1);
            if self
                .devices
                .get(&Device::with_class(self.class), 0)
                .is_err()
            {
                break;
            }
        }
        self.class
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards")
            .field("tcx", &self.tcx)
            .field("namespaces", &self.guarded.len())
            .finish_non_exhaustive()
    }
}

/// The program for a device, by its link layer, loaded.
fn program<'a>(
    ebpf: &'a mut Ebpf,
    interface: &Interface,
) -> Result<&'a mut SchedClassifier, CaptureError> {
    let name = match interface.link {
        LinkLayer::Unknown(kind) => {
            return Err(CaptureError::LinkLayer {
                device: interface.name.clone(),
                kind,
            });
        }
        LinkLayer::Ethernet => "egress_guard",
        LinkLayer::Bare => "egress_guard_ip",
    };
    let missing = CaptureError::WrongObject { missing: name };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    let program: &mut SchedClassifier = program
        .try_into()
        .map_err(|error| error::load(name, error))?;
    if program.fd().is_err() {
        program.load().map_err(|error| error::load(name, error))?;
    }
    Ok(program)
}
