use proptest::prelude::*;

use super::*;

fn gateway(number: usize) -> GatewayAddr {
    GatewayAddr::new(format!("192.0.2.{number}:8443").parse().unwrap())
}

/// The first so many, all of the own zone.
fn first(count: usize) -> Vec<(GatewayAddr, Zone)> {
    (0..count)
        .map(|number| (gateway(number), Zone::Own))
        .collect()
}

fn balancer(count: usize) -> Balancer {
    let mut balancer = Balancer::default();
    balancer.list(&first(count));
    balancer
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The choice when chance always gives the first, and no tunnel is warm.
fn choice(balancer: &Balancer, now: Duration, tried: &Tried) -> Option<GatewayAddr> {
    balancer.choose(now, tried, |_| false, |_| 0)
}

fn eject(balancer: &mut Balancer, gateway: GatewayAddr, now: Duration) {
    for _ in 0..FAILURES {
        balancer.failed(gateway, now);
    }
}

#[test]
fn of_two_the_one_with_fewer_streams() {
    let mut balancer = balancer(2);
    balancer.lend(gateway(0), at(0));
    assert_eq!(
        choice(&balancer, at(0), &Tried::default()),
        Some(gateway(1))
    );
    balancer.lend(gateway(1), at(0));
    balancer.lend(gateway(1), at(0));
    assert_eq!(
        choice(&balancer, at(0), &Tried::default()),
        Some(gateway(0))
    );
    balancer.release(gateway(1));
    let warm = balancer.choose(at(0), &Tried::default(), |addr| addr == gateway(1), |_| 0);
    assert_eq!(
        warm,
        Some(gateway(1)),
        "a warm tunnel decides between equals"
    );
}

#[test]
fn failures_in_a_row_eject_and_a_probe_brings_back() {
    let mut balancer = balancer(2);
    for _ in 0..FAILURES {
        balancer.failed(gateway(0), at(0));
        balancer.failed(gateway(0), at(0));
        balancer.worked(gateway(0), false);
    }
    assert_eq!(balancer.census(at(0)).ejected, 0, "not in a row");
    eject(&mut balancer, gateway(0), at(0));
    assert_eq!(
        (balancer.census(at(0)).live, balancer.census(at(0)).ejected),
        (1, 1)
    );
    assert_eq!(
        choice(&balancer, at(0), &Tried::default()),
        Some(gateway(1))
    );
    balancer.worked(gateway(1), true);
    let wanting = |balancer: &Balancer, now| balancer.wanting(now, |addr| addr == gateway(1));
    assert_eq!(wanting(&balancer, at(0)), []);
    assert_eq!(wanting(&balancer, at(1)), [gateway(0)], "a probe is due");
    assert_eq!(
        choice(&balancer, at(1), &Tried::default()),
        Some(gateway(1)),
        "and until then no connection goes there"
    );
    balancer.worked(gateway(0), true);
    assert_eq!(balancer.census(at(1)).live, 2);
}

#[test]
fn ejections_last_longer_and_longer_but_not_for_ever() {
    let mut balancer = balancer(1);
    eject(&mut balancer, gateway(0), at(0));
    let mut now = at(0);
    let mut lasted = Vec::new();
    for _ in 0..10 {
        // Connections that have nowhere else to go fail too.
        balancer.failed(gateway(0), now);
        let began = now;
        while balancer.wanting(now, |_| true).is_empty() {
            now += at(1);
        }
        lasted.push((now - began).as_secs());
        balancer.failed(gateway(0), now);
    }
    assert_eq!(lasted, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    balancer.worked(gateway(0), true);
    eject(&mut balancer, gateway(0), now);
    assert_eq!(balancer.wanting(now + at(1), |_| true), [gateway(0)]);
}

#[test]
fn one_that_drains_is_left_alone_at_once_until_a_new_tunnel_is_made() {
    let mut balancer = balancer(2);
    balancer.worked(gateway(0), true);
    balancer.drains(gateway(0), at(0));
    assert_eq!(balancer.census(at(0)).draining, 1);
    assert_eq!(
        choice(&balancer, at(0), &Tried::default()),
        Some(gateway(1))
    );
    // A stream that it still took has been opened.
    balancer.worked(gateway(0), false);
    assert_eq!(balancer.census(at(0)).draining, 1);
    assert!(!balancer.wanting(at(4), |_| false).contains(&gateway(0)));
    assert!(balancer.wanting(at(5), |_| false).contains(&gateway(0)));
    balancer.worked(gateway(0), true);
    assert_eq!(balancer.census(at(5)).live, 2);
}

#[test]
fn one_that_is_busy_is_passed_over_for_a_moment() {
    let mut balancer = balancer(2);
    balancer.busy(gateway(0), at(0));
    assert_eq!(
        choice(&balancer, at(0), &Tried::default()),
        Some(gateway(1))
    );
    assert_eq!(balancer.census(at(0)).busy, 1);
    assert_eq!(
        choice(&balancer, at(1), &Tried::default()),
        Some(gateway(0))
    );
    assert!(balancer.is_reachable(), "it is there");
}

#[test]
fn the_last_resort_is_what_is_left() {
    let mut balancer = balancer(3);
    let mut tried = Tried::default();
    eject(&mut balancer, gateway(0), at(0));
    balancer.busy(gateway(1), at(0));
    tried.silent(gateway(2));
    let mut order = Vec::new();
    while let Some(next) = choice(&balancer, at(0), &tried) {
        order.push(next);
        tried.exclude(next);
    }
    assert_eq!(order, [gateway(2), gateway(1), gateway(0)]);
}

/// Two of the own zone and one of another.
fn zoned() -> Balancer {
    let mut balancer = Balancer::default();
    let mut list = first(2);
    list.push((gateway(2), Zone::Other));
    balancer.list(&list);
    balancer
}

#[test]
fn the_own_zone_is_not_left_for_having_more_to_do() {
    let mut balancer = zoned();
    for number in 0..100 {
        let chosen = balancer.choose(
            at(0),
            &Tried::default(),
            |addr| addr == gateway(2),
            |below| number % below,
        );
        assert_ne!(chosen, Some(gateway(2)), "not for a warm tunnel either");
        balancer.lend(chosen.unwrap(), at(0));
    }
}

#[test]
fn another_zone_serves_when_none_of_the_own_can() {
    let out: [fn(&mut Balancer, GatewayAddr); 3] = [
        |balancer, gateway| eject(balancer, gateway, at(0)),
        |balancer, gateway| balancer.drains(gateway, at(0)),
        |balancer, gateway| balancer.busy(gateway, at(0)),
    ];
    for out in out {
        let mut balancer = zoned();
        let tried = Tried::default();
        out(&mut balancer, gateway(0));
        assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(1)));
        out(&mut balancer, gateway(1));
        assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(2)));
        balancer.worked(gateway(0), true);
        assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(0)));
        // When all are out, the own ones come first again.
        for number in 0..3 {
            out(&mut balancer, gateway(number));
        }
        assert_ne!(choice(&balancer, at(0), &tried), Some(gateway(2)));
    }
}

