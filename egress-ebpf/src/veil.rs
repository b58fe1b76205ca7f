//! What the verifier knows of values, taken from it.
//!
//! It follows each way through a program with all that it knows of values there. A packet is read in
//! many ways, of which each ends with other constants; known in what follows, they had it followed once
//! for each: half a million instructions on Linux 6.18, and more than Linux 6.1 takes. Now it is 45,000.
//! The destination is left as it is, since what is known of an IPv4 address saves more than it costs.

use core::mem;
use egress_common::{Packet, Port, Sender, Transport};

use crate::packet::Buffer;

/// Makes values of which the verifier knows nothing.
#[derive(Clone, Copy)]
pub(crate) struct Veil(u32);

impl Veil {
    #[inline(always)]
    pub(crate) fn of(buffer: Buffer) -> Veil {
        // SAFETY: the kernel hands a valid context to the program, with this word.
        let len = unsafe { (&raw const (*buffer.skb).len).read_volatile() };
        // Zero, since no packet is so long; and for all that the verifier knows any number.
        Veil((len.cast_signed() >> 31).cast_unsigned())
    }

    #[inline(always)]
    fn word(self, word: u32) -> u32 {
        word ^ self.0
    }

    #[inline(always)]
    fn flag(self, flag: bool) -> bool {
        self.word(flag.into()) != 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "it was a port")]
    fn port(self, port: Port) -> Port {
        Port::from_be(self.word(port.to_be().into()) as u16)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "it was a byte")]
    fn byte(self, byte: u8) -> u8 {
        self.word(byte.into()) as u8
    }

    #[inline(always)]
    pub(crate) fn packet(self, packet: Packet) -> Packet {
        // SAFETY: the value of a variant, unchanged.
        let transport =
            unsafe { mem::transmute::<u8, Transport>(self.byte(packet.transport as u8)) };
        Packet {
            dst: packet.dst,
            protocol: self.byte(packet.protocol),
            transport,
            port: self.port(packet.port),
            steered: self.flag(packet.steered),
        }
    }

    #[inline(always)]
    pub(crate) fn sender(self, sender: Sender) -> Sender {
        // SAFETY: the value of a variant, unchanged.
        unsafe { mem::transmute::<u8, Sender>(self.byte(sender as u8)) }
    }
}
