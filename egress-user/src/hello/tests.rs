//! One test or more for each way of lying in a ClientHello.

pub(super) mod build;
mod size;
mod structure;

use super::*;
use crate::refusal::{Class, Refusal};
use build::{Build, record, records, server_names, u8_prefixed, u16_prefixed};

fn advance(stream: &[u8]) -> Progress {
    Parser::new().advance(stream)
}

fn accepted(stream: &[u8]) -> ClientHello {
    let answer = advance(stream);
    assert_eq!(byte_by_byte(stream).0, answer);
    match answer {
        Progress::Hello(hello) => *hello,
        other => panic!("{other:?}"),
    }
}

/// The refusal, and how many bytes it took.
fn refused(stream: &[u8]) -> (NotAHello, usize) {
    let answer = advance(stream);
    let (slowly, taken) = byte_by_byte(stream);
    assert_eq!(slowly, answer);
    match answer {
        Progress::Not(why) => (why, taken),
        other => panic!("{other:?}"),
    }
}

fn reason(stream: &[u8]) -> &'static str {
    refused(stream).0.reason()
}

/// The answer to a stream that arrives one byte at a time, and how many bytes it took. Once
/// given, the answer stays.
fn byte_by_byte(stream: &[u8]) -> (Progress, usize) {
    let mut parser = Parser::new();
    for taken in 0..=stream.len() {
        let answer = parser.advance(&stream[..taken]);
        if answer != Progress::NeedMore {
            assert_eq!(parser.advance(stream), answer);
            return (answer, taken);
        }
    }
    (Progress::NeedMore, stream.len())
}

#[test]
fn b1_any_segments() {
    let stream = Build::new("a.example").stream();
    let whole = advance(&stream);
    for at in 0..stream.len() {
        let mut parser = Parser::new();
        assert_eq!(parser.advance(&stream[..at]), Progress::NeedMore, "{at}");
        assert_eq!(parser.advance(&stream), whole, "{at}");
    }
    assert_eq!(accepted(&stream).server_name.as_str(), "a.example");
}

#[test]
fn b2_any_records() {
    let build = Build::new("a.example");
    let whole = accepted(&build.stream());
    let message = build.message();
    for at in 1..message.len() {
        let two = [record(&message[..at]), record(&message[at..])].concat();
        assert_eq!(accepted(&two), whole, "{at}");
    }
    for size in 1..message.len() {
        assert_eq!(accepted(&records(&message, size)), whole, "{size}");
    }
}

#[test]
fn b2_empty_record() {
    let message = Build::new("a.example").message();
    let empty = record(b"");
    assert_eq!(
        refused(&[&empty, &*record(&message)].concat()),
        (NotAHello::EmptyRecord, 5)
    );
    let (start, rest) = message.split_at(60);
    let between = [record(start), empty, record(rest)].concat();
    assert_eq!(refused(&between), (NotAHello::EmptyRecord, 5 + 60 + 5));
}

#[test]
fn b2_other_records_between() {
    let message = Build::new("a.example").message();
    let (start, rest) = message.split_at(60);
    for kind in [20, 21, 23, 24, 0, 255] {
        let between = [&*record(start), &[kind, 3, 3, 0, 1, 1], &*record(rest)].concat();
        assert_eq!(reason(&between), "record_type", "{kind}");
    }
}

#[test]
fn b4_two_names() {
    let two = server_names(&[(0, b"a.example"), (0, b"b\n.example")]);
    let (why, _) = refused(&Build::new("").replace(0, two).stream());
    assert_eq!(why.reason(), "two_names");
    assert_eq!(why.raw_name().unwrap().as_str(), r"a.example, b\n.example");

    let same = server_names(&[(0, b"a.example"), (0, b"a.example")]);
    assert_eq!(
        reason(&Build::new("").replace(0, same).stream()),
        "two_names"
    );
}

#[test]
fn b4_same_extension_twice() {
    let name = server_names(&[(0, b"a.example")]);
    for twice in [
        Build::new("a.example").with(0, name),
        Build::new("a.example").with(10, u16_prefixed(&[0, 0x1d])),
        Build::new("a.example")
            .with(0x1234, [])
            .with(0x4321, [])
            .with(0x1234, [1]),
        Build::new("a.example").with(0x0a0a, []).with(0x0a0a, []),
    ] {
        assert_eq!(reason(&twice.stream()), "duplicate_extension");
    }
    accepted(
        &Build::new("a.example")
            .with(0x0a0a, [])
            .with(0x1a1a, [0])
            .stream(),
    );
}

