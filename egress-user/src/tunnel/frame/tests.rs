use proptest::prelude::*;

use super::*;
use crate::addr::OriginAddr;
use crate::refusal::{Class, Refusal};

/// Reads one whole frame of the expected type.
fn payload_of(kind: Kind, frame: &[u8]) -> &[u8] {
    let (header, payload) = frame.split_first_chunk().unwrap();
    let header = FrameHeader::parse(header).unwrap();
    assert_eq!((header.kind(), header.payload_len()), (kind, payload.len()));
    payload
}

fn refused_bytes(refusal: &Refusal) -> BytesMut {
    let mut out = BytesMut::new();
    put_refused(refusal, &mut out).unwrap();
    out
}

#[test]
fn the_layout_is_the_documented_one() {
    let mut out = BytesMut::from(&b"before"[..]);
    put(Kind::Data, b"xyz", &mut out).unwrap();
    put(Kind::Fin, b"", &mut out).unwrap();
    put(Kind::Reset, &[ResetCode::PolicyChanged.code()], &mut out).unwrap();
    assert_eq!(&out[..], b"before\x02\0\0\x03xyz\x03\0\0\0\x04\0\0\x01\x03");

    let refusal = Refusal {
        rule: Some("r1".into()),
        ..Refusal::new(Class::Denied, "no_rule")
    };
    assert_eq!(
        &refused_bytes(&refusal)[..],
        b"\x05\0\0\x0c\x01\x07no_rule\x02r1"
    );

    let mut out = BytesMut::new();
    let opened = Opened {
        dialled: OriginAddr::new("192.0.2.7:443".parse().unwrap()),
        policy: *b"12345678",
        original_resolved: true,
    };
    opened.put(&mut out).unwrap();
    assert_eq!(
        &out[..],
        b"\x06\0\0\x10\x01\x04\x01\xbb12345678\xc0\0\x02\x07"
    );
}

#[test]
fn a_full_data_frame_fills_one_tls_record() {
    let header = FrameHeader::new(Kind::Data, MAX_DATA).unwrap();
    assert_eq!(header.encode(), [2, 0, 0x3F, 0xFC]);
    assert_eq!(HEADER_LEN + MAX_DATA, 1 << 14);
}

#[test]
fn every_limit_holds_at_its_edge() {
    for kind in Kind::ALL {
        let (shortest, largest) = kind.limits();
        assert!(FrameHeader::new(kind, shortest).is_ok());
        assert!(FrameHeader::new(kind, largest).is_ok());
        assert!(matches!(
            FrameHeader::new(kind, largest + 1),
            Err(FrameError::TooLarge { .. })
        ));
        if let Some(less) = shortest.checked_sub(1) {
            assert!(matches!(
                FrameHeader::new(kind, less),
                Err(FrameError::TooShort { .. })
            ));
        }
    }
    let longest = FrameHeader::parse(&[2, 0xFF, 0xFF, 0xFF]).unwrap_err();
    assert_eq!(longest.reason(), "frame_too_large");
    let empty = FrameHeader::parse(&[2, 0, 0, 0]).unwrap_err();
    assert_eq!(empty.reason(), "frame_too_short");
}

#[test]
fn unknown_types_are_refused() {
    for code in (0..=u8::MAX).filter(|code| !(1..=8).contains(code)) {
        let error = FrameHeader::parse(&[code, 0, 0, 1]).unwrap_err();
        assert_eq!(error, FrameError::UnknownKind(code));
        assert_eq!(error.reason(), "frame_type_unknown");
    }
}

#[test]
fn a_frame_that_does_not_fit_leaves_the_buffer_alone() {
    let mut out = BytesMut::from(&b"x"[..]);
    assert!(put(Kind::Data, &[], &mut out).is_err());
    assert!(put(Kind::Open, &[0; MAX_OPEN + 1], &mut out).is_err());
    assert_eq!(&out[..], b"x");
}

#[test]
fn reset_codes_round_trip_and_unknown_ones_are_unspecified() {
    for code in ResetCode::ALL {
        assert_eq!(ResetCode::decode(&[code.code()]), Ok(code));
    }
    assert_eq!(ResetCode::decode(&[8]), Ok(ResetCode::Unspecified));
    assert!(ResetCode::decode(&[]).is_err());
    assert!(ResetCode::decode(&[1, 1]).is_err());
}

#[test]
fn refused_is_strict() {
    let good = b"\x01\x03abc\x01r";
    assert!(decode_refused(good).is_ok());
    let bad: [&[u8]; 10] = [
        b"\x00\x03abc\x01r",
        b"\x07\x03abc\x01r",
        b"\x01\x00\x01r",
        b"\x01\x03aBc\x01r",
        b"\x01\x03a-c\x01r",
        b"\x01\x03abc\x01\n",
        b"\x01\x03abc\x01\xff",
        b"\x01\x03abc\x02\xc2\x85",
        b"\x01\x03abc\x01rr",
        b"\x01\x04abc\x01r",
    ];
    for payload in bad {
        assert_eq!(
            decode_refused(payload).unwrap_err().reason(),
            "frame_malformed"
        );
    }
    let long_reason = [b"\x01\x41".to_vec(), vec![b'a'; 65], vec![0]].concat();
    assert!(decode_refused(&long_reason).is_err());
    let long_rule = [b"\x01\x01a\x81".to_vec(), vec![b'r'; 129]].concat();
    assert!(decode_refused(&long_rule).is_err());
}

