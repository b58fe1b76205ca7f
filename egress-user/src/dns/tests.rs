//! Answers of name servers, put together.

pub(crate) mod liar;

use self::liar::{Liar, Say};
use super::*;

pub(crate) fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

const PATIENCE: Duration = Duration::from_millis(50);

fn brief(_: &[IpAddr]) -> Option<Duration> {
    Some(PATIENCE)
}

fn found(list: &[&str], ttl: u64) -> Asked {
    let (ips, ttl) = (ips(list), Duration::from_secs(ttl));
    Ok(Found { ips, ttl })
}

fn failed() -> Failure {
    Failure::Failed("why".to_owned())
}

#[tokio::test(start_paused = true)]
async fn one_family_does_not_wait_for_the_other_for_ever() {
    let v4 = || async { found(&["185.15.59.224"], 60) };
    let v6 = || async { found(&["2a02::1"], 30) };
    let never = || std::future::pending();
    let mut both = race(v4(), v6(), brief).await;
    both.iter_mut().for_each(|found| found.ips.sort());
    assert_eq!(both, found(&["185.15.59.224", "2a02::1"], 30));
    // What the other has may be known a moment later.
    let alone = found(&["185.15.59.224"], 0);
    assert_eq!(race(v4(), never(), brief).await, alone);
    let broken = || async { Err(failed()) };
    assert_eq!(race(v4(), broken(), brief).await, alone);
    assert_eq!(race(broken(), v4(), brief).await, alone);
    assert_eq!(race(never(), v6(), brief).await, found(&["2a02::1"], 0));
    // Nothing from one is waited out, and is an answer.
    let none = || async { Err(Failure::Empty) };
    let late = async {
        tokio::time::sleep(PATIENCE * 2).await;
        found(&["2a02::1"], 30)
    };
    assert_eq!(race(none(), late, brief).await, found(&["2a02::1"], 30));
    for none in [Failure::Empty, Failure::Gone] {
        let none = async { Err(none) };
        let raced = race(v4(), none, brief).await;
        assert_eq!(raced, found(&["185.15.59.224"], 60));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_of_no_use_alone_waits_for_the_other_family() {
    let useless = || async { found(&["127.0.0.1"], 60) };
    let late = || async {
        tokio::time::sleep(PATIENCE * 2).await;
        found(&["2a02::1"], 60)
    };
    let patience = |ips: &[IpAddr]| ips.iter().all(IpAddr::is_ipv6).then_some(PATIENCE);
    let both = found(&["127.0.0.1", "2a02::1"], 60);
    assert_eq!(race(useless(), late(), patience).await, both);
    assert_eq!(
        race(useless(), late(), brief).await,
        found(&["127.0.0.1"], 0)
    );
}

#[tokio::test]
async fn of_two_failures_the_one_that_says_more_is_told() {
    let failing = |failure: Failure| async move { Err(failure) };
    for (one, other, told) in [
        (failed(), Failure::Gone, Failure::Gone),
        (Failure::Empty, failed(), failed()),
        (Failure::Empty, Failure::Timeout, Failure::Timeout),
        (Failure::Empty, Failure::Empty, Failure::Empty),
    ] {
        let raced = race(failing(one), failing(other), brief).await;
        assert_eq!(raced, Err(told));
    }
}

/// Of an alias and what it leads to, the one that ends first.
#[tokio::test]
async fn an_answer_is_good_for_as_long_as_each_part_of_it() {
    let liar = Liar::new(|name, _| match name {
        "soon.example.org" => Say::Alias("pool.example.org.", 7),
        "late.example.org" => Say::Alias("pool.example.org.", 700),
        _ => Say::Addresses(&["192.0.2.1", "2001:db8::1"], 60),
    })
    .await;
    let keep = Keep {
        answers: 0,
        positive: (Duration::ZERO, Duration::from_secs(3600)),
        negative: Duration::ZERO,
    };
    let client = Client::new(&[liar.addr.into()], None, keep).unwrap();
    for (name, ttl) in [
        ("pool.example.org", 60),
        ("soon.example.org", 7),
        ("late.example.org", 60),
    ] {
        let answer = client.addresses(name, |_| None).await;
        let mut answer = answer.unwrap();
        answer.ips.sort();
        let whole = found(&["192.0.2.1", "2001:db8::1"], ttl);
        assert_eq!(Ok(answer), whole, "{name}");
    }
}
