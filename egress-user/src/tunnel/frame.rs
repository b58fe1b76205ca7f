//! The frames of `egress/1`.
//!
//! A frame is a four-byte header, the type and the payload's length in 24 bits of network order, and
//! the payload.
//!
//! | type | name | from | payload |
//! |---|---|---|---|
//! | 1 | OPEN | agent | [`OpenHeader`](super::header::OpenHeader), at most [`MAX_OPEN`] bytes |
//! | 2 | DATA | both | 1 to [`MAX_DATA`] bytes of the application's stream |
//! | 3 | FIN | both | nothing: this direction is complete |
//! | 4 | RESET | both | [`ResetCode`]: this direction is cut off |
//! | 5 | REFUSED | gateway | a [`Refusal`](crate::refusal::Refusal), see [`put_refused`] |
//! | 6 | OPENED | gateway | [`Opened`] |
//! | 7 | DRAIN | gateway | nothing: open no further stream on this connection |
//! | 8 | READY | gateway | nothing: the agent may open streams |
//!
//! The order in which they may come is the business of [`Order`].

mod order;
mod payload;

use bytes::{BufMut, BytesMut};

pub use self::order::{Delivery, Order, Role};
pub use self::payload::{Opened, ResetCode, decode_refused, put_refused};

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 4;

/// The largest DATA payload. With its header it fills one TLS record exactly: the plaintext of a
/// record is at most 2^14 bytes (RFC 8446 §5.1).
pub const MAX_DATA: usize = 16_384 - HEADER_LEN;

/// The largest OPEN payload; a header with every field at its limit is smaller.
pub const MAX_OPEN: usize = 4096;

/// The largest payload of any other frame.
pub const MAX_CONTROL: usize = 256;

/// The type of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Begins a stream and says for whom.
    Open = 1,
    /// Bytes of the application's stream.
    Data = 2,
    /// The sender's direction is complete.
    Fin = 3,
    /// The sender's direction is cut off.
    Reset = 4,
    /// The gateway does not carry the stream.
    Refused = 5,
    /// The gateway reached the origin.
    Opened = 6,
    /// The gateway takes no further stream on this connection.
    Drain = 7,
    /// The gateway takes streams of this agent.
    Ready = 8,
}

impl Kind {
    /// Every type, in the order of its code.
    pub const ALL: [Kind; 8] = [
        Kind::Open,
        Kind::Data,
        Kind::Fin,
        Kind::Reset,
        Kind::Refused,
        Kind::Opened,
        Kind::Drain,
        Kind::Ready,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The type of a code, if it is one.
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The payload lengths that a frame of this type can have, smallest and largest.
    const fn limits(self) -> (usize, usize) {
        match self {
            Kind::Open => (1, MAX_OPEN),
            Kind::Data => (1, MAX_DATA),
            Kind::Fin | Kind::Drain | Kind::Ready => (0, 0),
            Kind::Reset => (1, 1),
            Kind::Refused => payload::REFUSED_LIMITS,
            Kind::Opened => payload::OPENED_LIMITS,
        }
    }
}

/// The header of a frame whose length is within the limits of its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    kind: Kind,
    payload_len: usize,
}

impl FrameHeader {
    /// The header of a frame with `payload_len` bytes after it.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] and [`FrameError::TooShort`] when the type has no such length.
    pub fn new(kind: Kind, payload_len: usize) -> Result<FrameHeader, FrameError> {
        let (shortest, largest) = kind.limits();
        if payload_len > largest {
            return Err(FrameError::TooLarge {
                kind,
                len: payload_len,
            });
        }
        if payload_len < shortest {
            return Err(FrameError::TooShort {
                kind,
                len: payload_len,
            });
        }
        Ok(FrameHeader { kind, payload_len })
    }

    /// Reads the header of the next frame. No limit is passed on unchecked: the caller may allocate
    /// [`FrameHeader::payload_len`].
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`] and those of [`FrameHeader::new`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<FrameHeader, FrameError> {
        let [code, len @ ..] = *bytes;
        let kind = Kind::from_code(code).ok_or(FrameError::UnknownKind(code))?;
        let [high, middle, low] = len;
        let payload_len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        FrameHeader::new(kind, payload_len)
    }

    /// The header as it goes over the wire.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        const _: () = assert!(MAX_DATA < 1 << 24 && MAX_OPEN < 1 << 24 && MAX_CONTROL < 1 << 24);
        let [.., high, middle, low] = self.payload_len.to_be_bytes();
        [self.kind.code(), high, middle, low]
    }

    /// The type of the frame.
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// How many bytes follow the header.
    pub fn payload_len(self) -> usize {
        self.payload_len
    }
}

/// Appends a whole frame.
///
/// # Errors
/// Those of [`FrameHeader::new`]; `out` is unchanged then.
pub fn put(kind: Kind, payload: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
    let header = FrameHeader::new(kind, payload.len())?;
    out.reserve(HEADER_LEN + payload.len());
    out.put_slice(&header.encode());
    out.put_slice(payload);
    Ok(())
}

/// Why bytes are not acceptable frames. The connection that they came on is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The type's code is none of this version.
    #[error("unknown frame type {0}")]
    UnknownKind(u8),
    /// The length is beyond the limit of the type.
    #[error("{kind:?} frame of {len} bytes is too large")]
    TooLarge {
        /// The frame's type.
        kind: Kind,
        /// The declared length of its payload.
        len: usize,
    },
    /// The length is below what the type needs.
    #[error("{kind:?} frame of {len} bytes is too short")]
    TooShort {
        /// The frame's type.
        kind: Kind,
        /// The declared length of its payload.
        len: usize,
    },
    /// The payload is not what the type calls for.
    #[error("malformed {kind:?} frame: {what}")]
    Malformed {
        /// The frame's type.
        kind: Kind,
        /// The part that is wrong.
        what: &'static str,
    },
    /// The type may only be sent by the other side.
    #[error("{kind:?} frame from the {from}")]
    Direction {
        /// The frame's type.
        kind: Kind,
        /// The side that sent it.
        from: Role,
    },
    /// The frame has no meaning after those before it.
    #[error("{kind:?} frame from the {from} out of order")]
    Order {
        /// The frame's type.
        kind: Kind,
        /// The side that sent it.
        from: Role,
    },
}

impl FrameError {
    /// One word per cause, for records and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            FrameError::UnknownKind(_) => "frame_type_unknown",
            FrameError::TooLarge { .. } => "frame_too_large",
            FrameError::TooShort { .. } => "frame_too_short",
            FrameError::Malformed { .. } => "frame_malformed",
            FrameError::Direction { .. } => "frame_direction",
            FrameError::Order { .. } => "frame_order",
        }
    }
}

#[cfg(test)]
mod tests;
