use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Plays frames as one side sees them, after READY.
fn play(role: Role, frames: &str) -> Result<Order, FrameError> {
    let ready = match role {
        Role::Agent => "<ready",
        Role::Gateway => ">ready",
    };
    play_all(role, &format!("{ready} {frames}"))
}

/// Plays frames as one side sees them: `>` before what it sends, `<` before what it receives.
fn play_all(role: Role, frames: &str) -> Result<Order, FrameError> {
    let mut order = Order::new(role);
    for frame in frames.split_whitespace() {
        let (way, name) = frame.split_at(1);
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
            .unwrap();
        match way {
            ">" => order.sent(kind)?,
            "<" => order.received(kind).map(drop)?,
            _ => panic!("{frame}"),
        }
    }
    Ok(order)
}

#[test]
fn the_gateway_speaks_first_and_the_agent_need_not_wait() {
    assert!(!play_all(Role::Agent, "").unwrap().is_ready());
    assert!(play_all(Role::Agent, "<ready").unwrap().is_ready());
    assert!(play_all(Role::Agent, ">open >data <ready >data <opened").is_ok());
    for frames in ["<opened", "<drain", "<reset", "<ready <ready"] {
        for frames in [frames.to_owned(), format!(">open {frames}")] {
            let result = play_all(Role::Agent, &frames);
            assert!(matches!(result, Err(FrameError::Order { .. })), "{frames}");
        }
    }
}

#[test]
fn a_refused_connection_takes_nothing_more() {
    for frames in ["<refused", ">open >data <refused"] {
        let order = play_all(Role::Agent, frames).unwrap();
        assert!(order.is_refused() && order.is_idle() && !order.may_open());
        for more in [">open", ">data", ">fin", "<ready", "<drain", "<refused"] {
            assert!(play_all(Role::Agent, &format!("{frames} {more}")).is_err());
        }
    }
    // What was on its way is nobody's.
    let mut gateway = play_all(Role::Gateway, ">refused").unwrap();
    for kind in [Kind::Open, Kind::Data, Kind::Fin] {
        assert_eq!(gateway.received(kind), Ok(Delivery::Discard));
    }
    assert!(gateway.sent(Kind::Ready).is_err());
}

#[test]
fn a_stream_after_another() {
    let stream = ">open >data <opened <data >data <data >fin <data <fin ";
    let order = play(Role::Agent, &stream.repeat(3)).unwrap();
    assert!(order.is_idle() && order.may_open());
}

#[test]
fn half_close_from_either_side_keeps_the_other_open() {
    let order = play(Role::Agent, ">open >fin <opened <data").unwrap();
    assert!(!order.is_idle() && !order.owes_end() && order.awaits_end());
    let order = play(Role::Agent, ">open <opened <fin >data").unwrap();
    assert!(!order.is_idle() && order.owes_end() && !order.awaits_end());
}

#[test]
fn refusal_leaves_the_connection_usable() {
    let agent = play(Role::Agent, ">open >data <refused >fin >open").unwrap();
    assert!(!agent.is_idle());
    let gateway = play(Role::Gateway, "<open >refused <data <data <fin <open").unwrap();
    assert!(!gateway.is_idle());
    assert!(play(Role::Agent, ">open >fin <refused").unwrap().may_open());
}

#[test]
fn what_arrives_after_a_cut_is_discarded() {
    let mut order = play(Role::Gateway, "<open <data >refused").unwrap();
    assert_eq!(order.received(Kind::Data), Ok(Delivery::Discard));
    assert_eq!(order.received(Kind::Fin), Ok(Delivery::Discard));
    assert_eq!(order.received(Kind::Open), Ok(Delivery::Deliver));

    let mut order = play(Role::Agent, ">open <opened >reset").unwrap();
    assert_eq!(order.received(Kind::Drain), Ok(Delivery::Deliver));
    assert_eq!(order.received(Kind::Data), Ok(Delivery::Discard));
    assert_eq!(order.received(Kind::Reset), Ok(Delivery::Discard));
    assert!(order.is_idle());
}

#[test]
fn no_data_towards_a_side_that_cut_off() {
    for frames in [">open <refused >data", ">open <opened <reset >data"] {
        assert!(matches!(
            play(Role::Agent, frames),
            Err(FrameError::Order {
                kind: Kind::Data,
                ..
            })
        ));
    }
}

