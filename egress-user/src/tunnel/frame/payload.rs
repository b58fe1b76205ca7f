//! What is inside RESET, REFUSED and OPENED.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use super::{FrameError, Kind, MAX_CONTROL};
use crate::addr::OriginAddr;
use crate::refusal::{Class, Refusal};
use crate::tunnel::PolicyDigest;
use crate::tunnel::reader::Reader;

const MAX_REASON: usize = 64;
const MAX_RULE: usize = 128;

/// Class, length and at least one byte of reason, length of the rule; both texts at their limits.
pub(super) const REFUSED_LIMITS: (usize, usize) = (4, 3 + MAX_REASON + MAX_RULE);

const OPENED_FIXED: usize = 12;
pub(super) const OPENED_LIMITS: (usize, usize) = (OPENED_FIXED + 4, OPENED_FIXED + 16);

const _: () = assert!(REFUSED_LIMITS.1 <= MAX_CONTROL && OPENED_LIMITS.1 <= MAX_CONTROL);

/// Why a direction was cut off. Payload: one byte.
///
/// A code informs a record and decides nothing, so that a code from a newer peer reads as
/// [`ResetCode::Unspecified`] instead of ending the tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ResetCode {
    /// No cause given, or one that this version does not know.
    Unspecified = 0,
    /// The connection behind the sender was reset, or closed before everything was delivered.
    Aborted = 1,
    /// Nothing moved for longer than the sender allows.
    IdleTimeout = 2,
    /// A policy loaded since the stream was opened refuses it.
    PolicyChanged = 3,
    /// The origin asked for another ClientHello, and that one carried another name.
    NameChangedOnRetry = 4,
    /// The sender is shutting down and its grace period is over.
    Shutdown = 5,
    /// Something of the sender's own broke.
    Internal = 6,
    /// The sender's certificates in use do not vouch for the receiver any more.
    PeerRejected = 7,
}

impl ResetCode {
    /// Every code, in its order.
    pub const ALL: [ResetCode; 8] = [
        ResetCode::Unspecified,
        ResetCode::Aborted,
        ResetCode::IdleTimeout,
        ResetCode::PolicyChanged,
        ResetCode::NameChangedOnRetry,
        ResetCode::Shutdown,
        ResetCode::Internal,
        ResetCode::PeerRejected,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// One word per cause, for records and counters.
    pub fn reason(self) -> &'static str {
        match self {
            ResetCode::Unspecified => "reset",
            ResetCode::Aborted => "aborted",
            ResetCode::IdleTimeout => "idle",
            ResetCode::PolicyChanged => "policy_changed",
            ResetCode::NameChangedOnRetry => "name_changed_on_retry",
            ResetCode::Shutdown => "drained",
            ResetCode::Internal => "internal",
            ResetCode::PeerRejected => "rejected_by_peer",
        }
    }

    /// Reads the payload of a RESET frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is not one byte.
    pub fn decode(payload: &[u8]) -> Result<ResetCode, FrameError> {
        let &[code] = payload else {
            return Err(malformed(Kind::Reset, "length"));
        };
        let known = ResetCode::ALL
            .into_iter()
            .find(|known| known.code() == code);
        Ok(known.unwrap_or(ResetCode::Unspecified))
    }
}

/// What the gateway tells the agent once it reached the origin, before the first byte from there.
///
/// | bytes | field |
/// |---|---|
/// | 1 | flags: bit 0 [`original_resolved`](Opened::original_resolved); the others are ignored |
/// | 1 | address family, 4 or 6 |
/// | 2 | port, network order |
/// | 8 | digest of the gateway's policy |
/// | 4 or 16 | address, network order |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The address that was dialled.
    pub dialled: OriginAddr,
    /// The policy that the gateway judged by.
    pub policy: PolicyDigest,
    /// Whether the address that the application chose was among those the name resolved to.
    pub original_resolved: bool,
}

impl Opened {
    /// Appends an OPENED frame.
    ///
    /// # Errors
    /// None that an address can cause; the signature is that of [`super::put`].
    pub fn put(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let mut payload = Vec::with_capacity(OPENED_LIMITS.1);
        payload.push(u8::from(self.original_resolved));
        payload.push(if self.dialled.ip().is_ipv4() { 4 } else { 6 });
        payload.extend(self.dialled.port().to_be_bytes());
        payload.extend(self.policy);
        match self.dialled.ip() {
            IpAddr::V4(ip) => payload.extend(ip.octets()),
            IpAddr::V6(ip) => payload.extend(ip.octets()),
        }
        super::put(Kind::Opened, &payload, out)
    }

