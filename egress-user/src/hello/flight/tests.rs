use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hello::tests::build::{Build, handshake};

const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

fn record(content_type: u8, fragment: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    [&[content_type, 3, 3, high, low], fragment].concat()
}

fn hello(name: &str) -> Vec<u8> {
    Build::new(name).message()
}

fn server_hello(random: &[u8]) -> Vec<u8> {
    handshake(2, &[&[3, 3][..], random, &[0, 0x13, 1, 0, 0, 0]].concat())
}

fn retry() -> Vec<u8> {
    record(HANDSHAKE, &server_hello(&RETRY_REQUEST[6..]))
}

fn flight() -> FirstFlight {
    FirstFlight::of(ServerName::parse(b"en.wikipedia.org").unwrap())
}

#[test]
fn a_retry_with_the_same_name_goes_on() {
    let mut flight = flight();
    flight.server_sent(&retry()).unwrap();
    assert!(!flight.is_over());
    let second = record(HANDSHAKE, &hello("EN.wikipedia.org."));
    let sent = [&CHANGE_CIPHER_SPEC[..], &second, b"more"].concat();
    flight.client_sent(&sent).unwrap();
    assert_eq!(flight.admitted().split(), sent);
    assert!(flight.is_over());
}

#[test]
fn a_retry_with_another_name_goes_nowhere() {
    let mut flight = flight();
    flight.server_sent(&retry()).unwrap();
    let second = record(HANDSHAKE, &hello("evil.example.com"));
    flight.client_sent(&CHANGE_CIPHER_SPEC).unwrap();
    assert_eq!(flight.client_sent(&second), Err(NameChanged));
    assert_eq!(flight.admitted().split(), CHANGE_CIPHER_SPEC[..]);
}

#[test]
fn a_second_hello_ahead_of_time_waits() {
    for (name, goes_on) in [("en.wikipedia.org", true), ("evil.example.com", false)] {
        let mut flight = flight();
        let second = record(HANDSHAKE, &hello(name));
        flight.client_sent(&second).unwrap();
        assert!(flight.awaits_server() && flight.admitted().is_empty());
        assert_eq!(flight.server_sent(&retry()).is_ok(), goes_on, "{name}");
        assert_eq!(!flight.admitted().is_empty(), goes_on, "{name}");
    }
}

#[test]
fn early_data_passes_at_once() {
    let mut flight = flight();
    let early = record(23, &[9; 300]);
    for part in [&early[..2], &early[2..100], &early[100..]] {
        flight.client_sent(part).unwrap();
    }
    assert!(!flight.awaits_server());
    assert_eq!(flight.admitted().split(), early);
}

#[test]
fn any_other_answer_ends_it() {
    let answers = [
        record(HANDSHAKE, &server_hello(&[1; 32])),
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
        record(HANDSHAKE, &[]),
    ];
    for answer in answers {
        let mut flight = flight();
        flight.client_sent(&record(HANDSHAKE, b"whatever")).unwrap();
        flight.server_sent(&answer).unwrap();
        assert_eq!(flight.admitted().split().len(), RECORD_HEADER + 8);
        assert!(flight.is_over(), "{answer:?}");
    }
}

/// Clients take a warning for no answer.
#[test]
fn a_retry_behind_an_alert_is_one() {
    let mut flight = flight();
    let answer = [record(21, &[1, 112]), retry()].concat();
    flight.server_sent(&answer[..6]).unwrap();
    flight.server_sent(&answer[6..]).unwrap();
    let second = record(HANDSHAKE, &hello("evil.example.com"));
    assert_eq!(flight.client_sent(&second), Err(NameChanged));
}

/// A server may cut its messages into records as it likes.
#[test]
fn a_retry_in_many_records_is_one() {
    let message = server_hello(&RETRY_REQUEST[6..]);
    let records: Vec<u8> = message
        .chunks(5)
        .flat_map(|chunk| record(HANDSHAKE, chunk))
        .collect();
    let mut flight = flight();
    flight.server_sent(&records).unwrap();
    assert!(matches!(flight.answer, Answer::Retry));
}

#[test]
fn the_fixed_random_is_the_digest_of_its_name() {
    use sha2::{Digest as _, Sha256};
    assert_eq!(
        Sha256::digest(b"HelloRetryRequest").as_slice(),
        &RETRY_REQUEST[6..]
    );
}

/// Feeds both directions in pieces, in an order given by `turns`. Gives what came out of the
/// client's side, and whether it was refused.
fn fed(client: &[u8], server: &[u8], pieces: &[(bool, usize)]) -> (Vec<u8>, bool) {
    let mut flight = flight();
    let mut out = Vec::new();
    let (mut client, mut server) = (client, server);
    let rest = [(true, usize::MAX), (false, usize::MAX)];
    for (from_client, len) in pieces.iter().chain(&rest) {
        let source = if *from_client {
            &mut client
        } else {
            &mut server
        };
        let (piece, left) = source.split_at((*len).min(source.len()));
        *source = left;
        let taken = if *from_client {
            flight.client_sent(piece)
        } else {
            flight.server_sent(piece)
        };
        out.extend(flight.admitted().split());
        if taken.is_err() {
            return (out, true);
        }
    }
    (out, false)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_cut_changes_the_verdict(
        same in any::<bool>(),
        retried in any::<bool>(),
        early in vec(any::<u8>(), 0..40),
        chunk in 1usize..60,
        pieces in vec((any::<bool>(), 1usize..40), 0..40),
    ) {
        let name = if same { "en.wikipedia.org" } else { "evil.example.com" };
        let first = [&CHANGE_CIPHER_SPEC[..], &record(23, &early)].concat();
        let second = hello(name);
        let records = second.chunks(chunk).flat_map(|chunk| record(HANDSHAKE, chunk));
        let client: Vec<u8> = first.iter().copied().chain(records).collect();
        let random = if retried { &RETRY_REQUEST[6..] } else { &[3; 32] };
        let server = record(HANDSHAKE, &server_hello(random));
        let (out, refused) = fed(&client, &server, &pieces);
        prop_assert_eq!(refused, retried && !same);
        prop_assert_eq!(out, if refused { first } else { client });
    }

    /// Whatever is sent, only a prefix of it comes out, and nothing panics.
    #[test]
    fn any_bytes(
        client in vec(any::<u8>(), 0..200),
        server in vec(any::<u8>(), 0..200),
        pieces in vec((any::<bool>(), 1usize..40), 0..40),
    ) {
        let (out, _) = fed(&client, &server, &pieces);
        prop_assert!(client.starts_with(&out));
    }
}
