//! From TLS records (RFC 8446 §5.1) to one whole handshake message.

use std::borrow::Cow;

use super::{MAX_HELLO, NotAHello, sniff};

/// Content type, version and length.
const RECORD_HEADER: usize = 5;

/// Message type and length.
const MESSAGE_HEADER: usize = 4;

/// The content type of handshake records.
const HANDSHAKE: u8 = 22;

/// The message type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// The most bytes in the fragment of a plaintext record.
const MAX_FRAGMENT: usize = 1 << 14;

/// Reassembles the first handshake message of a stream.
///
/// Every check looks only at bytes up to its own place in the stream, and in stream order,
/// so the answer does not depend on how the stream was cut into segments.
#[derive(Default, Debug)]
pub(super) struct Records {
    /// How much of the stream has been read.
    at: usize,
    /// How much of the current record's fragment has not been read.
    left: usize,
    /// The header of the message, as far as it has been read.
    header: [u8; MESSAGE_HEADER],
    /// How much of the message has been read, its header included. Its bytes are in the stream, and
    /// are not kept a second time while the rest is waited for.
    read: usize,
    end: usize,
}

impl Records {
    /// The whole message, once the stream has all of it.
    ///
    /// # Errors
    ///
    /// What is wrong with the records or with the header of the message, as soon as the
    /// bytes that show it are there.
    pub(super) fn message<'a>(
        &mut self,
        stream: &'a [u8],
    ) -> Result<Option<Cow<'a, [u8]>>, NotAHello> {
        if self.at == 0 {
            if !sniff::is_handshake(stream)? {
                return Ok(None);
            }
            // Nearly every hello is one record that arrives in one segment: no copy then.
            if let Some(fragment) = lone_fragment(stream)? {
                self.end = RECORD_HEADER + fragment.len();
                return Ok(Some(Cow::Borrowed(fragment)));
            }
        }
        loop {
            if self.left == 0 {
                if self.is_whole()? {
                    self.end = self.at;
                    return Ok(Some(joined(stream.get(..self.end).unwrap_or(stream))));
                }
                if !self.open_record(stream)? {
                    return Ok(None);
                }
            }
            if !self.read_fragment(stream)? {
                return Ok(None);
            }
        }
    }

    /// Where in the stream the message's last record ends, once the message is whole.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Reads the header of the next record; `false` when it is not all there.
    fn open_record(&mut self, stream: &[u8]) -> Result<bool, NotAHello> {
        // Said now, not after the header: the caller need not hold more than the cap.
        if self.at.saturating_add(RECORD_HEADER) >= MAX_HELLO {
            return Err(NotAHello::TooLarge);
        }
        let rest = stream.get(self.at..).unwrap_or_default();
        let Some((header, _)) = rest.split_first_chunk() else {
            return Ok(false);
        };
        let length = fragment_length(*header)?;
        self.at = self.at.saturating_add(RECORD_HEADER);
        if self.at.saturating_add(length) > MAX_HELLO {
            return Err(NotAHello::TooLarge);
        }
        self.left = length;
        self.check_end()?;
        Ok(true)
    }

    /// Reads what the stream has of the current fragment; `false` when that is nothing.
    fn read_fragment(&mut self, stream: &[u8]) -> Result<bool, NotAHello> {
        let rest = stream.get(self.at..).unwrap_or_default();
        let fresh = rest.get(..self.left).unwrap_or(rest);
        if fresh.is_empty() {
            return Ok(false);
        }
        let header = self.header.iter_mut().skip(self.read);
        header.zip(fresh).for_each(|(place, byte)| *place = *byte);
        self.read = self.read.saturating_add(fresh.len());
        self.at = self.at.saturating_add(fresh.len());
        self.left = self.left.saturating_sub(fresh.len());
        self.check_end()?;
        Ok(true)
    }

    /// Whether the message is complete. Between records only.
    fn is_whole(&self) -> Result<bool, NotAHello> {
        Ok(self.message_length()? == Some(self.read))
    }

    /// Refuses a record that goes on after the message: the first flight of a client is one
    /// message, and two readers could disagree about which of several counts.
    fn check_end(&self) -> Result<(), NotAHello> {
        let end = self.read.saturating_add(self.left);
        match self.message_length()? {
            Some(length) if length < end => Err(NotAHello::TrailingBytes),
            _ => Ok(()),
        }
    }

    fn message_length(&self) -> Result<Option<usize>, NotAHello> {
        message_length(self.header.get(..self.read).unwrap_or(&self.header))
    }
}

/// The fragments of whole records, one after the other; where there is one, it stays where it is.
fn joined(records: &[u8]) -> Cow<'_, [u8]> {
    let mut message: Cow<'_, [u8]> = Cow::default();
    let mut rest = records;
    while let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER>() {
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (fragment, next) = after.split_at_checked(length).unwrap_or((after, &[]));
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        rest = next;
    }
    message
}

/// The message, if it is the whole of the first record and all there.
fn lone_fragment(stream: &[u8]) -> Result<Option<&[u8]>, NotAHello> {
    let Some((header, rest)) = stream.split_first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    let Some(fragment) = rest.get(..fragment_length(*header)?) else {
        return Ok(None);
    };
    Ok((message_length(fragment)? == Some(fragment.len())).then_some(fragment))
}

/// The length of a record's fragment, from its header.
fn fragment_length(header: [u8; RECORD_HEADER]) -> Result<usize, NotAHello> {
    let [content_type, major, minor, high, low] = header;
    if content_type != HANDSHAKE {
        return Err(NotAHello::RecordType);
    }
    // What clients put here is 1.0 for the sake of old middleboxes, or 1.2. RFC 8446 has
    // servers ignore it; anything outside the range is not a TLS client's doing.
    if major != 3 || !(1..=3).contains(&minor) {
        return Err(NotAHello::RecordVersion);
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Err(NotAHello::EmptyRecord),
        length if length > MAX_FRAGMENT => Err(NotAHello::RecordLength),
        length => Ok(length),
    }
}

/// The length of the whole message with its header, once its start has been seen.
fn message_length(message: &[u8]) -> Result<Option<usize>, NotAHello> {
    match message {
        [] | [CLIENT_HELLO] | [CLIENT_HELLO, _] | [CLIENT_HELLO, _, _] => Ok(None),
        [CLIENT_HELLO, high, middle, low, ..] => {
            let [high, middle, low] = [*high, *middle, *low].map(usize::from);
            match MESSAGE_HEADER + (high << 16 | middle << 8 | low) {
                length if length > MAX_HELLO - RECORD_HEADER => Err(NotAHello::TooLarge),
                length => Ok(Some(length)),
            }
        }
        _ => Err(NotAHello::NotClientHello),
    }
}
