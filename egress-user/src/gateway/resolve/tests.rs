//! The resolver against a name server that lies on purpose.

use std::net::Ipv4Addr;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use tokio::net::TcpListener;

use super::*;
use crate::dns::tests::ips;
use crate::dns::tests::liar::{By, Ca, Liar, Say};

impl Liar {
    fn resolver(&self) -> Resolver {
        resolver(self.addr.into(), None)
    }
}

fn resolver(server: NameServer, ca: Option<&Ca>) -> Resolver {
    Resolver::new(ResolveOptions {
        servers: vec![server],
        ca: ca.map(|ca| ca.file.path().to_owned()),
        ..ResolveOptions::default()
    })
    .unwrap()
}

fn name(text: &str) -> ServerName {
    ServerName::parse(text.as_bytes()).unwrap()
}

fn dialable(resolved: &Resolved) -> Vec<IpAddr> {
    resolved.dialable.iter().map(|addr| addr.ip()).collect()
}

async fn reason(resolver: &Resolver, text: &str) -> String {
    let refusal = resolver.resolve(&name(text), 443).await.unwrap_err();
    refusal.reason.into_owned()
}

/// D2 and D3: every kind of special address, in every form that leads to it.
#[tokio::test]
async fn a_name_that_leads_to_special_addresses_only_leads_nowhere() {
    const SPECIAL: &[&str] = &[
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
        "2001:0:53aa:64c::",
    ];
    let liar = Liar::new(|_, _| Say::Addresses(SPECIAL, 60)).await;
    let resolved = liar.resolver().resolve(&name("a.example.org"), 443).await;
    let resolved = resolved.unwrap();
    assert_eq!(resolved.dialable, []);
    let mut forbidden = resolved.forbidden.clone();
    let mut special = ips(SPECIAL);
    forbidden.sort();
    special.sort();
    assert_eq!(forbidden, special);
}

/// D4.
#[tokio::test]
async fn forbidden_addresses_are_left_out_of_a_mixed_answer() {
    const MIXED: &[&str] = &["10.0.0.1", "185.15.59.224", "169.254.169.254"];
    let liar = Liar::new(|_, _| Say::Addresses(MIXED, 60)).await;
    let resolver = liar.resolver();
    let resolved = resolver.resolve(&name("a.example.org"), 443).await.unwrap();
    assert_eq!(dialable(&resolved), ips(&["185.15.59.224"]));
    assert_eq!(resolved.forbidden, ips(&["10.0.0.1", "169.254.169.254"]));
}

/// An IPv4 address that may not be dialled, in haste, decides nothing about a late IPv6 address.
#[tokio::test]
async fn what_may_not_be_dialled_does_not_cut_the_other_family_short() {
    let liar = Liar::new(|_, _| Say::Nothing).await;
    let resolver = liar.resolver();
    let patience = |list: &[&str]| resolver.patience(&ips(list));
    assert_eq!(patience(&["127.0.0.1", "10.0.0.1"]), None);
    assert_eq!(patience(&["127.0.0.1", "2a02::1"]), Some(RESOLUTION_DELAY));
}

/// D5: another answer to each question, and a lifetime of nothing. One answer is checked, and the
/// same one is what there is to dial.
#[tokio::test]
async fn an_answer_that_changes_is_checked_each_time() {
    let liar = Liar::new(|_, before| match before {
        0 => Say::Addresses(&["185.15.59.224"], 0),
        _ => Say::Addresses(&["127.0.0.1"], 0),
    })
    .await;
    let resolver = liar.resolver();
    let first = resolver.resolve(&name("a.example.org"), 443).await.unwrap();
    assert_eq!(dialable(&first), ips(&["185.15.59.224"]));
    let a_questions = |liar: &Liar| {
        let asked = liar.asked();
        asked
            .iter()
            .filter(|(_, kind)| *kind == RecordType::A)
            .count()
    };
    let asked = a_questions(&liar);
    // The least time that an answer is kept holds rebinding off, too.
    let again = resolver.resolve(&name("a.example.org"), 443).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(a_questions(&liar), asked);

    let fresh = liar.resolver();
    let second = fresh.resolve(&name("a.example.org"), 443).await.unwrap();
    assert_eq!(dialable(&second), ips(&[]));
    assert_eq!(second.forbidden, ips(&["127.0.0.1"]));
}

