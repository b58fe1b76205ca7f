//! What a ClientHello costs to read, fingerprint included: one that is there as a whole, and one
//! that comes one byte at a time.
//!
//! `cargo bench -p egress-user --bench hello`
//!
//! Each figure is the best of many rounds, so that a busy machine does not count.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot set up what it measures has nothing to say"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use egress_user::hello::{Parser, Progress};

const ROUNDS: usize = 200;

const CAPTURED: [(&str, &[u8]); 4] = [
    ("rustls", include_bytes!("../tests/hellos/rustls.bin")),
    ("curl", include_bytes!("../tests/hellos/curl.bin")),
    ("firefox", include_bytes!("../tests/hellos/firefox.bin")),
    ("chromium", include_bytes!("../tests/hellos/chromium.bin")),
];

fn main() {
    println!("{:<22} {:>8} {:>10}", "hello", "bytes", "best");
    for (client, stream) in CAPTURED {
        let each = best(1_000, || whole(stream));
        report(client, stream.len(), each);
    }
    // Linear: four times as long takes four times as long.
    for len in [4_096, 8_192, 16_384] {
        let stream = padded(len);
        let each = best(1, || byte_by_byte(&stream));
        report("padded, byte by byte", stream.len(), each);
    }
}

fn report(client: &str, len: usize, each: Duration) {
    println!("{client:<22} {len:>8} {:>7} ns", each.as_nanos());
}

fn best(times: u32, mut work: impl FnMut()) -> Duration {
    let mut round = || {
        let started = Instant::now();
        for _ in 0..times {
            work();
        }
        started.elapsed() / times
    };
    (0..ROUNDS).map(|_| round()).min().unwrap()
}

fn whole(stream: &[u8]) {
    let progress = Parser::new().advance(black_box(stream));
    assert!(matches!(black_box(progress), Progress::Hello(_)));
}

fn byte_by_byte(stream: &[u8]) {
    let mut parser = Parser::new();
    let mut hello = false;
    for end in 0..=stream.len() {
        let so_far = stream.get(..end).unwrap();
        hello = matches!(parser.advance(black_box(so_far)), Progress::Hello(_));
    }
    assert!(hello);
}

/// The smallest hello with a padding extension (RFC 7685) that makes it about `len` bytes long,
/// in records of 1 KiB.
fn padded(len: usize) -> Vec<u8> {
    let u16_prefixed = |bytes: &[u8]| {
        let Ok(len) = u16::try_from(bytes.len()) else {
            panic!("{} bytes do not fit", bytes.len());
        };
        [&len.to_be_bytes()[..], bytes].concat()
    };
    let name = u16_prefixed(&[&[0][..], &u16_prefixed(b"en.wikipedia.org")].concat());
    let extensions = [
        &[0, 0][..],
        &u16_prefixed(&name),
        &[0, 21],
        &u16_prefixed(&vec![0; len]),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &u16_prefixed(&[0x13, 1]),
        &[1, 0],
        &u16_prefixed(&extensions),
    ]
    .concat();
    let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1, a, b, c][..], &body].concat();
    let records = message.chunks(1024);
    records
        .flat_map(|chunk| [&[22, 3, 1][..], &u16_prefixed(chunk)].concat())
        .collect()
}
