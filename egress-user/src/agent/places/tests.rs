use std::time::Duration;

use proptest::prelude::*;

use super::*;

const ALL: usize = 256;

fn room(connections: usize) -> Arc<Room> {
    Room::new(&Limits::within(connections))
}

fn scopes<const N: usize>(room: &Arc<Room>) -> [Places; N] {
    let hellos = Allowance::of_process();
    [(); N].map(|()| Places::of_scope(room, &hellos))
}

fn places(connections: usize) -> Places {
    let [scope] = scopes(&room(connections));
    scope
}

/// The place of a workload that has spoken, if it gets one without waiting.
fn try_one(places: &Places, workload: &str) -> Option<Place> {
    let mut place = places.room.lock().take(places.scope).then(|| Place {
        places: places.clone(),
        share: None,
    })?;
    match place.belongs_to(workload) {
        Ok(_) => {
            place.heard();
            Some(place)
        }
        Err(refusal) => {
            assert_eq!(refusal.reason, "workload_connection_limit");
            None
        }
    }
}

/// As many as the workload gets, each of which has spoken.
fn all_heard(places: &Places, workload: &str) -> Vec<Place> {
    std::iter::from_fn(|| try_one(places, workload)).collect()
}

/// As many as the workload gets that says nothing.
async fn all(places: &Places, workload: &str) -> Vec<Place> {
    let mut held = Vec::new();
    loop {
        let mut place = places.take().await;
        if place.belongs_to(workload).is_err() {
            return held;
        }
        held.push(place);
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_is_full_leaves_room_for_another() {
    let room = room(8);
    let [full, other] = scopes(&room);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(full.take().await);
    }
    for _ in 0..2 {
        let waiting = tokio::time::timeout(Duration::from_secs(1), full.wait());
        assert!(waiting.await.is_err());
    }
    let _other = [other.take().await, other.take().await];
    let waiting = tokio::spawn(async move { full.take().await });
    tokio::task::yield_now().await;
    held.pop();
    waiting.await.unwrap();
}

#[tokio::test]
async fn scopes_that_nobody_uses_hold_no_place() {
    let room = room(4);
    let scopes: [Places; 100] = scopes(&room);
    for scope in &scopes {
        scope.wait().await;
    }
    let place = scopes[0].take().await;
    assert!(!room.lock().is_empty());
    drop(place);
    assert!(room.lock().is_empty());
}

/// T4: of the 60 places that its scope may have, one workload comes to hold 30, and others an eighth
/// of 64 each until they speak.
#[tokio::test]
async fn a_workload_that_says_nothing_leaves_room_for_others() {
    let places = places(128);
    let first = all(&places, "/jobs/a").await;
    assert_eq!(first.len(), 30);
    let second = all(&places, "/jobs/b").await;
    assert_eq!(second.len(), 8);
    let mut third = all(&places, "/jobs/c").await;
    assert_eq!(third.len(), 8);
    // Who speaks gets on.
    for place in &mut third {
        place.heard();
    }
    assert_eq!(all(&places, "/jobs/c").await.len(), 3);
    drop(first);
    drop((second, third));
    assert_eq!(all(&places, "/jobs/a").await.len(), 30);
    assert!(places.room.lock().is_empty());
}

#[test]
fn a_workload_alone_comes_to_half_of_its_scope_and_a_scope_to_half_of_all() {
    let room = room(ALL);
    let [places] = scopes(&room);
    let mut held = all_heard(&places, "/jobs/a");
    assert_eq!(held.len(), 60);
    held.pop();
    assert_eq!(all_heard(&places, "/jobs/a").len(), 1);
    for workload in 0..50 {
        held.extend(all_heard(&places, &format!("/jobs/{workload}")));
    }
    let half = ALL / 2 - ALL / 32;
    assert!((half..=ALL / 2).contains(&held.len()), "{}", held.len());
}

/// Two that have half each would leave nothing to a third.
#[test]
fn two_scopes_leave_room_for_a_third_and_two_workloads_too() {
    let room = room(ALL);
    let [first, second, third] = scopes(&room);
    let mut held = Vec::new();
    for scope in [&first, &second] {
        for workload in 0..8 {
            held.extend(all_heard(scope, &format!("/jobs/{workload}")));
        }
    }
    assert_eq!(all_heard(&third, "/jobs/a").len(), 15);
    drop(held);
    let mut held = all_heard(&first, "/jobs/a");
    held.extend(all_heard(&first, "/jobs/b"));
    assert_eq!(all_heard(&first, "/jobs/c").len(), 15);
}

/// Those who came at the same moment and are not known yet take nothing from each other's part.
#[test]
fn who_is_refused_takes_nothing_from_others() {
    let room = room(ALL);
    let [places] = scopes(&room);
    let mut came: Vec<Place> = (0..ALL / 2)
        .map(|_| {
            assert!(room.lock().take(places.scope));
            Place {
                places: places.clone(),
                share: None,
            }
        })
        .collect();
    came.retain_mut(|place| {
        let belongs = place.belongs_to("/jobs/a").is_ok();
        place.heard();
        belongs
    });
    assert_eq!(came.len(), 60);
}

#[test]
fn nobody_is_left_room_for_where_there_is_nobody_else() {
    let room = Room::new(&Limits::of_one_workload(100));
    let [places] = scopes(&room);
    assert_eq!(all_heard(&places, "/jobs/a").len(), 100);
}

#[tokio::test]
async fn the_large_hellos_of_a_workload_are_counted_together() {
    let places = places(128);
    let mut held = Vec::new();
    let mut hellos = Vec::new();
    for workload in ["/jobs/a", "/jobs/a", "/jobs/b"] {
        let mut place = places.take().await;
        hellos.push(place.belongs_to(workload).unwrap());
        held.push(place);
    }
    assert!(Arc::ptr_eq(&hellos[0], &hellos[1]));
    assert!(!Arc::ptr_eq(&hellos[0], &hellos[2]));
}

#[tokio::test]
async fn where_there_is_room_for_little_everybody_may_have_one() {
    let places = places(4);
    let first = all(&places, "/jobs/a").await;
    assert_eq!(first.len(), 1);
    let mut other = places.take().await;
    assert!(other.belongs_to("/jobs/b").is_ok());
}

/// What somebody does: a workload of a scope takes a place, or gives one back.
#[derive(Clone, Copy, Debug)]
struct Deed {
    scope: usize,
    workload: u8,
    takes: bool,
}

fn deeds() -> impl Strategy<Value = Vec<(Deed, usize)>> {
    // More come than leave; each does it so often.
    let deed = (0..3usize, 0..2u8, prop::bool::weighted(0.8), 1..ALL);
    let deed = deed.prop_map(|(scope, workload, takes, times)| {
        let deed = Deed {
            scope,
            workload,
            takes,
        };
        (deed, times)
    });
    prop::collection::vec(deed, 0..20)
}

proptest! {
    /// However others behave: a workload that holds none finds a place, in a scope that holds some
    /// and in one that holds none.
    #[test]
    fn a_newcomer_finds_a_place_whatever_others_do(deeds in deeds()) {
        let room = room(ALL);
        let [first, second, third, newcomer] = scopes(&room);
        let scopes = [first, second, third];
        let mut held: Vec<(usize, u8, Place)> = Vec::new();
        for (deed, times) in deeds {
            for _ in 0..times {
                if deed.takes {
                    let workload = format!("/jobs/{}", deed.workload);
                    let place = try_one(&scopes[deed.scope], &workload);
                    held.extend(place.map(|place| (deed.scope, deed.workload, place)));
                } else {
                    let mine = |(scope, workload, _): &(usize, u8, Place)| {
                        (*scope, *workload) == (deed.scope, deed.workload)
                    };
                    let Some(at) = held.iter().position(mine) else {
                        break;
                    };
                    held.swap_remove(at);
                }
            }
            prop_assert!(held.len() < ALL);
            for scope in scopes.iter().chain([&newcomer]) {
                prop_assert!(try_one(scope, "/jobs/new").is_some());
            }
        }
        drop(held);
        prop_assert!(room.lock().is_empty());
    }
}
