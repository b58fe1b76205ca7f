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

/// What is known of a connection that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It was redirected.
    Redirected(FlowRecord),
    /// Its client has reset it, so that nobody can say any more whose it was. What it sent is still
    /// there to be read, and must not be.
    Dead,
    /// It was not redirected, or its record was taken already.
    Unknown,
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

    /// What is known of the connection from `client` that was accepted as `socket` in the namespace
    /// `netns`. Its record is taken: there is none the next time.
    ///
    /// A client that gives up before it is accepted gives its port back, and the record that is
    /// there may be the one of the next connection from the same port, which will ask for it. So a
    /// connection that is dead has none, and leaves what there is in place.
    pub fn claim(&self, netns: NetnsCookie, client: ClientAddr, socket: impl AsFd) -> Claim {
        let source = client.get();
        let key = FlowKey::new(
            netns.get(),
            Addr::from(source.ip()),
            Port::from_host(source.port()),
        );
        if is_dead(socket.as_fd()) {
            return self.left_behind(&key);
        }
        // Taken from both: the programs of both write while one takes over from the other.
        let maps = self.maps();
        let taken: Vec<_> = maps
            .filter_map(|map| Some((map, take(map, &key)?)))
            .collect();
        // It may have died since, and what was taken be the next one's.
        if is_dead(socket.as_fd()) {
            for (map, flow) in taken {
                put_back(map, &key, flow);
            }
            return self.left_behind(&key);
        }
        let flow = taken.first();
        flow.map_or(Claim::Unknown, |(_, flow)| Claim::Redirected(record(flow)))
    }

    /// What a dead connection counts as. Nobody was redirected from where there is no record.
    fn left_behind(&self, key: &FlowKey) -> Claim {
        match self
            .maps()
            .any(|map| read(map, Command::Lookup, key).is_some())
        {
            true => Claim::Dead,
            false => Claim::Unknown,
        }
    }

    /// The own map, and the predecessor's as long as that counts.
    fn maps(&self) -> impl Iterator<Item = &MapData> {
        let earlier = self.earlier.as_ref();
        let earlier = earlier.filter(|earlier| Instant::now() < earlier.until);
        let maps = std::iter::once(&self.map).chain(earlier.map(|earlier| &earlier.map));
        maps.map(|map| &**map)
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

fn take(map: &MapData, key: &FlowKey) -> Option<Flow> {
    read(map, Command::LookupAndDelete, key)
}

fn read(map: &MapData, command: Command, key: &FlowKey) -> Option<Flow> {
    let mut value = MaybeUninit::<Flow>::uninit();
    match carry_out(command, map, key, value.as_mut_ptr(), 0) {
        // SAFETY: the command succeeded and filled it.
        Ok(()) => Some(unsafe { value.assume_init() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(%error, "the kernel's flow records cannot be read");
            None
        }
    }
}

/// Puts back what was taken, unless there is a newer one by now.
fn put_back(map: &MapData, key: &FlowKey, mut flow: Flow) {
    /// `BPF_NOEXIST`.
    const ONLY_NEW: u64 = 1;

    match carry_out(Command::Update, map, key, &raw mut flow, ONLY_NEW) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            warn!(%error, "a flow record cannot be put back: its connection will be closed");
        }
        _ => {}
    }
}

/// Commands of the kernel's `bpf.h` about one entry.
#[derive(Clone, Copy)]
enum Command {
    /// `BPF_MAP_LOOKUP_ELEM`.
    Lookup = 1,
    /// `BPF_MAP_UPDATE_ELEM`.
    Update = 2,
    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`, for hash maps since Linux 5.14. In one step (aya has no
    /// such verb): between two, the client could reconnect from the same port, and the new
    /// connection's record would be the one deleted.
    LookupAndDelete = 21,
}

/// `value` points to a whole flow that [`Command::Update`] reads, or to room for one, which the
/// others fill when they succeed.
fn carry_out(
    command: Command,
    map: &MapData,
    key: &FlowKey,
    value: *mut Flow,
    flags: u64,
) -> io::Result<()> {
    /// The part of `union bpf_attr` that the commands read.
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let mut attributes = Attributes {
        map: u32::try_from(map.fd().as_fd().as_raw_fd()).map_err(io::Error::other)?,
        zero: 0,
        key: (&raw const *key).expose_provenance() as u64,
        value: value.expose_provenance() as u64,
        flags,
    };
    // SAFETY: the map is open; its keys are `FlowKey`s and its values `Flow`s, as `Flows::new` and
    // `Flows::with_earlier` made sure. The key outlives the call; so does what `value` points to, by
    // the callers, which the kernel reads or writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