#[test]
fn one_connection_goes_through_the_own_zone_first() {
    let balancer = zoned();
    let mut tried = Tried::default();
    tried.exclude(gateway(0));
    assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(1)));
    // One whose warm tunnel was silent may be gone.
    tried.silent(gateway(1));
    assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(2)));
    tried.exclude(gateway(2));
    assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(1)));
}

#[test]
fn a_gateway_may_be_said_to_be_elsewhere() {
    let mut balancer = zoned();
    balancer.list(&[(gateway(0), Zone::Other), (gateway(2), Zone::Own)]);
    assert_eq!(balancer.zone(gateway(0)), Some(Zone::Other));
    let tried = Tried::default();
    assert_eq!(choice(&balancer, at(0), &tried), Some(gateway(2)));
}

#[test]
fn names_that_lead_elsewhere() {
    let mut balancer = balancer(2);
    eject(&mut balancer, gateway(0), at(0));
    balancer.lend(gateway(1), at(0));
    balancer.list(&[(gateway(0), Zone::Own), (gateway(2), Zone::Own)]);
    assert_eq!(balancer.census(at(0)).ejected, 1, "what is known is kept");
    assert_eq!(
        balancer.room(gateway(1), 0, at(0)),
        0,
        "nothing is kept for one that is gone"
    );
    let chosen = choice(&balancer, at(0), &Tried::default());
    assert_eq!(chosen, Some(gateway(2)));
    assert_eq!(balancer.members.len(), 3);
    balancer.release(gateway(1));
    assert_eq!(balancer.members.len(), 2, "forgotten with its last stream");
}

