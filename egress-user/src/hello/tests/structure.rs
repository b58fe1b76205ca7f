//! B5: every length is consumed exactly, at every level.

use super::build::{Build, handshake, record, u8_prefixed, u16_prefixed};
use super::{accepted, advance, reason, refused};
use crate::hello::{NotAHello, Progress};

/// The hello with its extension block replaced by these bytes, its length included.
fn with_block(block: &[u8]) -> Vec<u8> {
    record(&handshake(
        1,
        &[&Build::new("").fixed_part(), block].concat(),
    ))
}

#[test]
fn record_after_the_message() {
    let message = Build::new("a.example").message();
    for tail in [&b"\0"[..], &message] {
        let stream = record(&[&message, tail].concat());
        // Known from the two lengths alone.
        assert_eq!(refused(&stream), (NotAHello::TrailingBytes, 9));
    }
    let (start, rest) = message.split_at(60);
    let second = [record(start), record(&[rest, b"\0"].concat())].concat();
    assert_eq!(refused(&second), (NotAHello::TrailingBytes, 5 + 60 + 5));
    let lengths = record(&message[..3]);
    let stream = [lengths, record(&[&message[3..], b"\0"].concat())].concat();
    assert_eq!(refused(&stream), (NotAHello::TrailingBytes, 5 + 3 + 5 + 1));
}

#[test]
fn record_versions() {
    let mut stream = Build::new("a.example").stream();
    for minor in 1..=3 {
        stream[2] = minor;
        accepted(&stream);
    }
    for minor in [0, 4, 255] {
        stream[2] = minor;
        assert_eq!(refused(&stream), (NotAHello::RecordVersion, 5));
    }
}

#[test]
fn other_handshake_messages() {
    let body = Build::new("a.example").message().split_off(4);
    for kind in [0, 2, 11, 16, 22, 255] {
        let stream = record(&handshake(kind, &body));
        assert_eq!(refused(&stream), (NotAHello::NotClientHello, 6), "{kind}");
    }
}

#[test]
fn message_too_short() {
    for length in 0..Build::new("").fixed_part().len() {
        let body = &Build::new("").fixed_part()[..length];
        assert_eq!(
            reason(&record(&handshake(1, body))),
            "inner_length",
            "{length}"
        );
    }
}

/// Whatever the declared length of the message is, only the true one is a hello.
#[test]
fn message_length_off() {
    let mut message = Build::new("a.example").message();
    message[3] -= 1;
    assert_eq!(reason(&record(&message)), "trailing_bytes");
    message[3] += 2;
    assert_eq!(advance(&record(&message)), Progress::NeedMore);
    let stream = [record(&message), record(b"\0")].concat();
    assert_eq!(reason(&stream), "trailing_bytes");
}

#[test]
fn after_the_extensions() {
    let mut build = Build::new("a.example");
    build.tail = vec![0];
    assert_eq!(reason(&build.stream()), "trailing_bytes");
    build.tail = vec![0; 200];
    assert_eq!(reason(&build.stream()), "trailing_bytes");
}

#[test]
fn extension_block() {
    assert_eq!(reason(&with_block(b"\0")), "inner_length");
    assert_eq!(reason(&with_block(b"\0\x05\0\x0a\0\0")), "inner_length");
    assert_eq!(reason(&with_block(b"\0\x03\0\x0a\0\0")), "trailing_bytes");
    assert_eq!(reason(&with_block(b"\0\x03\0\x0a\0")), "inner_length");
    assert_eq!(reason(&with_block(b"\0\x04\0\x0a\0\x01")), "inner_length");
    assert_eq!(reason(&with_block(b"\0\0")), "no_sni");
}

#[test]
fn lists_of_the_fixed_part() {
    let mut build = Build::new("a.example");
    build.ciphers = vec![];
    assert_eq!(reason(&build.stream()), "inner_length");
    build.ciphers = vec![0x13, 0x01, 0x13];
    assert_eq!(reason(&build.stream()), "inner_length");
    build.ciphers = vec![0x13, 0x01];
    build.compression = vec![];
    assert_eq!(reason(&build.stream()), "inner_length");
}