#[test]
fn b4_name_type() {
    for names in [
        &[(1, b"a.example".as_slice())][..],
        &[(1, b"a.example"), (0, b"a.example")],
        &[(0, b"a.example"), (1, b"a.example")],
        &[(255, b"")],
    ] {
        let stream = Build::new("").replace(0, server_names(names)).stream();
        assert_eq!(reason(&stream), "name_type", "{names:?}");
    }
}

#[test]
fn b6_canonical_and_raw() {
    let hello = accepted(&Build::new("EN.Wikipedia.org.").stream());
    assert_eq!(hello.server_name.as_str(), "en.wikipedia.org");
    assert_eq!(hello.raw_name.as_str(), "EN.Wikipedia.org.");
}

#[test]
fn b7_to_b10_refused_names() {
    let long = "a".repeat(64);
    for (name, expected) in [
        ("", "empty_name"),
        ("a.example..", "empty_label"),
        (".a.example", "empty_label"),
        (&*format!("{long}.example"), "name_length"),
        (&*format!("{}a.example", "a.".repeat(200)), "name_length"),
        ("a.example\0.evil.example", "name_character"),
        ("a.example/", "name_character"),
        ("a.example\r\n", "name_character"),
        ("a\".example", "name_character"),
        (" a.example", "name_character"),
        ("bücher.example", "name_character"),
        ("-a.example", "name_hyphen"),
        ("127.0.0.1", "ip_literal"),
        ("[::1]", "ip_literal"),
        ("2130706433", "ip_literal"),
        ("0x7f000001", "ip_literal"),
    ] {
        let (why, _) = refused(&Build::new(name).stream());
        assert_eq!(why.reason(), expected, "{name}");
        assert_eq!(
            Refusal::from(&why),
            Refusal::new(Class::UnknownName, expected)
        );
        assert_eq!(why.raw_name(), Some(&RawName::new(name.as_bytes())));
    }
}

#[test]
fn b9_a_label() {
    let hello = accepted(&Build::new("XN--bcher-kva.example").stream());
    assert_eq!(hello.server_name.as_str(), "xn--bcher-kva.example");
}

#[test]
fn b11_single_label() {
    assert!(
        accepted(&Build::new("localhost").stream())
            .server_name
            .is_single_label()
    );
}

#[test]
fn b12_no_name() {
    let (why, _) = refused(&Build::new("").without(0).stream());
    assert_eq!(Refusal::from(why), Refusal::new(Class::Denied, "no_sni"));

    let bare = build::handshake(1, &Build::new("").fixed_part());
    assert_eq!(reason(&record(&bare)), "no_sni");
}

#[test]
fn b13_ech_is_reported() {
    assert_eq!(accepted(&Build::new("a.example").stream()).ech, Ech::Absent);
    let outer = [
        &[0, 0, 1, 0, 1, 7][..],
        &u16_prefixed(&[9; 32]),
        &u16_prefixed(&[8; 144]),
    ];
    let stream = Build::new("a.example")
        .with(0xfe0d, outer.concat())
        .stream();
    assert_eq!(accepted(&stream).ech, Ech::Outer);
}

