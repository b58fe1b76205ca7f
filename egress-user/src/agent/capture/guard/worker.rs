//! Guards are put on devices, and taken off.

use std::collections::HashMap as Registry;
use std::collections::hash_map::Entry;

use egress_common::{Device, maps};
use tracing::warn;

use super::devices::{Interface, interfaces};
use super::hold::Hold;
use super::{Guard, Guarded, Shared, Work};
use crate::agent::capture::{CaptureError, error};
use crate::netns::{Netns, NetnsCookie, cookie_of_current};

/// Whoever changes guards now.
pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) work: &'a mut Work,
}

impl Worker<'_> {
    /// Guards the devices of the calling thread's namespace, which is `netns`.
    pub(super) fn guard(
        &mut self,
        netns: &Netns,
        most: usize,
    ) -> Result<Vec<String>, CaptureError> {
        let list = |source| CaptureError::Devices {
            netns: netns.path().to_owned(),
            source,
        };
        let cookie = cookie_of_current().map_err(list)?;
        let interfaces = interfaces().map_err(list)?;
        if interfaces.len() > most {
            return Err(CaptureError::TooManyDevices {
                netns: netns.path().to_owned(),
                found: interfaces.len(),
                most,
            });
        }
        if let Entry::Vacant(entry) = self.shared.guarded().entry(cookie) {
            entry.insert(Guarded {
                netns: Netns::current()?,
                guards: Registry::new(),
            });
        }
        self.forget_missing(cookie, &interfaces)?;
        let mut guarded = Vec::new();
        let mut failed = None;
        for interface in interfaces {
            match self.guard_one(cookie, &interface) {
                Ok(()) => guarded.push(interface.name),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(guarded), Err)
    }

    fn guard_one(
        &mut self,
        cookie: NetnsCookie,
        interface: &Interface,
    ) -> Result<(), CaptureError> {
        if self.shared.is_guarded(cookie, interface.index) {
            return Ok(());
        }
        self.forget_bare(cookie, interface)?;
        let class = self.free_class();
        let device = if self.shared.tcx {
            Device::with_index(interface.index)
        } else {
            Device::with_class(class)
        };
        // Before the program asks for it.
        self.work
            .devices
            .insert(device, cookie.get(), 0)
            .map_err(error::write(maps::DEVICES))?;
        match self.hold(interface, cookie, class) {
            Ok(hold) => {
                if let Some(guarded) = self.shared.guarded().get_mut(&cookie) {
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
        &mut self,
        interface: &Interface,
        cookie: NetnsCookie,
        class: u16,
    ) -> Result<Hold, CaptureError> {
        let missing = CaptureError::WrongObject {
            missing: "egress_guard",
        };
        let programs = self.work.programs.as_mut();
        let program = programs.ok_or(missing)?.of(interface)?;
        let hold = if self.shared.tcx {
            Hold::by_tcx(program, interface.index)
        } else {
            Hold::by_clsact(program, &interface.name, class)
        };
        let mut hold = hold.map_err(|source| CaptureError::Guard {
            device: interface.name.clone(),
            source,
        })?;
        if let Some(dir) = &self.work.pins {
            hold.pin(dir, cookie, interface.index)?;
        }
        Ok(hold)
    }

    /// Of a guard that somebody else took off.
    fn forget_bare(
        &mut self,
        cookie: NetnsCookie,
        interface: &Interface,
    ) -> Result<(), CaptureError> {
        let bare = self.shared.take(cookie, |index| index == interface.index);
        bare.into_iter().try_for_each(|(index, guard)| {
            warn!(device = %interface.name, "somebody took the guard off a network device");
            self.end(cookie, index, guard)
        })
    }

    /// The index of a device that is gone may belong to another one soon.
    fn forget_missing(
        &mut self,
        cookie: NetnsCookie,
        interfaces: &[Interface],
    ) -> Result<(), CaptureError> {
        let is_gone = |index| interfaces.iter().all(|each| each.index != index);
        let gone = self.shared.take(cookie, is_gone);
        gone.into_iter()
            .try_for_each(|(index, guard)| self.end(cookie, index, guard))
    }

    pub(super) fn end(
        &mut self,
        cookie: NetnsCookie,
        index: u32,
        guard: Guard,
    ) -> Result<(), CaptureError> {
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
        match self.work.devices.get(&device, 0) {
            Ok(owner) if owner == cookie.get() => {}
            _ => return Ok(()),
        }
        let is_heir = |(other, guarded): (&NetnsCookie, &Guarded)| {
            let guard = guarded.guards.get(&index);
            let has_it = guard.is_some_and(|guard| guard.device == device);
            (has_it && *other != cookie).then_some(*other)
        };
        let heir = self.shared.guarded().iter().find_map(is_heir);
        let told = match heir {
            Some(heir) => self.work.devices.insert(device, heir.get(), 0),
            None => self.work.devices.remove(&device),
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
            self.work.class = self.work.class.checked_add(1).unwrap_or(1);
            let device = Device::with_class(self.work.class);
            if self.work.devices.get(&device, 0).is_err() {
                break;
            }
        }
        self.work.class
    }
}
