//! The records of redirected connections, which the agent takes right after `accept`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use egress_common::{Addr, Caller, Flow, FlowKey, Port, maps};
use tracing::warn;

use super::CaptureError;
use crate::addr::{ClientAddr, OriginalDst};
use crate::netns::NetnsCookie;
use crate::workload::Process;

/// What the kernel programs remembered of one redirected connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowRecord {
    /// Where the application meant to connect.
    pub original_dst: OriginalDst,
    /// Id of the process's cgroup.
    pub cgroup: u64,
    /// The process that called `connect`.
    pub process: Process,
    /// When it did.
    pub connected: Instant,
}

/// A handle on the records; clones take from the same ones.
#[derive(Clone, Debug)]
pub struct Flows {
    map: Arc<MapData>,
    /// A predecessor's, whose programs redirected what may still wait in the listeners' queues.
    earlier: Option<Earlier>,
}

#[derive(Clone, Debug)]
struct Earlier {
    map: Arc<MapData>,
    until: Instant,
}

/// For how long a predecessor's records count: longer than a connection waits to be accepted, and
/// no longer, since nothing keeps them true any more.
const EARLIER: Duration = Duration::from_secs(60);

impl Flows {
    pub(super) fn new(map: Map) -> Result<Flows, CaptureError> {
        let wrong = CaptureError::WrongObject {
            missing: maps::FLOWS,
        };
        if HashMap::<_, FlowKey, Flow>::try_from(&map).is_err() {
            return Err(wrong);
        }
        match map {
            Map::LruHashMap(map) => Ok(Flows {
                map: Arc::new(map),
                earlier: None,
            }),
            _ => Err(wrong),
        }
    }

    /// The record of the connection from `client` that was accepted as `socket` in the namespace
    /// `netns`. There is none when it was not redirected, or its record was taken already.
    ///
    /// The record is taken, but left in place when the connection is dead already. A client that
    /// gives up before it is accepted gives its port back, and the record that is there may be
    /// the one of the next connection from the same port, which will ask for it.
    pub fn claim(
        &self,
        netns: NetnsCookie,
        client: ClientAddr,
        socket: impl AsFd,
    ) -> Option<FlowRecord> {
        let source = client.get();
        let key = FlowKey::new(
            netns.get(),
            Addr::from(source.ip()),
            Port::from_host(source.port()),
        );
        let command = if is_dead(socket.as_fd()) {
            Command::Lookup
        } else {
            Command::LookupAndDelete
        };
        let earlier = self.earlier.as_ref();
        let earlier = earlier.filter(|earlier| Instant::now() < earlier.until);
        let maps = std::iter::once(&self.map).chain(earlier.map(|earlier| &earlier.map));
        let flows = maps.filter_map(|map| match look_up(map, command, &key) {
            Ok(flow) => flow,
            Err(error) => {
                warn!(%error, "the kernel's flow records cannot be read");
                None
            }
        });
        // Taken from both: the programs of both write while one takes over from the other.
        let flow = flows.reduce(|latest, _| latest);
        flow.map(|flow| record(&flow))
    }

    /// The map itself, for a successor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Also looks into the map of a predecessor, for a while. One of another form is left alone:
    /// what its programs redirected is reset.
    pub fn with_earlier(mut self, map: OwnedFd) -> Flows {
        let fits = |map: &MapData| {
            let info = map.info().ok()?;
            let sizes = (info.key_size() as usize, info.value_size() as usize);
            (sizes == (size_of::<FlowKey>(), size_of::<Flow>())).then_some(())
        };
        match MapData::from_fd(map).ok().filter(|map| fits(map).is_some()) {
            Some(map) => {
                self.earlier = Some(Earlier {
                    map: Arc::new(map),
                    until: Instant::now() + EARLIER,
                });
            }
            None => warn!("the flow records of the agent before are of another form"),
        }
        self
    }
}

/// Whether the client has reset the connection: `tcpi_state`, the first byte of `TCP_INFO`, is
/// `TCP_CLOSE`. A socket of which the kernel tells nothing counts as alive.
fn is_dead(socket: BorrowedFd<'_>) -> bool {
    const TCP_CLOSE: u8 = 7;

    let mut state = 0u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the socket is open, and `state` is writable for the one byte that the kernel is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    };
    result == 0 && len == 1 && state == TCP_CLOSE
}

fn record(flow: &Flow) -> FlowRecord {
    let caller = flow.caller();
    FlowRecord {
        original_dst: OriginalDst::new(SocketAddr::new(
            flow.dst().into(),
            flow.dst_port().to_host(),
        )),
        cgroup: caller.cgroup,
        process: process(&caller),
        connected: instant(flow.connected_ns()),
    }
}

/// The process as people know it.
pub(super) fn process(caller: &Caller) -> Process {
    let comm = caller.comm.split(|byte| *byte == 0).next();
    Process {
        pid: caller.pid,
        comm: String::from_utf8_lossy(comm.unwrap_or_default()).into_owned(),
        uid: caller.uid,
    }
}

/// The moment that the kernel's monotonic clock, in nanoseconds, was at `then`.
pub(super) fn instant(then: u64) -> Instant {
    let here = Instant::now();
    let age = Duration::from_nanos(monotonic_ns().saturating_sub(then));
    here.checked_sub(age).unwrap_or(here)
}

/// The kernel's monotonic clock, which its programs read too, in nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `now` is writable for a `timespec`; the monotonic clock always exists.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: the call succeeded and filled it.
    let now = unsafe { now.assume_init() };
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Commands of the kernel's `bpf.h` that read an entry.
#[derive(Clone, Copy)]
enum Command {
    /// `BPF_MAP_LOOKUP_ELEM`.
    Lookup = 1,
    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`, for hash maps since Linux 5.14. In one step (aya has no
    /// such verb): between two, the client could reconnect from the same port, and the new
    /// connection's record would be the one deleted.
    LookupAndDelete = 21,
}

fn look_up(map: &MapData, command: Command, key: &FlowKey) -> io::Result<Option<Flow>> {
    /// The part of `union bpf_attr` that the commands read.
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let mut value = MaybeUninit::<Flow>::uninit();
    let mut attributes = Attributes {
        map: u32::try_from(map.fd().as_fd().as_raw_fd()).map_err(io::Error::other)?,
        zero: 0,
        key: (&raw const *key).expose_provenance() as u64,
        value: value.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the map is open; its keys are `FlowKey`s and its values `Flow`s, as `Flows::new`
    // made sure, and both outlive the call, which reads the first and writes the second.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        // SAFETY: the call succeeded and filled it.
        return Ok(Some(unsafe { value.assume_init() }));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::NotFound => Ok(None),
        error => Err(error),
    }
}
