use super::*;

fn canonical(raw: &str) -> String {
    ServerName::parse(raw.as_bytes()).unwrap().to_string()
}

fn refused(raw: impl AsRef<[u8]>) -> NameError {
    let raw = raw.as_ref();
    match ServerName::parse(raw) {
        Ok(name) => panic!("{} became {name}", raw.escape_ascii()),
        Err(why) => why,
    }
}

#[test]
fn b6_case_and_one_trailing_dot() {
    assert_eq!(canonical("En.WIKIPEDIA.org"), "en.wikipedia.org");
    assert_eq!(canonical("en.wikipedia.org."), "en.wikipedia.org");
}

#[test]
fn equal_names_are_equal_however_they_were_written() {
    let one = ServerName::parse(b"A.example.").unwrap();
    let other = ServerName::parse(b"a.EXAMPLE").unwrap();
    assert_eq!(one, other);
    assert_eq!(format!("{one:?}"), "\"a.example\"");
    assert_eq!(serde_json::to_string(&one).unwrap(), "\"a.example\"");
}

#[test]
fn b7_dots_and_lengths() {
    assert_eq!(refused(""), NameError::Empty);
    for name in [
        ".",
        "..",
        "a.example..",
        ".a.example",
        "a..example",
        ".a.example.",
    ] {
        assert_eq!(refused(name), NameError::EmptyLabel, "{name}");
    }
    let label = "a".repeat(63);
    assert_eq!(
        canonical(&format!("{label}.example")),
        format!("{label}.example")
    );
    assert_eq!(refused(format!("{label}a.example")), NameError::Length);

    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert_eq!(canonical(&longest), longest);
    assert_eq!(canonical(&format!("{longest}.")), longest);
    assert_eq!(refused(format!("{longest}a")), NameError::Length);
}

#[test]
fn b8_characters() {
    for byte in 0..=u8::MAX {
        let name = [b"a", [byte].as_slice(), b"a.example"].concat();
        let allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        match ServerName::parse(&name) {
            Ok(_) => assert!(allowed, "{}", name.escape_ascii()),
            Err(why) => {
                assert!(!allowed, "{}", name.escape_ascii());
                assert_eq!(why, NameError::Character);
            }
        }
    }
    for name in [
        "*.example.org",
        "a.example:443",
        "https://a.example",
        "user@a.example",
    ] {
        assert_eq!(refused(name), NameError::Character, "{name}");
    }
}

#[test]
fn hyphens_and_underscores() {
    for name in [
        "_dmarc.example",
        "a_b.example",
        "a_.example",
        "a--b.example",
        "1-2.example",
    ] {
        assert_eq!(canonical(name), name);
    }
    for name in ["-a.example", "a-.example", "a.-example", "a.example-", "-"] {
        assert_eq!(refused(name), NameError::Hyphen, "{name}");
    }
}

#[test]
fn b9_a_labels_only() {
    assert_eq!(canonical("xn--bcher-kva.example"), "xn--bcher-kva.example");
    assert_eq!(refused("bücher.example"), NameError::Character);
}

/// Each of these is an address to `inet_aton`, to a browser or to a URL library.
#[test]
fn b10_addresses_in_every_notation() {
    let addresses = [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0X7F000001",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "0177.0.0.1",
        "127.0.0x1",
        "1.2.3.4.5",
        "0",
        "0x",
        "256.256.256.256",
        "1.2.3.09",
        "a.example.1",
        "a.example.0xff",
        "::1",
        "[::1]",
        "[::1].",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "::",
    ];
    for address in addresses {
        assert_eq!(refused(address), NameError::IpLiteral, "{address}");
    }
    for name in [
        "1.example",
        "127.0.0.1.example",
        "0x7f.example",
        "3com.com",
        "1e100.net",
        "a.0xg",
        "a.1a",
    ] {
        assert_eq!(canonical(name), name);
    }
}

#[test]
fn b11_single_labels_are_marked() {
    for name in ["localhost", "localhost.", "kubernetes", "a"] {
        assert!(
            ServerName::parse(name.as_bytes())
                .unwrap()
                .is_single_label(),
            "{name}"
        );
    }
    for name in ["a.example", "kubernetes.default.svc", "a.b."] {
        assert!(
            !ServerName::parse(name.as_bytes())
                .unwrap()
                .is_single_label(),
            "{name}"
        );
    }
}

#[test]
fn raw_names_are_safe_to_print() {
    assert_eq!(
        RawName::new(b"a\0b\n\"c\xff").as_str(),
        r#"a\x00b\n\"c\xff"#
    );
    assert_eq!(
        RawName::pair(b"a.example", b"\t").as_str(),
        r"a.example, \t"
    );
    let long = RawName::new(&[b'a'; 300]);
    assert_eq!(long.as_str(), "a".repeat(RawName::MAX) + "...");
    let whole = RawName::new(&[b'a'; RawName::MAX]);
    assert_eq!(whole.as_str(), "a".repeat(RawName::MAX));
}

#[test]
fn raw_name_shares_the_canonical_text() {
    let name = ServerName::parse(b"a.example").unwrap();
    assert!(Arc::ptr_eq(&RawName::of(b"a.example", &name).0, &name.0));
    assert_eq!(RawName::of(b"A.example.", &name).as_str(), "A.example.");
}