#[test]
fn nothing_is_opened_after_drain_unless_it_crossed() {
    assert!(!play(Role::Agent, "<drain").unwrap().may_open());
    assert!(play(Role::Agent, "<drain >open").is_err());
    assert!(play(Role::Agent, ">open <drain >data <opened <data >fin <fin").is_ok());
    assert!(play(Role::Gateway, ">drain <open >refused <fin").is_ok());
    assert!(play(Role::Gateway, ">drain >drain").is_err());
}

#[test]
fn out_of_order() {
    let agent = [
        ">data",
        ">fin",
        ">reset",
        "<data",
        "<fin",
        "<reset",
        "<opened",
        "<refused",
        ">open >open",
        ">open <data",
        ">open <fin",
        ">open <opened <opened",
        ">open <opened <refused",
        ">open <refused <opened",
        ">open <refused <refused",
        ">open <refused <data",
        ">open <opened <fin <data",
        ">open <opened <fin <fin",
        ">open <opened <fin <reset",
        ">open >fin >data",
        ">open >fin >fin",
        ">open >fin >reset",
        ">open >fin >open",
        ">open <refused >open",
        ">open >reset >fin",
        ">open >fin <opened <fin <data",
    ];
    for frames in agent {
        let seen_by_gateway = frames.replace('>', "!").replace('<', ">").replace('!', "<");
        for (role, frames) in [(Role::Agent, frames), (Role::Gateway, &*seen_by_gateway)] {
            let result = play(role, frames);
            assert!(
                matches!(result, Err(FrameError::Order { .. })),
                "{role}: {frames}"
            );
        }
    }
}

#[test]
fn wrong_direction() {
    for frames in [
        ">opened",
        ">refused",
        ">drain",
        ">ready",
        "<open",
        ">open >opened",
    ] {
        let result = play(Role::Agent, frames);
        assert!(
            matches!(result, Err(FrameError::Direction { .. })),
            "{frames}"
        );
    }
    for frames in ["<opened", "<refused", "<drain", ">open", "<open <refused"] {
        let result = play(Role::Gateway, frames);
        assert!(
            matches!(result, Err(FrameError::Direction { .. })),
            "{frames}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Two sides that send only what their own `sent` allows never offend each other, however long
    /// the frames are under way, and both agree whether a stream is open once nothing is.
    #[test]
    fn sides_that_keep_the_order_never_offend_each_other(
        steps in prop::collection::vec((0..3_u8, any::<bool>(), 0..Kind::ALL.len()), 0..200),
    ) {
        let (mut agent, mut gateway) = (Order::new(Role::Agent), Order::new(Role::Gateway));
        let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
        for (action, is_agent, kind) in steps {
            let kind = Kind::ALL[kind];
            let (order, outgoing, incoming) = if is_agent {
                (&mut agent, &mut up, &mut down)
            } else {
                (&mut gateway, &mut down, &mut up)
            };
            if action == 0 {
                if let Some(kind) = incoming.pop_front() {
                    prop_assert!(order.received(kind).is_ok(), "{:?}", kind);
                }
            } else if order.sent(kind).is_ok() {
                outgoing.push_back(kind);
            }
        }
        for kind in up {
            prop_assert!(gateway.received(kind).is_ok());
        }
        for kind in down {
            prop_assert!(agent.received(kind).is_ok());
        }
        prop_assert_eq!(agent.is_idle(), gateway.is_idle());
        prop_assert_eq!(agent.is_draining(), gateway.is_draining());
        prop_assert_eq!(agent.owes_end(), gateway.awaits_end());
        prop_assert_eq!(agent.awaits_end(), gateway.owes_end());
    }

    /// A refused frame changes nothing.
    #[test]
    fn an_error_leaves_the_order_as_it_was(
        kinds in prop::collection::vec((any::<bool>(), 0..Kind::ALL.len()), 0..50),
    ) {
        let mut order = Order::new(Role::Gateway);
        for (mine, kind) in kinds {
            let kind = Kind::ALL[kind];
            let before = format!("{order:?}");
            let refused = if mine {
                order.sent(kind).is_err()
            } else {
                order.received(kind).is_err()
            };
            if refused {
                prop_assert_eq!(before, format!("{order:?}"));
            }
        }
    }
}