/// D7: a name is asked for as it is.
#[tokio::test]
async fn nothing_is_appended_to_a_name() {
    let liar = Liar::new(|_, _| Say::Code(ResponseCode::NXDomain)).await;
    assert_eq!(
        reason(&liar.resolver(), "a.example").await,
        "name_not_found"
    );
    let mut asked = liar.asked();
    asked.sort();
    asked.dedup();
    let whole = "a.example.".to_owned();
    let both = [RecordType::A, RecordType::AAAA].map(|kind| (whole.clone(), kind));
    assert_eq!(asked, both);
}

/// D9.
#[tokio::test]
async fn each_failure_has_its_reason() {
    let liar = Liar::new(|name, _| match name {
        "gone.example.org" => Say::Code(ResponseCode::NXDomain),
        "empty.example.org" => Say::Addresses(&[], 60),
        "broken.example.org" => Say::Code(ResponseCode::ServFail),
        "refused.example.org" => Say::Code(ResponseCode::Refused),
        "loop.example.org" => Say::Alias("pool.example.org.", 60),
        "pool.example.org" => Say::Alias("loop.example.org.", 60),
        _ => Say::Nothing,
    })
    .await;
    let resolver = liar.resolver();
    for (name, expected) in [
        ("gone.example.org", "name_not_found"),
        ("empty.example.org", "name_has_no_address"),
        ("broken.example.org", "dns_failed"),
        ("refused.example.org", "dns_failed"),
        ("silent.example.org", "dns_timeout"),
    ] {
        assert_eq!(reason(&resolver, name).await, expected, "{name}");
    }
    // However it is called, it ends, and leads nowhere.
    let refused = resolver.resolve(&name("loop.example.org"), 443).await;
    assert!(refused.is_err(), "{refused:?}");
}

/// D9: what is not there is not asked for again at once.
#[tokio::test]
async fn negative_answers_are_kept() {
    let liar = Liar::new(|name, _| match name {
        "gone.example.org" => Say::Code(ResponseCode::NXDomain),
        _ => Say::Addresses(&[], 60),
    })
    .await;
    let resolver = liar.resolver();
    for name in ["gone.example.org", "empty.example.org"] {
        reason(&resolver, name).await;
        let asked = liar.asked();
        reason(&resolver, name).await;
        assert_eq!(liar.asked(), asked, "{name}");
    }
}

#[tokio::test]
async fn the_address_that_worked_comes_first_while_it_is_there() {
    const SOME: &[&str] = &["185.15.59.224", "185.15.59.225", "185.15.59.226"];
    let liar = Liar::new(|_, _| Say::Addresses(SOME, 60)).await;
    let resolver = liar.resolver();
    let name = name("a.example.org");
    let first = resolver.resolve(&name, 443).await.unwrap();
    assert_eq!(first.dialable.len(), 3);
    let last = Ipv4Addr::new(185, 15, 59, 226).into();
    resolver.worked(&name, last);
    let second = resolver.resolve(&name, 443).await.unwrap();
    assert_eq!(dialable(&second)[0], last);
    assert_eq!(second.dialable.len(), 3);
    // One that the name has left is not dialled.
    resolver.worked(&name, Ipv4Addr::new(185, 15, 59, 1).into());
    let third = resolver.resolve(&name, 443).await.unwrap();
    assert_eq!(third.dialable.len(), 3);
    assert!(!dialable(&third).contains(&Ipv4Addr::new(185, 15, 59, 1).into()));
}

#[tokio::test]
async fn an_answer_outlives_its_server_for_a_while() {
    let liar = Liar::new(|_, before| match before {
        0 => Say::Addresses(&["185.15.59.224"], 60),
        _ => Say::Code(ResponseCode::ServFail),
    })
    .await;
    let resolver = liar.resolver();
    let name = name("a.example.org");
    let fresh = resolver.resolve(&name, 443).await.unwrap();
    assert!(!fresh.stale);
    resolver.client.forget();
    let stale = resolver.resolve(&name, 443).await.unwrap();
    assert!(stale.stale);
    assert_eq!(stale.dialable, fresh.dialable);
}

