//! Guards on the network devices by which packets leave captured namespaces.

use std::collections::HashMap as Registry;
use std::fmt;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{SchedClassifier, TcAttachType};
use egress_common::{Device, maps};

use super::link::Link;
use super::{CaptureError, error};
use crate::netns::{Netns, NetnsCookie, cookie_of_current};

mod devices;

use devices::{Interface, Link as LinkLayer, interfaces};

/// Which devices are guarded.
pub(super) struct Guards {
    devices: HashMap<MapData, Device, u64>,
    /// Whether the kernel has tcx; the programs hang on clsact otherwise.
    tcx: bool,
    /// Given to the last filter, see [`Device::with_class`].
    class: u16,
    guarded: Registry<NetnsCookie, Guarded>,
}

/// The guards of one namespace, by the index of their device.
#[derive(Default)]
struct Guarded {
    guards: Registry<u32, Guard>,
}

/// A guard on one device.
struct Guard {
    device: Device,
    _hold: Hold,
}

/// What keeps a program on its device.
enum Hold {
    Tcx {
        _link: Link,
    },
    /// It is taken off in the namespace of the device, which this handle keeps.
    Clsact {
        filter: Option<SchedClassifierLink>,
        netns: Netns,
    },
}

impl Guards {
    pub(super) fn new(devices: HashMap<MapData, Device, u64>, tcx: bool) -> Guards {
        Guards {
            devices,
            tcx,
            class: 0,
            guarded: Registry::new(),
        }
    }

    /// Guards the devices of a namespace that are not guarded yet, and gives the names of all that
    /// are.
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
            self.forget_missing(cookie, &interfaces)?;
            for interface in &interfaces {
                self.guard_one(ebpf, cookie, interface)?;
            }
            Ok(interfaces.into_iter().map(|each| each.name).collect())
        })?
    }

    /// Takes the guards of a namespace away.
    pub(super) fn release(&mut self, cookie: NetnsCookie) -> Result<(), CaptureError> {
        let guarded = self.guarded.remove(&cookie).unwrap_or_default();
        for guard in guarded.guards.into_values() {
            self.forget(cookie, guard.device)?;
        }
        Ok(())
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
        let program = program(ebpf, interface.link)?;
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
        let hold = if self.tcx {
            hold_by_tcx(program, interface.index)
        } else {
            hold_by_clsact(program, &interface.name, class)
        };
        match hold {
            Ok(hold) => {
                let guarded = self.guarded.entry(cookie).or_default();
                let guard = Guard {
                    device,
                    _hold: hold,
                };
                guarded.guards.insert(interface.index, guard);
                Ok(())
            }
            Err(source) => {
                self.forget(cookie, device)?;
                Err(CaptureError::Guard {
                    device: interface.name.clone(),
                    source,
                })
            }
        }
    }

    fn is_guarded(&self, cookie: NetnsCookie, index: u32) -> bool {
        let guarded = self.guarded.get(&cookie);
        guarded.is_some_and(|guarded| guarded.guards.contains_key(&index))
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
        let gone: Vec<Guard> = guarded
            .guards
            .extract_if(|index, _| interfaces.iter().all(|each| each.index != *index))
            .map(|(_, guard)| guard)
            .collect();
        gone.into_iter()
            .try_for_each(|guard| self.forget(cookie, guard.device))
    }

    /// Devices of several namespaces may have one index; the entry may be another's by now.
    fn forget(&mut self, cookie: NetnsCookie, device: Device) -> Result<(), CaptureError> {
        match self.devices.get(&device, 0) {
            Ok(owner) if owner == cookie.get() => {}
            _ => return Ok(()),
        }
        match self.devices.remove(&device) {
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

impl Drop for Hold {
    fn drop(&mut self) {
        match self {
            Hold::Tcx { .. } => {}
            Hold::Clsact { filter, netns } => {
                let filter = filter.take();
                // Where the namespace cannot be entered any more there is nothing to take off.
                let _taken_off = netns.on_thread(|| drop(filter));
            }
        }
    }
}

/// The program for the devices of a link layer, loaded.
fn program(ebpf: &mut Ebpf, link: LinkLayer) -> Result<&mut SchedClassifier, CaptureError> {
    let name = match link {
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

fn hold_by_tcx(
    program: &SchedClassifier,
    index: u32,
) -> Result<Hold, Box<dyn std::error::Error + Send + Sync>> {
    let link = Link::to_device(program.fd()?.as_fd(), index)?;
    Ok(Hold::Tcx { _link: link })
}

/// Must be called in the namespace of the device.
fn hold_by_clsact(
    program: &mut SchedClassifier,
    name: &str,
    class: u16,
) -> Result<Hold, Box<dyn std::error::Error + Send + Sync>> {
    /// The class that the filter hands to the program must have one.
    const MAJOR: u16 = 1;

    match qdisc_add_clsact(name) {
        Ok(()) => {}
        // Another program's, or from before.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        classid: Some(TcHandle::new(MAJOR, class)),
        ..NlOptions::default()
    });
    let id = program.attach_with_options(name, TcAttachType::Egress, options)?;
    Ok(Hold::Clsact {
        filter: Some(program.take_link(id)?),
        netns: Netns::current()?,
    })
}
