//! What the verifier knows of values, taken from it.
//!
//! It follows each way through a program with all that it knows of values there. A packet is read in
//! many ways, of which each ends with other constants; known in what follows, they had it followed once
//! for each: the guard took more instructions to verify than Linux 6.1 allows. Now it is 13,000 on Linux 6.18.

use core::mem;
use egress_common::{Addr, Course, Packet, Port, Sender, Transport};

use crate::packet::Buffer;

/// The bit of the word of [`Transport`] that says whether the packet is steered.
const STEERED: u8 = 1 << 7;

const _: () = assert!((Transport::Hidden as u8) < STEERED, "the last one");

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
    pub(crate) fn word(self, word: u32) -> u32 {
        word ^ self.0
    }

    #[inline(always)]
    pub(crate) fn long(self, long: u64) -> u64 {
        long ^ u64::from(self.0)
    }

    #[inline(always)]
    pub(crate) fn flag(self, flag: bool) -> bool {
        self.word(flag.into()) != 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "it was a byte")]
    fn byte(self, byte: u8) -> u8 {
        self.word(byte.into()) as u8
    }

    #[inline(always)]
    pub(crate) fn sender(self, sender: Sender) -> Sender {
        // SAFETY: the value of a variant, unchanged.
        unsafe { mem::transmute::<u8, Sender>(self.byte(sender as u8)) }
    }

    #[inline(always)]
    pub(crate) fn course(self, course: Course) -> Course {
        // SAFETY: the value of a variant, unchanged.
        unsafe { mem::transmute::<u8, Course>(self.byte(course as u8)) }
    }
}

/// The packet by way of the words that the buffer has for programs: five, so that nothing of it stays
/// in a register. Where they hold something of the kernel's, as at a cgroup, it keeps that aside and puts
/// it back; at a device other programs find them written over.
#[inline(always)]
pub(crate) fn veil(buffer: Buffer, packet: Packet) -> Packet {
    let [a, b, c, d] = packet.dst.be_words();
    let [port_0, port_1] = packet.port.to_be().to_ne_bytes();
    let steered = if packet.steered { STEERED } else { 0 };
    let rest = [
        port_0,
        port_1,
        packet.protocol,
        packet.transport as u8 | steered,
    ];
    let [a, b, c, d, rest] = through(buffer, [a, b, c, d, u32::from_ne_bytes(rest)]);
    let [port_0, port_1, protocol, transport] = rest.to_ne_bytes();
    Packet {
        dst: Addr::from_be_words([a, b, c, d]),
        protocol,
        // SAFETY: the value of a variant, unchanged.
        transport: unsafe { mem::transmute::<u8, Transport>(transport & !STEERED) },
        port: Port::from_be(u16::from_ne_bytes([port_0, port_1])),
        steered: transport & STEERED != 0,
    }
}

#[inline(always)]
fn through(buffer: Buffer, words: [u32; 5]) -> [u32; 5] {
    // SAFETY: the kernel hands a valid context to the program, with these five words, which are the
    // program's to write.
    unsafe {
        let first = (&raw mut (*buffer.skb).cb).cast::<u32>();
        for (i, word) in words.into_iter().enumerate() {
            first.add(i).write_volatile(word);
        }
        [0, 1, 2, 3, 4].map(|i| first.add(i).read_volatile())
    }
}
