//! B3 and B18: hellos that are large, and hellos that are too large.

use super::build::{Build, record, records, u16_prefixed};
use super::{accepted, advance, reason, refused};
use crate::hello::{MAX_EXTENSIONS, MAX_HELLO, NotAHello, Progress};

#[test]
fn b3_large_key_shares() {
    for size in [1216, 1800, 9000, 17_000, 60_000] {
        let share = [&[0x11, 0xec], &*u16_prefixed(&vec![7; size])].concat();
        let build = Build::new("a.example").with(51, u16_prefixed(&share));
        let stream = records(&build.message(), 1 << 14);
        assert_eq!(
            accepted(&stream).server_name.as_str(),
            "a.example",
            "{size}"
        );
    }
}

#[test]
fn b18_declared_too_large() {
    // Refused when the lengths are there, without waiting for what they promise.
    let (why, taken) = refused(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff");
    assert_eq!((why, taken), (NotAHello::TooLarge, 9));
    let (why, taken) = refused(b"\x16\x03\x01\x40\x00\x01\x01\x00\x00");
    assert_eq!((why, taken), (NotAHello::TooLarge, 9));
    let (why, taken) = refused(b"\x16\x03\x01\x40\x01");
    assert_eq!((why, taken), (NotAHello::RecordLength, 5));
    assert_eq!(
        advance(b"\x16\x03\x01\x40\x00\x01\x00\xff\xf7"),
        Progress::NeedMore
    );
    assert_eq!(
        advance(b"\x16\x03\x01\x40\x00\x01\x00\xff\xf8"),
        Progress::Not(NotAHello::TooLarge)
    );
}

#[test]
fn b18_too_large_by_fragmentation() {
    // 60 bytes a record: the message is under the cap, its records are over it.
    let build = Build::new("a.example").with(21, vec![0; 60_400]);
    assert!(build.message().len() < MAX_HELLO);
    accepted(&records(&build.message(), 1 << 14));
    let (why, taken) = refused(&records(&build.message(), 60));
    assert_eq!(why, NotAHello::TooLarge);
    assert!(taken <= MAX_HELLO);
}

/// A buffer of [`MAX_HELLO`] bytes is enough for an answer.
#[test]
fn b18_records_up_to_the_cap() {
    let message = [&[1, 0, 0xff, 0xf7][..], &[0; 0xfff7]].concat();
    let stream = records(&message, 1 << 14);
    assert!(stream.len() > MAX_HELLO);
    // The last record ends before the cap, at it, or leaves no room for another header.
    for room in 0..12 {
        let (most, rest) = message.split_at(3 << 14);
        let end = MAX_HELLO - 4 * 5 - (3 << 14) - room;
        let (last, over) = rest.split_at(end);
        let stream = [&records(most, 1 << 14), &*record(last), &*record(over)].concat();
        let (why, taken) = refused(&stream);
        assert_eq!(why, NotAHello::TooLarge, "{room}");
        assert!(taken <= MAX_HELLO, "{room}: {taken}");
    }
}

#[test]
fn b18_thousands_of_extensions() {
    let many = |count: u16| {
        let mut build = Build::new("a.example");
        for kind in 0..count {
            build = build.with(0x2000 + kind, []);
        }
        records(&build.message(), 1 << 14)
    };
    let most = u16::try_from(MAX_EXTENSIONS).unwrap();
    accepted(&many(most - 5));
    assert_eq!(reason(&many(most - 4)), "too_many_extensions");
    assert_eq!(reason(&many(5000)), "too_many_extensions");
}
