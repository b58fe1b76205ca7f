//! The ClientHello parser: no panic, and the same answer however a stream is cut.
//!
//! With the captured hellos as seeds:
//! `cargo +nightly fuzz run hello fuzz/corpus/hello egress-user/tests/hellos`
#![no_main]

use egress_user::hello::{MAX_HELLO, Parser, Progress, ServerName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let whole = Parser::new().advance(stream);
    assert_eq!(byte_by_byte(stream), whole);
    match whole {
        Progress::Hello(hello) => {
            let again = ServerName::parse(hello.server_name.as_str().as_bytes());
            assert_eq!(again.as_ref(), Ok(&hello.server_name));
            assert!(hello.raw_name.as_str().is_ascii());
        }
        Progress::Not(why) => {
            assert!(why.raw_name().is_none_or(|raw| raw.as_str().is_ascii()));
        }
        Progress::NeedMore => assert!(stream.len() < MAX_HELLO),
    }
});

fn byte_by_byte(stream: &[u8]) -> Progress {
    let mut parser = Parser::new();
    for end in 0..=stream.len() {
        let answer = parser.advance(&stream[..end]);
        if answer != Progress::NeedMore {
            return answer;
        }
    }
    Progress::NeedMore
}
