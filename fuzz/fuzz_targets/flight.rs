//! Both directions of the first flights: no panic, what comes out is a prefix of what the client
//! sent, and nothing more is held back once the flights are over.
//!
//! The input is a list of pieces: a byte whose highest bit says who sends and whose others say how
//! much, then as many bytes.
#![no_main]

use egress_user::hello::{FirstFlight, ServerName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let name = ServerName::parse(b"en.wikipedia.org").expect("an ordinary name");
    let mut flight = FirstFlight::of(name);
    let (mut sent, mut out) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    while let Some((order, tail)) = rest.split_first() {
        let (piece, tail) = tail.split_at(usize::from(order & 0x7f).min(tail.len()));
        rest = tail;
        let taken = if order & 0x80 == 0 {
            sent.extend_from_slice(piece);
            flight.client_sent(piece)
        } else {
            flight.server_sent(piece)
        };
        out.extend_from_slice(&flight.admitted().split());
        assert!(sent.starts_with(&out));
        if taken.is_err() {
            return;
        }
        assert!(!flight.is_over() || out == sent);
    }
});
