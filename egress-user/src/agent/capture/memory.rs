//! What the programs remember of sockets. Sockets outlive agents: where programs are pinned this is
//! too, and the next agent's programs go on with it.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::{Map, MapData, MapType};
use aya::{Ebpf, EbpfLoader};
use egress_common::{Redirected, Unjudged, maps};
use tracing::warn;

use super::CaptureError;
use super::pins;

/// A map from sockets to what is remembered of them.
struct Memory {
    map: &'static str,
    pin: &'static str,
    /// Bytes.
    value_size: usize,
}

const MEMORIES: [Memory; 2] = [
    Memory {
        map: maps::SOCKETS,
        pin: "egress_sockets",
        value_size: size_of::<Redirected>(),
    },
    Memory {
        map: maps::UNJUDGED,
        pin: "egress_unjudged",
        value_size: size_of::<Unjudged>(),
    },
];

/// The names of the pins.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MEMORIES.iter().map(|memory| memory.pin)
}

/// Has the programs go on with what is pinned in `dir`. What is of another form is left alone: the
/// sockets in it are forgotten.
pub(super) fn inherit(loader: &mut EbpfLoader<'_>, dir: &Path) {
    // Of a predecessor from before there was such a pin, too.
    let succeeds = pins::links(dir).is_ok_and(|links| !links.is_empty());
    for memory in &MEMORIES {
        let path = dir.join(memory.pin);
        if is_one(memory, &path) {
            loader.map_pin_path(memory.map, path);
        } else if succeeds || path.exists() {
            warn!(
                pin = %path.display(),
                "what the agent before remembered of sockets is missing or of another form: raw \
                 sockets made until now are not judged, and connections made until now name the \
                 listener as their peer"
            );
        }
    }
}

/// The maps with the names of their pins.
pub(super) fn descriptors(
    ebpf: &Ebpf,
) -> Result<Vec<(&'static str, BorrowedFd<'_>)>, CaptureError> {
    let descriptor = |memory: &Memory| match ebpf.map(memory.map) {
        Some(Map::SkStorage(map)) => Ok((memory.pin, map.fd().as_fd())),
        _ => Err(CaptureError::WrongObject {
            missing: memory.map,
        }),
    };
    MEMORIES.iter().map(descriptor).collect()
}

/// Whether this memory is pinned at `path`, in the form that this binary knows.
fn is_one(memory: &Memory, path: &Path) -> bool {
    let Ok(info) = MapData::from_pin(path).and_then(|map| map.info()) else {
        return false;
    };
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    let expected = (size_of::<libc::c_int>(), memory.value_size);
    matches!(info.map_type(), Ok(MapType::SkStorage)) && sizes == expected
}