#[test]
fn b15_what_follows_is_not_read() {
    let stream = Build::new("a.example").with(42, []).stream();
    let alone = accepted(&stream);
    let change_cipher_spec = [20, 3, 3, 0, 1, 1];
    let early_data = [&[23, 3, 3], &*u16_prefixed(&[0xee; 100])].concat();
    for after in [
        [&change_cipher_spec, &*early_data].concat(),
        early_data,
        Build::new("b.example").stream(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        vec![22, 3, 3, 0, 0],
    ] {
        assert_eq!(accepted(&[stream.clone(), after].concat()), alone);
    }
}

#[test]
fn b16_other_protocols() {
    for (start, expected, taken) in [
        (&b"GET / HTTP/1.1\r\n"[..], "plain_http", 4),
        (b"OPTIONS * HTTP/1.1\r\n", "plain_http", 8),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain_http", 6),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh", 4),
        (b"GETTING", "not_tls", 4),
        (b"EHLO example\r\n", "not_tls", 1),
        (b"\0\0\0\0", "not_tls", 1),
        (b"\x16\x14\x03\x01", "not_tls", 2),
        (b"\xff\xfe\xfd\xfc\xfb", "not_tls", 3),
        (b"\x80\x2e\x01\x00\x02\x00\x15", "sslv2", 5),
        (b"\x80\x67\x01\x03\x01\x00\x4e", "sslv2", 5),
        (b"\x80\x67\x01\x04\x01\x00\x4e", "not_tls", 4),
        // change_cipher_spec, alert, application_data before a hello.
        (b"\x14\x03\x03\x00\x01\x01", "record_type", 2),
        (b"\x15\x03\x03\x00\x02\x01\x00", "record_type", 2),
        (b"\x17\x03\x03\x00\x01\x01", "record_type", 2),
        (b"\x15\x30", "not_tls", 2),
    ] {
        let (why, bytes) = refused(start);
        assert_eq!(
            (why.reason(), bytes),
            (expected, taken),
            "{}",
            start.escape_ascii()
        );
        assert_eq!(why.class(), Class::Malformed);
    }
}

#[test]
fn b16_old_versions() {
    for (version, offered) in [
        (0x0302, None),
        (0x0301, None),
        (0x0300, None),
        (0x0002, None),
        (0x0303, Some(&[3, 2, 3, 1][..])),
        (0x0303, Some(&[0x3a, 0x3a, 3, 2])),
        (0x0303, Some(&[0x3a, 0x3a])),
    ] {
        let mut build = Build::new("A.example").without(43);
        build.version = version;
        if let Some(offered) = offered {
            build = build.with(43, u8_prefixed(offered));
        }
        let (why, _) = refused(&build.stream());
        assert_eq!(
            why,
            NotAHello::OldVersion(RawName::new(b"A.example")),
            "{version:04x}"
        );
        assert_eq!(why.class(), Class::Denied);
    }
}

#[test]
fn versions_offered() {
    let offered = |build: Build| -> Vec<String> {
        let versions = accepted(&build.stream()).versions;
        versions.iter().map(ToString::to_string).collect()
    };
    assert_eq!(offered(Build::new("a.example")), ["TLS1.3", "TLS1.2"]);
    assert_eq!(offered(Build::new("a.example").without(43)), ["TLS1.2"]);

    let list = u8_prefixed(&[0x4a, 0x4a, 0x7f, 0x1c, 3, 4, 3, 1]);
    let mut build = Build::new("a.example").replace(43, list);
    // With the extension there, this does not count.
    build.version = 0x0301;
    assert_eq!(offered(build), ["0x7f1c", "TLS1.3", "TLS1.0"]);
}

#[test]
fn b17_nothing_yet() {
    for start in [
        &b""[..],
        b"\x16",
        b"\x16\x03",
        b"\x16\x03\x01\x02\x00\x01",
        b"GE",
        b"SS",
        b"\x80",
    ] {
        assert_eq!(
            advance(start),
            Progress::NeedMore,
            "{}",
            start.escape_ascii()
        );
    }
}

#[test]
fn alpn_is_escaped_and_cut() {
    let hello = accepted(&Build::new("a.example").stream());
    assert_eq!(hello.alpn, ["h2", "http/1.1"]);

    let list = u16_prefixed(b"\x03\x0a\x0a\n\x02h2");
    let hello = accepted(&Build::new("a.example").replace(16, list).stream());
    assert_eq!(hello.alpn, [r"\n\n\n", "h2"]);

    let thousands = u16_prefixed(&b"\x01x".repeat(8000));
    let hello = accepted(&records(
        &Build::new("a.example").replace(16, thousands).message(),
        1 << 14,
    ));
    assert_eq!(hello.alpn, vec!["x"; MAX_ALPN]);
}

#[test]
fn second_hello_is_parsed_from_its_record() {
    let first = Build::new("a.example").stream();
    let second = Build::new("b.example").stream();
    let both = [first.clone(), second].concat();
    assert_eq!(accepted(&both).server_name.as_str(), "a.example");
    assert_eq!(
        accepted(&both[first.len()..]).server_name.as_str(),
        "b.example"
    );
}
