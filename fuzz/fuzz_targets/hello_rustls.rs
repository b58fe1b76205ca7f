//! The ClientHello parser against rustls: where both take a hello for one, both see the same name,
//! and what rustls sees no name in is refused.
//!
//! rustls leaves out names that it cannot use, such as addresses; those are refused here as well.
#![no_main]

use egress_user::hello::{Parser, Progress};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|stream: &[u8]| {
    let Progress::Hello(ours) = Parser::new().advance(stream) else {
        // Stricter, for a reason that is given.
        return;
    };
    let Some(theirs) = name_by_rustls(stream) else {
        // Not a hello that rustls would answer: an old version, or without ciphers it knows.
        return;
    };
    assert_eq!(theirs.as_deref(), Some(ours.server_name.as_str()));
});

/// The name, and whether rustls takes the bytes for a hello at all.
fn name_by_rustls(mut stream: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    loop {
        if acceptor.read_tls(&mut stream).ok()? == 0 {
            return None;
        }
        let accepted = acceptor.accept().ok()?;
        if let Some(accepted) = accepted {
            let name = accepted.client_hello().server_name().map(canonical);
            return Some(name);
        }
    }
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
