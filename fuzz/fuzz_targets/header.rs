//! Any bytes as the payload of OPEN: no panic, and what is accepted can be written and read again to
//! the same.
#![no_main]

use bytes::BytesMut;
use egress_user::tunnel::frame::MAX_OPEN;
use egress_user::tunnel::header::OpenHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = OpenHeader::decode(bytes) {
        let mut again = BytesMut::new();
        header
            .encode(&mut again)
            .expect("what was read can be written");
        assert!(again.len() <= MAX_OPEN);
        assert_eq!(OpenHeader::decode(&again), Ok(header));
    }
});