    /// Reads the payload of an OPENED frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when the length is not that of the address family, or the address
    /// is a v4-mapped one, which has a form of its own.
    pub fn decode(payload: &[u8]) -> Result<Opened, FrameError> {
        let mut reader = Reader::new(payload);
        let short = || malformed(Kind::Opened, "length");
        let flags = reader.u8().ok_or_else(short)?;
        let family = reader.u8().ok_or_else(short)?;
        let port = reader.u16().ok_or_else(short)?;
        let policy = reader.array().ok_or_else(short)?;
        let ip = match family {
            4 => IpAddr::from(reader.array::<4>().ok_or_else(short)?),
            6 => IpAddr::from(reader.array::<16>().ok_or_else(short)?),
            _ => return Err(malformed(Kind::Opened, "address family")),
        };
        if !reader.is_empty() {
            return Err(short());
        }
        if ip.to_canonical() != ip {
            return Err(malformed(Kind::Opened, "v4-mapped address"));
        }
        Ok(Opened {
            dialled: OriginAddr::new(SocketAddr::new(ip, port)),
            policy,
            original_resolved: flags & 1 != 0,
        })
    }
}

/// Appends a REFUSED frame: the class's code, then the reason and the rule, each after its length in
/// one byte. No rule is a rule of no length.
///
/// A rule is shortened to 128 bytes and its control characters become U+FFFD: an odd name in a
/// policy must not keep a refusal from the agent.
///
/// # Errors
/// [`FrameError::Malformed`] when the reason is not 1 to 64 of `a-z`, `0-9` and `_`.
pub fn put_refused(refusal: &Refusal, out: &mut BytesMut) -> Result<(), FrameError> {
    if !is_reason(&refusal.reason) {
        return Err(malformed(Kind::Refused, "reason"));
    }
    let rule = refusal.rule.as_deref().map(printable).unwrap_or_default();
    let mut payload = Vec::with_capacity(REFUSED_LIMITS.1);
    payload.push(refusal.class.code());
    put_text(refusal.reason.as_bytes(), &mut payload)?;
    put_text(rule.as_bytes(), &mut payload)?;
    super::put(Kind::Refused, &payload, out)
}

/// Reads the payload of a REFUSED frame.
///
/// # Errors
/// [`FrameError::Malformed`] for an unknown class, a reason that is not 1 to 64 of `a-z`, `0-9` and
/// `_`, a rule that is over 128 bytes, not UTF-8 or has control characters, and any wrong length.
pub fn decode_refused(payload: &[u8]) -> Result<Refusal, FrameError> {
    let wrong = |what| malformed(Kind::Refused, what);
    let mut reader = Reader::new(payload);
    let class = reader.u8().and_then(Class::from_code);
    let class = class.ok_or_else(|| wrong("class"))?;
    let reason = take_text(&mut reader).filter(|reason| is_reason(reason));
    let reason = reason.ok_or_else(|| wrong("reason"))?;
    let rule = take_text(&mut reader).filter(|rule| is_rule(rule));
    let rule = rule.ok_or_else(|| wrong("rule"))?;
    if !reader.is_empty() {
        return Err(wrong("length"));
    }
    Ok(Refusal {
        class,
        reason: Cow::Owned(reason.to_owned()),
        rule: (!rule.is_empty()).then(|| rule.into()),
    })
}

fn put_text(text: &[u8], payload: &mut Vec<u8>) -> Result<(), FrameError> {
    let len = u8::try_from(text.len()).map_err(|_| malformed(Kind::Refused, "length"))?;
    payload.push(len);
    payload.extend_from_slice(text);
    Ok(())
}

fn take_text<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let len = reader.u8()?;
    std::str::from_utf8(reader.take(usize::from(len))?).ok()
}

fn is_reason(text: &str) -> bool {
    (1..=MAX_REASON).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn is_rule(text: &str) -> bool {
    text.len() <= MAX_RULE && !text.contains(char::is_control)
}

fn printable(rule: &str) -> String {
    let mut out = String::with_capacity(MAX_RULE);
    for char in rule.chars() {
        let char = if char.is_control() { '\u{FFFD}' } else { char };
        if out.len() + char.len_utf8() > MAX_RULE {
            break;
        }
        out.push(char);
    }
    out
}

fn malformed(kind: Kind, what: &'static str) -> FrameError {
    FrameError::Malformed { kind, what }
}