#[test]
fn session_id_too_long() {
    let mut message = Build::new("a.example").message();
    message[4 + 2 + 32] = 33;
    assert_eq!(reason(&record(&message)), "inner_length");
}

#[test]
fn server_name_extension() {
    for (data, expected) in [
        (&b""[..], "inner_length"),
        (b"\0", "inner_length"),
        // An empty list.
        (b"\0\0", "inner_length"),
        // The list beyond the extension, and short of it.
        (b"\0\x0d\0\0\x09a.example", "inner_length"),
        (b"\0\x0b\0\0\x09a.example", "trailing_bytes"),
        (b"\0\x0c\0\0\x09a.example\0", "trailing_bytes"),
        // The name beyond the list, and short of it.
        (b"\0\x0c\0\0\x0aa.example", "inner_length"),
        (b"\0\x0c\0\0\x08a.example", "inner_length"),
        (b"\0\x0d\0\0\x09a.example\0", "inner_length"),
        (b"\0\x0f\0\0\x09a.example\0\0\0", "two_names"),
    ] {
        let stream = Build::new("").replace(0, data).stream();
        assert_eq!(reason(&stream), expected, "{}", data.escape_ascii());
    }
}

#[test]
fn supported_versions_extension() {
    for (data, expected) in [
        (&b""[..], "inner_length"),
        (b"\0", "inner_length"),
        // What a server sends.
        (b"\x03\x04", "inner_length"),
        (b"\x02\x03", "inner_length"),
        (b"\x03\x03\x04\x03", "inner_length"),
        (b"\x06\x03\x04\x03\x03", "inner_length"),
        (b"\x02\x03\x04\x03\x03", "trailing_bytes"),
    ] {
        let stream = Build::new("a.example").replace(43, data).stream();
        assert_eq!(reason(&stream), expected, "{}", data.escape_ascii());
    }
}

#[test]
fn alpn_extension() {
    for (data, expected) in [
        (&b""[..], "inner_length"),
        (b"\0\x04\x02h2", "inner_length"),
        (b"\0\x03\x03h2", "inner_length"),
        (b"\0\x04\x02h2\x01", "inner_length"),
        (b"\0\x02\x02h2", "trailing_bytes"),
        (b"\0\x03\x02h2\0", "trailing_bytes"),
    ] {
        let stream = Build::new("a.example").replace(16, data).stream();
        assert_eq!(reason(&stream), expected, "{}", data.escape_ascii());
    }
}

#[test]
fn signature_algorithms_extension() {
    for (data, expected) in [
        (&b""[..], "inner_length"),
        (b"\0\x01\x04", "inner_length"),
        (b"\0\x04\x04\x03", "inner_length"),
        (b"\0\x02\x04\x03\x08", "trailing_bytes"),
    ] {
        let stream = Build::new("a.example").replace(13, data).stream();
        assert_eq!(reason(&stream), expected, "{}", data.escape_ascii());
    }
}

/// What the origin alone acts on is the origin's to judge.
#[test]
fn content_of_other_extensions_is_not_read() {
    for kind in [
        1, 5, 10, 11, 15, 28, 41, 42, 45, 48, 49, 51, 13172, 0xff01, 0xffce, 0x9999,
    ] {
        let build = Build::new("a.example").without(kind).with(kind, [0xff; 3]);
        accepted(&build.stream());
    }
}

/// Every single byte of a hello changed to every other value: never a panic, never another
/// name unless the byte is part of the name.
#[test]
fn one_byte_changed() {
    let stream = Build::new("a.example").stream();
    let name = stream
        .windows(9)
        .position(|window| window == b"a.example")
        .unwrap();
    for at in 0..stream.len() {
        for value in 0..=u8::MAX {
            let mut changed = stream.clone();
            changed[at] = value;
            if let Progress::Hello(hello) = advance(&changed)
                && hello.server_name.as_str() != "a.example"
            {
                assert!(
                    (name..name + 9).contains(&at),
                    "byte {at} to {value}: {hello:?}"
                );
            }
        }
    }
}

#[test]
fn prefixes_make_what_they_say() {
    assert_eq!(u8_prefixed(b"ab"), b"\x02ab");
    assert_eq!(u16_prefixed(b"ab"), b"\0\x02ab");
}