#[test]
fn families_alternate() {
    let mixed = ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
    let want = ips(&["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(alternate(mixed), want);
    assert_eq!(alternate(Vec::new()), Vec::<IpAddr>::new());
}

#[tokio::test]
async fn a_pin_needs_no_server_and_knows_its_port() {
    let name = name("en.wikipedia.org");
    let pin = (("en.wikipedia.org".to_owned(), 443), ips(&["127.0.0.1"]));
    let resolver = Resolver::new(ResolveOptions {
        // Nobody listens there: an unpinned name fails.
        servers: vec!["127.0.0.1:1".parse().unwrap()],
        ca: None,
        pins: [pin].into(),
        forbidden: Forbidden::default(),
    })
    .unwrap();
    let resolved = resolver.resolve(&name, 443).await.unwrap();
    assert_eq!(resolved.dialable.len(), 1);
    let refusal = resolver.resolve(&name, 8443).await.unwrap_err();
    assert_eq!(refusal.class, Class::Unreachable, "{refusal}");
}

/// What is too long for UDP is asked for by TCP, of the same server.
#[tokio::test]
async fn an_answer_that_was_cut_short_is_asked_for_by_tcp() {
    let liar = Liar::new(|_, _| Say::Much(&["185.15.59.224"])).await;
    let resolved = liar.resolver().resolve(&name("a.example.org"), 443).await;
    assert_eq!(dialable(&resolved.unwrap()), ips(&["185.15.59.224"]));
    let by = liar.asked_by();
    assert!(by.contains(&By::Udp) && by.contains(&By::Tcp), "{by:?}");
}

#[tokio::test]
async fn a_server_that_is_to_be_asked_by_tcp_is_not_asked_otherwise() {
    let liar = Liar::new(|name, _| match name {
        "gone.example.org" => Say::Code(ResponseCode::NXDomain),
        _ => Say::Addresses(&["185.15.59.224", "10.0.0.1"], 60),
    })
    .await;
    let server = format!("tcp://{}", liar.addr).parse().unwrap();
    let resolver = resolver(server, None);
    let resolved = resolver.resolve(&name("a.example.org"), 443).await.unwrap();
    assert_eq!(dialable(&resolved), ips(&["185.15.59.224"]));
    assert_eq!(resolved.forbidden, ips(&["10.0.0.1"]));
    assert_eq!(
        reason(&resolver, "gone.example.org").await,
        "name_not_found"
    );
    assert!(liar.asked_by().iter().all(|by| *by == By::Tcp));
}

#[tokio::test]
async fn a_server_is_asked_by_tls_when_its_certificate_is_good() {
    let ca = Ca::new();
    for (of, suffix) in [
        ("dns.example.org", "#dns.example.org"),
        // Without a name it is for the address.
        ("127.0.0.1", ""),
    ] {
        let liar = Liar::by_tls(&ca, of, |_, _| Say::Addresses(&["185.15.59.224"], 60)).await;
        let server = format!("tls://{}{suffix}", liar.addr).parse().unwrap();
        let resolver = resolver(server, Some(&ca));
        let resolved = resolver.resolve(&name("a.example.org"), 443).await.unwrap();
        assert_eq!(dialable(&resolved), ips(&["185.15.59.224"]));
        assert!(liar.asked_by().contains(&By::Tls));
    }
}

/// Neither a CA that is not trusted nor another name will do, and nobody is told what was to be asked.
#[tokio::test]
async fn a_server_with_another_certificate_is_told_no_name() {
    let (ca, other) = (Ca::new(), Ca::new());
    for (signs, of) in [(&other, "dns.example.org"), (&ca, "dns.example.net")] {
        let liar = Liar::by_tls(signs, of, |_, _| Say::Addresses(&["185.15.59.224"], 60)).await;
        let server = format!("tls://{}#dns.example.org", liar.addr)
            .parse()
            .unwrap();
        let resolver = resolver(server, Some(&ca));
        assert_eq!(reason(&resolver, "a.example.org").await, "dns_failed");
        assert_eq!(liar.asked(), []);
    }
}

#[tokio::test]
async fn a_tls_server_that_says_nothing_is_not_waited_for_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("tls://{}#dns.example.org", silent.local_addr().unwrap());
    let resolver = resolver(server.parse().unwrap(), Some(&Ca::new()));
    assert_eq!(reason(&resolver, "a.example.org").await, "dns_timeout");
}

#[test]
fn ca_certificates_that_cannot_be_used_are_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let build = |ca: &std::path::Path| {
        let options = ResolveOptions {
            servers: vec!["tls://192.0.2.53#dns.example.org".parse().unwrap()],
            ca: Some(ca.to_owned()),
            ..ResolveOptions::default()
        };
        Resolver::new(options).err().unwrap().to_string()
    };
    let error = build(file.path());
    assert!(error.contains("has no CA certificate"), "{error}");
    let error = build(std::path::Path::new("/nonexistent/ca.pem"));
    assert!(
        error.starts_with("cannot read the CA certificates in /nonexistent"),
        "{error}"
    );
}
