//! The buffer between the socket and the tunnel: slots that one `readv` fills, and whose headers
//! then make frames of them.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::ops::Range;

use tokio::net::TcpStream;

use crate::tunnel::frame::{FrameError, FrameHeader, HEADER_LEN, Kind, MAX_DATA};

/// One frame that fills one TLS record.
pub(super) const SLOT: usize = HEADER_LEN + MAX_DATA;

/// Frames read at once: 64 KiB, the most that rustls buffers for sending.
pub(super) const SLOTS: usize = 4;

/// Buffers that a thread keeps for reuse; beyond that they are freed.
const POOLED: usize = 64;

/// Reads into the payload part of each slot, leaving room for the headers.
pub(super) fn read_slots(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut slots = buffer
        .chunks_exact_mut(SLOT)
        .filter_map(|slot| slot.get_mut(HEADER_LEN..));
    let mut payloads: [IoSliceMut<'_>; SLOTS] =
        std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
    socket.try_read_vectored(&mut payloads)
}

/// Writes the headers of `count` payload bytes; gives the length of the run.
pub(super) fn frame_slots(buffer: &mut [u8], count: usize) -> Result<usize, FrameError> {
    let mut left = count;
    let mut end = 0;
    while left > 0 {
        let len = left.min(MAX_DATA);
        put_header(buffer, end, Kind::Data, len)?;
        end += HEADER_LEN + len;
        left -= len;
    }
    Ok(end)
}

/// How many bytes of payload lie in a part of the buffer.
pub(super) fn payload_in(part: &Range<usize>) -> u64 {
    let before = |at: usize| at / SLOT * MAX_DATA + (at % SLOT).saturating_sub(HEADER_LEN);
    (before(part.end) - before(part.start)) as u64
}

/// Writes one header at `at`; gives where the payload begins.
pub(super) fn put_header(
    buffer: &mut [u8],
    at: usize,
    kind: Kind,
    len: usize,
) -> Result<usize, FrameError> {
    let header = FrameHeader::new(kind, len)?.encode();
    if let Some(place) = buffer.get_mut(at..at + HEADER_LEN) {
        place.copy_from_slice(&header);
    }
    Ok(at + HEADER_LEN)
}

thread_local! {
    pub(super) static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn take_buffer() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; SLOT * SLOTS].into_boxed_slice())
}

pub(super) fn give_buffer(buffer: Box<[u8]>) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    });
}

/// The payload of the first slot.
pub(super) fn first_payload(buffer: &mut [u8], len: usize) -> &mut [u8] {
    buffer
        .get_mut(HEADER_LEN..HEADER_LEN + len.min(MAX_DATA))
        .unwrap_or_default()
}
