//! Any bytes as a sequence of frames: no panic, no length beyond its limit, and what is accepted is
//! written the same way again.
#![no_main]

use bytes::BytesMut;
use egress_user::tunnel::frame::{
    FrameHeader, HEADER_LEN, Kind, MAX_DATA, Opened, Order, ResetCode, Role, decode_refused,
    put_refused,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut agent = Order::new(Role::Agent);
    let mut gateway = Order::new(Role::Gateway);
    let mut rest = bytes;
    while let Some((header_bytes, tail)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = FrameHeader::parse(header_bytes) else {
            return;
        };
        assert_eq!(header.encode(), *header_bytes);
        assert!(header.payload_len() <= MAX_DATA);
        let Some((payload, tail)) = tail.split_at_checked(header.payload_len()) else {
            return;
        };
        check_payload(header.kind(), payload);
        // Each end as the other's frames would find it.
        let _ = agent.received(header.kind());
        let _ = agent.sent(header.kind());
        let _ = gateway.received(header.kind());
        let _ = gateway.sent(header.kind());
        rest = tail;
    }
});

fn check_payload(kind: Kind, payload: &[u8]) {
    let mut again = BytesMut::new();
    match kind {
        Kind::Reset => {
            ResetCode::decode(payload).expect("a RESET of one byte is always readable");
        }
        Kind::Refused => {
            if let Ok(refusal) = decode_refused(payload) {
                put_refused(&refusal, &mut again).expect("what was read can be written");
                assert_eq!(&again[HEADER_LEN..], payload);
            }
        }
        Kind::Opened => {
            if let Ok(opened) = Opened::decode(payload) {
                opened
                    .put(&mut again)
                    .expect("what was read can be written");
                assert_eq!(Opened::decode(&again[HEADER_LEN..]), Ok(opened));
            }
        }
        Kind::Open | Kind::Data | Kind::Fin | Kind::Drain | Kind::Ready => {}
    }
}