#[test]
fn warm_tunnels_follow_demand() {
    let mut balancer = balancer(2);
    assert_eq!(balancer.room(gateway(0), 0, at(0)), 1);
    for _ in 0..10 {
        balancer.lend(gateway(0), at(0));
    }
    for _ in 0..6 {
        balancer.release(gateway(0));
    }
    assert_eq!(
        balancer.room(gateway(0), 0, at(59)),
        6,
        "ten at once, and four go on"
    );
    assert_eq!(
        balancer.room(gateway(0), 62, at(59)),
        2,
        "the others have theirs"
    );
    assert_eq!(balancer.room(gateway(0), 100, at(59)), 1);
    balancer.lend(gateway(0), at(60));
    assert_eq!(
        balancer.room(gateway(0), 0, at(60)),
        5,
        "the peak of the minute before"
    );
    balancer.lend(gateway(0), at(200));
    assert_eq!(balancer.room(gateway(0), 0, at(200)), 1);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Stream(usize),
    End(usize),
    Works(usize, bool),
    Fails(usize),
    Drains(usize),
    Busy(usize),
    Lists(usize),
    Passes(u64),
}

const COUNT: usize = 4;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..COUNT).prop_map(Event::Stream),
        (0..COUNT).prop_map(Event::End),
        (0..COUNT, any::<bool>()).prop_map(|(number, anew)| Event::Works(number, anew)),
        (0..COUNT).prop_map(Event::Fails),
        (0..COUNT).prop_map(Event::Drains),
        (0..COUNT).prop_map(Event::Busy),
        (1..=COUNT).prop_map(Event::Lists),
        (0u64..90).prop_map(Event::Passes),
    ]
}

proptest! {
    /// Whatever happened before: a connection is led to every gateway there is, to none twice, and
    /// to one that is out only after all others; and what is out is probed within a minute.
    #[test]
    fn every_gateway_is_within_reach(
        events in prop::collection::vec(event(), 0..60),
        chance in prop::collection::vec(any::<usize>(), 1..8),
    ) {
        let mut balancer = balancer(COUNT);
        let mut now = Duration::ZERO;
        let mut listed = COUNT;
        for event in events {
            match event {
                Event::Stream(number) => balancer.lend(gateway(number), now),
                Event::End(number) => balancer.release(gateway(number)),
                Event::Works(number, anew) => balancer.worked(gateway(number), anew),
                Event::Fails(number) => balancer.failed(gateway(number), now),
                Event::Drains(number) => balancer.drains(gateway(number), now),
                Event::Busy(number) => balancer.busy(gateway(number), now),
                Event::Lists(count) => {
                    listed = count;
                    balancer.list(&first(count));
                }
                Event::Passes(seconds) => now += at(seconds),
            }
        }
        let census = balancer.census(now);
        prop_assert_eq!(census.live + census.busy + census.draining + census.ejected, listed);
        let out = census.draining + census.ejected;
        let mut chance = chance.iter().cycle();
        let mut tried = Tried::default();
        let mut order = Vec::new();
        while let Some(next) =
            balancer.choose(now, &tried, |_| false, |below| chance.next().unwrap() % below)
        {
            prop_assert!(!order.contains(&next));
            order.push(next);
            tried.exclude(next);
        }
        prop_assert_eq!(order.len(), listed);
        let is_out = |addr: &GatewayAddr| {
            let member = balancer.members.iter().find(|member| member.addr == *addr);
            member.unwrap().distance(now) == Distance::Out
        };
        prop_assert_eq!(order[listed - out..].iter().filter(|addr| is_out(addr)).count(), out);
        let later = balancer.wanting(now + LONGEST_EJECTION, |_| true);
        prop_assert!(order.iter().filter(|addr| is_out(addr)).all(|addr| later.contains(addr)));
    }

    /// With chance that is none: streams that all go on are spread evenly.
    #[test]
    fn streams_are_spread(count in 1usize..8, seed in any::<u64>()) {
        let mut balancer = balancer(count);
        let mut chance = fastrand::Rng::with_seed(seed);
        for _ in 0..count * 50 {
            let chosen =
                balancer.choose(at(0), &Tried::default(), |_| false, |below| chance.usize(..below));
            balancer.lend(chosen.unwrap(), at(0));
        }
        let live = balancer.members.iter().map(|member| member.live);
        prop_assert!(live.clone().all(|live| live.abs_diff(50) <= 10), "{:?}", live.collect::<Vec<_>>());
    }
}
