//! What the files of a machine make of a name.

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;

use super::*;
use crate::dns::tests::ips;
use crate::dns::tests::liar::{Liar, Say};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn system(liars: &[&Liar], search: &[&str], ndots: usize) -> System {
    let servers = liars.iter().map(|liar| liar.addr.into());
    let servers = servers.map(|server| Client::new(&[server], None, KEEP).unwrap());
    System {
        servers: servers.collect(),
        search: search.iter().map(|domain| name(domain)).collect(),
        ndots,
    }
}

async fn answers() -> Liar {
    Liar::new(|name, _| match name {
        "gateway.a.test" | "gateway.test" => Say::Addresses(&["192.0.2.1"], 60),
        "broken.a.test" => Say::Code(ResponseCode::ServFail),
        "broken.b.test" => Say::Addresses(&["192.0.2.2"], 60),
        _ => Say::Code(ResponseCode::NXDomain),
    })
    .await
}

async fn silent() -> Liar {
    Liar::new(|_, _| Say::Nothing).await
}

/// The names of which it was asked for an IPv4 address.
fn asked(liar: &Liar) -> Vec<String> {
    let asked = liar.asked().into_iter();
    let asked = asked.filter(|(_, kind)| *kind == RecordType::A);
    let mut asked: Vec<String> = asked.map(|(name, _)| name).collect();
    // A slow answer is asked for again.
    asked.dedup();
    asked
}

#[test]
fn hosts_as_the_system_reads_them() {
    let text = "\
127.0.0.1\tlocalhost
192.0.2.1  Gateway.Example.ORG gateway # 192.0.2.9 other
# 192.0.2.9 gateway
nonsense gateway
2001:db8::1 gateway
";
    assert_eq!(
        in_hosts(text, "gateway"),
        ips(&["192.0.2.1", "2001:db8::1"])
    );
    let whole = ips(&["192.0.2.1"]);
    assert_eq!(in_hosts(text, "gateway.example.org."), whole);
    assert_eq!(in_hosts(text, "GATEWAY.example.org"), whole);
    for nobody in ["other", "gate", "192.0.2.1", ""] {
        assert_eq!(in_hosts(text, nobody), ips(&[]), "{nobody}");
    }
}

#[test]
fn resolv_conf_as_the_system_reads_it() {
    let text = "\
domain c.test
search a.test b.test
nameserver 192.0.2.1
nameserver 192.0.2.2
nameserver 192.0.2.3
nameserver 192.0.2.4
options ndots:3
";
    let system = System::parse(text).unwrap();
    assert_eq!(system.servers.len(), MAX_SERVERS);
    assert_eq!(system.search, [name("a.test"), name("b.test")]);
    assert_eq!(system.ndots, 3);
    let later = System::parse(&format!("{text}domain c.test\n")).unwrap();
    assert_eq!(later.search, [name("c.test")]);
    for none in ["", "search a.test\n", "nameserver nonsense\n"] {
        assert_eq!(System::parse(none).unwrap().servers.len(), 1, "{none}");
    }
}

#[tokio::test]
async fn search_domains_come_before_or_after_the_name_itself() {
    for (ndots, text, names) in [
        (1, "gateway", &["gateway.a.test."][..]),
        (1, "gateway.test", &["gateway.test."]),
        (
            1,
            "gateway.a",
            &["gateway.a.", "gateway.a.a.test.", "gateway.a.b.test."],
        ),
        (
            3,
            "gateway.test",
            &[
                "gateway.test.a.test.",
                "gateway.test.b.test.",
                "gateway.test.",
            ],
        ),
        (3, "gateway.test.", &["gateway.test."]),
    ] {
        let liar = answers().await;
        let system = system(&[&liar], &["a.test", "b.test"], ndots);
        let answer = system.resolve(&name(text)).await;
        assert_eq!(answer.is_ok(), text != "gateway.a", "{text}: {answer:?}");
        assert_eq!(asked(&liar), names, "{text}");
    }
}

#[tokio::test]
async fn what_leads_nowhere_says_why() {
    let liar = answers().await;
    let search = &["a.test"];
    let gone = system(&[&liar], search, 1).resolve(&name("nobody")).await;
    assert_eq!(gone, Err(Failure::Gone));
    // That one did not exist is not what is to be known.
    let failed = system(&[&liar], search, 1).resolve(&name("broken")).await;
    assert!(matches!(failed, Err(Failure::Failed(_))), "{failed:?}");
    let next = system(&[&liar], &["a.test", "b.test"], 1);
    let next = next.resolve(&name("broken")).await;
    assert_eq!(next.unwrap().ips, ips(&["192.0.2.2"]));
}

/// Whether or not it is the first.
#[tokio::test]
async fn a_server_without_an_answer_is_not_the_last_word() {
    let (good, silent) = (answers().await, silent().await);
    let broken = Liar::new(|_, _| Say::Code(ResponseCode::Refused)).await;
    for bad in [&silent, &broken] {
        for servers in [[bad, &good], [&good, bad]] {
            let system = system(&servers, &[], 1);
            let answer = system.resolve(&name("gateway.test")).await;
            assert_eq!(answer.unwrap().ips, ips(&["192.0.2.1"]));
        }
    }
    // The first answer is one, also that there is no such name.
    let system = system(&[&good, &silent], &[], 1);
    let answer = system.resolve(&name("nobody.test")).await;
    assert_eq!(answer, Err(Failure::Gone));
}

/// It may be the name that is meant.
#[tokio::test]
async fn a_name_of_which_nothing_is_heard_stands_for_no_other() {
    let liar = Liar::new(|name, _| match name {
        "gateway.a.test" => Say::Nothing,
        _ => Say::Addresses(&["192.0.2.1"], 60),
    })
    .await;
    let system = system(&[&liar], &["a.test", "b.test"], 1);
    let answer = system.resolve(&name("gateway")).await;
    assert_eq!(answer, Err(Failure::Timeout));
    let asked = asked(&liar);
    assert!(
        asked.iter().all(|name| name == "gateway.a.test."),
        "{asked:?}"
    );
}
