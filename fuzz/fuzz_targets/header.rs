//! Any bytes as the payload of OPEN: no panic, and what is accepted can be written and read again to
//! the same. As a PROXY header of anybody they say the same, if they say it.
#![no_main]

use bytes::BytesMut;
use egress_user::tunnel::frame::MAX_OPEN;
use egress_user::tunnel::header::{OpenHeader, ProxyHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let anybodys = ProxyHeader::decode(bytes);
    if let Ok(header) = OpenHeader::decode(bytes) {
        let anybodys = anybodys.expect("what OPEN may say anybody may");
        assert_eq!(anybodys.addresses, Some((header.client, header.original)));
        assert_eq!(anybodys.connection_id, Some(header.connection_id));
        assert_eq!(anybodys.workload, header.workload);
        let mut again = BytesMut::new();
        header
            .encode(&mut again)
            .expect("what was read can be written");
        assert!(again.len() <= MAX_OPEN);
        assert_eq!(OpenHeader::decode(&again), Ok(header));
    }
});
