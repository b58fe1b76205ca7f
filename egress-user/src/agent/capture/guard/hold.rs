//! What keeps a guard on its device: a link of tcx, or a filter of clsact.

use std::error::Error;
use std::mem;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::{filter as filters, pinned};
use crate::agent::capture::CaptureError;
use crate::agent::capture::link::{Link, pin};
use crate::netns::{Netns, NetnsCookie};

/// The priorities of our filters. A successor takes the one that is free before it takes the other
/// one away, so that there is no moment without a guard.
const PRIORITIES: [u16; 2] = [0xe6e5, 0xe6e6];

/// The handle of our filters at their priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// What keeps a program on its device. Unless it is pinned, that ends when this is dropped.
pub(super) enum Hold {
    Tcx {
        link: Link,
    },
    /// Nothing but the pin keeps it.
    PinnedTcx {
        pin: PathBuf,
    },
    Clsact(Filter),
}

/// A filter, which is taken off in the namespace of the device; this handle keeps that.
pub(super) struct Filter {
    filter: Option<SchedClassifierLink>,
    netns: Netns,
    program: OwnedFd,
    /// Names the filter, which stays without a process anyway.
    pin: Option<PathBuf>,
}

type Cause = Box<dyn Error + Send + Sync>;

impl Hold {
    pub(super) fn by_tcx(program: &SchedClassifier, index: u32) -> Result<Hold, Cause> {
        let link = Link::to_device(program.fd()?.as_fd(), index)?;
        Ok(Hold::Tcx { link })
    }

    /// Must be called in the namespace of the device.
    pub(super) fn by_clsact(
        program: &mut SchedClassifier,
        name: &str,
        class: u16,
    ) -> Result<Hold, Cause> {
        match qdisc_add_clsact(name) {
            Ok(()) => {}
            // Another program's, or from before.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Hold::Clsact(Filter {
            filter: Some(succeed(program, name, class)?),
            netns: Netns::current()?,
            program: program.fd()?.as_fd().try_clone_to_owned()?,
            pin: None,
        }))
    }

    /// Pins it in `dir` by a name that says where it is: it stays when this process ends.
    pub(super) fn pin(
        &mut self,
        dir: &Path,
        cookie: NetnsCookie,
        index: u32,
    ) -> Result<PathBuf, CaptureError> {
        let path = pinned::path(dir, cookie, index);
        match self {
            Hold::Tcx { link } => {
                pinned::replace(&path, |path| pin(link.as_fd(), path))?;
                *self = Hold::PinnedTcx { pin: path.clone() };
            }
            Hold::PinnedTcx { .. } => {}
            Hold::Clsact(filter) => {
                pinned::replace(&path, |path| pin(filter.program.as_fd(), path))?;
                filter.pin = Some(path.clone());
            }
        }
        Ok(path)
    }

    /// Whether the program is on the device with this index, by the kernel's word. To be asked in
    /// the device's namespace.
    pub(super) fn holds(&self, index: u32) -> bool {
        let holds = match self {
            Hold::Tcx { link } => link.leads_to_device(),
            Hold::PinnedTcx { pin } => Link::pinned(pin).and_then(|link| link.leads_to_device()),
            Hold::Clsact(_) => PRIORITIES.into_iter().try_fold(false, |found, priority| {
                Ok(found || filters::is_there(index, priority, HANDLE.into())?)
            }),
        };
        // What cannot be asked does not count as there.
        holds.unwrap_or(false)
    }

    /// Takes the program off its device, pinned or not.
    pub(super) fn end(self) -> Result<(), CaptureError> {
        match self {
            Hold::Tcx { .. } => Ok(()),
            Hold::PinnedTcx { pin } => pinned::unpin(&pin),
            Hold::Clsact(mut filter) => match filter.pin.take() {
                Some(pin) => pinned::unpin(&pin),
                None => Ok(()),
            },
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let filter = self.filter.take();
        if self.pin.is_some() {
            // Its own drop would take it off.
            mem::forget(filter);
        } else {
            // Where the namespace cannot be entered any more there is nothing to take off.
            let _taken_off = self.netns.on_thread(|| drop(filter));
        }
    }
}

/// Puts the program on the device, and takes those of a predecessor off.
fn succeed(
    program: &mut SchedClassifier,
    name: &str,
    class: u16,
) -> Result<SchedClassifierLink, Cause> {
    let [first, second] = PRIORITIES;
    if let Some(filter) = filter(program, name, class, first)? {
        take_off(name, second);
        return Ok(filter);
    }
    // Where both are taken, a process ended between the two.
    take_off(name, second);
    let filter = filter(program, name, class, second)?;
    let filter = filter.ok_or("another process guards it at the same time")?;
    take_off(name, first);
    Ok(filter)
}

/// Puts the program on the device; `None` where there is a filter of this priority already.
fn filter(
    program: &mut SchedClassifier,
    name: &str,
    class: u16,
    priority: u16,
) -> Result<Option<SchedClassifierLink>, Cause> {
    /// The class that the filter hands to the program must have one.
    const MAJOR: u16 = 1;

    let options = TcAttachOptions::Netlink(NlOptions {
        priority,
        handle: HANDLE,
        classid: Some(TcHandle::new(MAJOR, class)),
    });
    match program.attach_with_options(name, TcAttachType::Egress, options) {
        Ok(id) => Ok(Some(program.take_link(id)?)),
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::EEXIST) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes our filters off a device in the calling thread's namespace. Says whether there was one.
pub(super) fn take_off_all(name: &str) -> bool {
    PRIORITIES
        .map(|priority| take_off(name, priority))
        .contains(&true)
}

fn take_off(name: &str, priority: u16) -> bool {
    let link = SchedClassifierLink::attached(name, TcAttachType::Egress, priority, HANDLE, None);
    // A device or filter that is not there needs nothing taken off.
    link.is_ok_and(|link| aya::programs::links::Link::detach(link).is_ok())
}
