use super::*;

#[test]
fn hosts_are_read_into_the_form_of_names() {
    for (typed, name) in [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("bu\u{308}cher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("r3---sn.example.org", "r3---sn.example.org"),
        ("localhost", "localhost"),
    ] {
        assert_eq!(Host::parse(typed), Ok(Host::Exact(name.into())), "{typed}");
        let wildcard = Host::parse(&format!("*.{typed}"));
        assert_eq!(wildcard, Ok(Host::Below(name.into())), "*.{typed}");
    }
    assert_eq!(Host::parse("*"), Ok(Host::Any));
}

#[test]
fn hosts_that_are_none_say_why() {
    let wildcard = "`*` stands for one or more whole labels at the start, as in \
                    `*.example.org`, and for nothing else";
    let url = "a host is a name alone, without scheme and path";
    let port = "the port stands apart from the host, under `ports` or in `--port`";
    let address = "an address, or what can be read as one, is not a host: it is the name that \
                   is judged, and a client that connects to an address sends none";
    let unicode = "this cannot be written as an internationalised name (IDNA, UTS 46)";
    for (typed, why) in [
        ("*foo.org", wildcard),
        ("foo*.org", wildcard),
        ("foo.*.org", wildcard),
        ("*.*.org", wildcard),
        ("**.org", wildcard),
        ("foo.*", wildcard),
        ("*.", "the name is empty"),
        ("https://example.org", url),
        ("example.org/path", url),
        ("https://*.example.org/", url),
        ("example.org:443", port),
        ("*.example.org:443", port),
        ("10.0.0.1", address),
        ("10.0.0.0/8", address),
        ("::1", address),
        ("[::1]", address),
        ("2001:db8::/32", address),
        ("::ffff:10.0.0.1", address),
        ("2130706433", address),
        ("0x7f.1", address),
        ("0177.0.0.1", address),
        ("１２７.0.0.1", address),
        ("*.10.0.0.1", address),
        (
            ".example.org",
            "write `*.example.org` for the names below `example.org`",
        ),
        ("＊.example.org", unicode),
        ("exa\u{200e}mple.org", unicode),
        ("ü ü.org", unicode),
        (
            "a..org",
            "the name has an empty label: it starts with a dot or has two in a row",
        ),
        (
            "example.org..",
            "the name has an empty label: it starts with a dot or has two in a row",
        ),
        ("-a.org", "a label of the name starts or ends with '-'"),
    ] {
        let told = Host::parse(typed).map_err(|error| error.to_string());
        assert_eq!(told, Err(why.to_owned()), "{typed}");
    }
    for typed in ["ex ample.org", "a,b", "a_b!", "a\\b", "a@b.org"] {
        assert!(Host::parse(typed).is_err(), "{typed}");
    }
    let long = format!("{}.org", "ü".repeat(60));
    assert!(Host::parse(&long).is_err());
}
