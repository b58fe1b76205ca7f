//! The rest of the first flights: a server that sends a HelloRetryRequest (RFC 8446 §4.1.4) gets
//! a second ClientHello, and that one must name the same server.

use bytes::{Buf, BufMut, BytesMut};

use super::{Parser, Progress, ServerName};

/// Content type, version and length of a record (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// The content type of handshake records.
const HANDSHAKE: u8 = 22;

/// The content types of records that may stand anywhere: change_cipher_spec and alert.
const BETWEEN: [u8; 2] = [20, 21];

/// How a HelloRetryRequest begins: a ServerHello of any length, version 1.2, and a random that is
/// the SHA-256 of "HelloRetryRequest" (RFC 8446 §4.1.3). The length is not compared.
const RETRY_REQUEST: [u8; 38] = [
    2, 0, 0, 0, 3, 3, 0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e,
    0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8,
    0xa8, 0x33, 0x9c,
];

/// Where in [`RETRY_REQUEST`] the length stands.
const LENGTH: std::ops::Range<usize> = 1..4;

/// The second ClientHello names another server, or cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the ClientHello after a HelloRetryRequest does not name the same server")]
pub struct NameChanged;

/// Both directions of a TLS session from the end of the first ClientHello on, until it is clear
/// that no other will count.
///
/// What the client sends goes through it, and comes out as [`admitted`](Self::admitted). Early
/// data and the like passes at once. A further handshake record does not before the server has
/// answered: a client that knows the answer in advance would have its second hello there before
/// anybody looked.
#[derive(Debug)]
pub struct FirstFlight {
    name: ServerName,
    answer: Answer,
    /// The part of the header of the client's current record that has been seen.
    header: [u8; RECORD_HEADER],
    header_len: usize,
    /// How much of the client's current record has not been seen.
    record_left: usize,
    admitted: BytesMut,
    /// From the client's second handshake record on.
    held: BytesMut,
    parser: Parser,
    over: bool,
}

/// What the server answered to the first hello.
#[derive(Debug)]
enum Answer {
    /// As yet nothing but the beginning of what may be a retry request.
    Unclear(Matcher),
    Retry,
    Another,
}

impl FirstFlight {
    /// The session that a ClientHello with this name begins.
    pub fn of(name: ServerName) -> FirstFlight {
        FirstFlight {
            name,
            answer: Answer::Unclear(Matcher::default()),
            header: [0; RECORD_HEADER],
            header_len: 0,
            record_left: 0,
            admitted: BytesMut::new(),
            held: BytesMut::new(),
            parser: Parser::new(),
            over: false,
        }
    }

    /// Takes what the client sent next.
    ///
    /// # Errors
    /// [`NameChanged`]: nothing of the second hello was admitted, and nothing may follow.
    pub fn client_sent(&mut self, bytes: &[u8]) -> Result<(), NameChanged> {
        self.held.extend_from_slice(bytes);
        self.admit()
    }

    /// Looks at what the server sent next.
    ///
    /// # Errors
    /// [`NameChanged`], as of [`client_sent`](Self::client_sent).
    pub fn server_sent(&mut self, bytes: &[u8]) -> Result<(), NameChanged> {
        let Answer::Unclear(matcher) = &mut self.answer else {
            return Ok(());
        };
        match matcher.advance(bytes) {
            None => return Ok(()),
            Some(true) => self.answer = Answer::Retry,
            Some(false) => self.answer = Answer::Another,
        }
        self.admit()
    }

    /// What of the client's bytes may go on, to be taken from the front.
    pub fn admitted(&mut self) -> &mut BytesMut {
        &mut self.admitted
    }

    /// Whether nothing more of the client helps before the server has answered.
    pub fn awaits_server(&self) -> bool {
        matches!(self.answer, Answer::Unclear(_)) && self.is_holding()
    }

    /// Whether nothing more needs to be looked at, and everything was taken.
    pub fn is_over(&self) -> bool {
        self.over && self.admitted.is_empty()
    }

    /// How many bytes of the client may not go on yet.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a second handshake record has begun.
    pub fn is_holding(&self) -> bool {
        self.record_left == 0 && self.header_len == 0 && self.held.first() == Some(&HANDSHAKE)
    }

    fn admit(&mut self) -> Result<(), NameChanged> {
        self.over |= matches!(self.answer, Answer::Another);
        if !self.over {
            self.pass_records();
            self.over = self.is_second_hello_judged()?;
        }
        if self.over {
            self.admitted.unsplit(self.held.split());
        }
        Ok(())
    }

    /// Passes on what is no handshake record.
    fn pass_records(&mut self) {
        loop {
            let passed = self.record_left.min(self.held.len());
            self.admitted.extend_from_slice(&self.held.split_to(passed));
            self.record_left -= passed;
            if self.held.is_empty() || self.is_holding() {
                return;
            }
            let byte = self.held.get_u8();
            self.admitted.put_u8(byte);
            if let Some(place) = self.header.get_mut(self.header_len) {
                *place = byte;
                self.header_len += 1;
            }
            if self.header_len == RECORD_HEADER {
                let [_, _, _, high, low] = self.header;
                self.record_left = usize::from(u16::from_be_bytes([high, low]));
                self.header_len = 0;
            }
        }
    }

    fn is_second_hello_judged(&mut self) -> Result<bool, NameChanged> {
        if !matches!(self.answer, Answer::Retry) || !self.is_holding() {
            return Ok(false);
        }
        match self.parser.advance(&self.held) {
            Progress::NeedMore => Ok(false),
            Progress::Hello(hello) if hello.server_name == self.name => Ok(true),
            Progress::Hello(_) | Progress::Not(_) => Err(NameChanged),
        }
    }
}

/// Compares a stream of records with [`RETRY_REQUEST`], whatever the pieces.
#[derive(Default, Debug)]
struct Matcher {
    header: [u8; RECORD_HEADER],
    header_len: usize,
    record_left: usize,
    /// The current record is none of the handshake.
    skipping: bool,
    matched: usize,
}

impl Matcher {
    /// Whether the stream is a retry request, once that is clear.
    fn advance(&mut self, bytes: &[u8]) -> Option<bool> {
        let mut rest = bytes;
        while rest.has_remaining() {
            if self.record_left == 0 {
                if !self.read_header(&mut rest)? {
                    return Some(false);
                }
                continue;
            }
            let byte = rest.get_u8();
            self.record_left -= 1;
            if self.skipping {
                continue;
            }
            let wanted = RETRY_REQUEST.get(self.matched).copied();
            if wanted != Some(byte) && !LENGTH.contains(&self.matched) {
                return Some(false);
            }
            self.matched += 1;
            if self.matched == RETRY_REQUEST.len() {
                return Some(true);
            }
        }
        None
    }

    /// Whether the next record is one of the handshake, once its header is there.
    fn read_header(&mut self, rest: &mut &[u8]) -> Option<bool> {
        while let Some(place) = self.header.get_mut(self.header_len)
            && rest.has_remaining()
        {
            *place = rest.get_u8();
            self.header_len += 1;
        }
        let [content_type, _, _, high, low] = self.header;
        self.skipping = BETWEEN.contains(&content_type);
        let known = content_type == HANDSHAKE || self.skipping;
        if self.header_len < RECORD_HEADER {
            return (!known).then_some(false);
        }
        self.header_len = 0;
        self.record_left = usize::from(u16::from_be_bytes([high, low]));
        Some(known && self.record_left > 0)
    }
}

#[cfg(test)]
mod tests;