#[test]
fn an_odd_rule_does_not_keep_a_refusal_back() {
    let refusal = Refusal {
        rule: Some(format!("a\nb{}", "é".repeat(100)).as_str().into()),
        ..Refusal::new(Class::Denied, "denied_by_rule")
    };
    let decoded = decode_refused(payload_of(Kind::Refused, &refused_bytes(&refusal))).unwrap();
    let rule = decoded.rule.unwrap();
    assert!(rule.starts_with("a\u{FFFD}bé"));
    assert_eq!(rule.len(), 127);
}

#[test]
fn a_reason_that_is_none_is_not_sent() {
    let long = "a".repeat(65);
    for reason in ["", "Not", "no way", &long] {
        let refusal = Refusal {
            reason: reason.to_owned().into(),
            ..Refusal::new(Class::Internal, "x")
        };
        let mut out = BytesMut::new();
        assert!(put_refused(&refusal, &mut out).is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn opened_is_strict() {
    let v4 = b"\x01\x04\x01\xbb12345678\xc0\0\x02\x07".to_vec();
    assert!(Opened::decode(&v4).unwrap().original_resolved);
    let flags_of_the_future = [&[0xFE], &v4[1..]].concat();
    assert!(
        !Opened::decode(&flags_of_the_future)
            .unwrap()
            .original_resolved
    );
    let with_family = |family: u8| [&v4[..1], &[family], &v4[2..]].concat();
    for family in [0, 5, 6, 0xFF] {
        assert!(Opened::decode(&with_family(family)).is_err());
    }
    let mapped = b"\0\x06\x01\xbb12345678\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x07";
    assert!(Opened::decode(mapped).is_err());
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    (
        prop::sample::select(&Class::ALL[..]),
        "[a-z0-9_]{1,64}",
        prop::option::of("[^\\p{Cc}]{1,32}"),
    )
        .prop_map(|(class, reason, rule)| Refusal {
            class,
            reason: reason.into(),
            rule: rule.as_deref().map(Into::into),
        })
}

fn any_opened() -> impl Strategy<Value = Opened> {
    (
        any::<std::net::SocketAddr>(),
        any::<[u8; 8]>(),
        any::<bool>(),
    )
        .prop_map(|(addr, policy, original_resolved)| Opened {
            // Scope and flow label of a link-local address do not travel.
            dialled: OriginAddr::new((addr.ip(), addr.port()).into()),
            policy,
            original_resolved,
        })
}

proptest! {
    #[test]
    fn headers_round_trip(kind in prop::sample::select(&Kind::ALL[..]), len in 0..20_000_usize) {
        if let Ok(header) = FrameHeader::new(kind, len) {
            prop_assert_eq!(FrameHeader::parse(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn parse_and_encode_agree_on_any_bytes(bytes: [u8; HEADER_LEN]) {
        if let Ok(header) = FrameHeader::parse(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn refused_round_trips_and_no_prefix_of_it_is_accepted(refusal in any_refusal()) {
        let frame = refused_bytes(&refusal);
        let payload = payload_of(Kind::Refused, &frame);
        prop_assert_eq!(decode_refused(payload), Ok(refusal));
        for cut in 0..payload.len() {
            prop_assert!(decode_refused(&payload[..cut]).is_err());
        }
        prop_assert!(decode_refused(&[payload, b"x"].concat()).is_err());
    }

    #[test]
    fn opened_round_trips_and_no_prefix_of_it_is_accepted(opened in any_opened()) {
        let mut frame = BytesMut::new();
        opened.put(&mut frame).unwrap();
        let payload = payload_of(Kind::Opened, &frame);
        prop_assert_eq!(Opened::decode(payload), Ok(opened));
        for cut in 0..payload.len() {
            prop_assert!(Opened::decode(&payload[..cut]).is_err());
        }
        prop_assert!(Opened::decode(&[payload, b"x"].concat()).is_err());
    }

    #[test]
    fn random_payloads_are_refused_or_read_the_same_again(
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = ResetCode::decode(&payload);
        if let Ok(refusal) = decode_refused(&payload) {
            prop_assert_eq!(&refused_bytes(&refusal)[HEADER_LEN..], &payload[..]);
        }
        if let Ok(opened) = Opened::decode(&payload) {
            let mut out = BytesMut::new();
            opened.put(&mut out).unwrap();
            prop_assert_eq!(&out[HEADER_LEN + 1..], &payload[1..]);
        }
    }
}
