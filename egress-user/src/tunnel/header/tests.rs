use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

mod anybody;

/// The example of RFC 9562, appendix A.6.
const ID: [u8; 16] = 0x017F22E2_79B0_7CC3_98C4_DC0C0C07398F_u128.to_be_bytes();

fn header() -> OpenHeader {
    OpenHeader {
        client: ClientAddr::new("10.0.0.1:40000".parse().unwrap()),
        original: OriginalDst::new("192.0.2.7:443".parse().unwrap()),
        server_name: "a.example".to_owned(),
        connection_id: ConnectionId::from_bytes(ID).unwrap(),
        policy: *b"\x01\x02\x03\x04\x05\x06\x07\x08",
        workload: Workload::default(),
        process: None,
    }
}

fn encoded(header: &OpenHeader) -> BytesMut {
    let mut out = BytesMut::new();
    header.encode(&mut out).unwrap();
    out
}

/// A header of the given TLVs after the addresses of [`header`].
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(&header())[..FIXED_LEN + 12].to_vec();
    bytes.extend(tlvs);
    set_length(&mut bytes);
    bytes
}

fn set_length(bytes: &mut [u8]) {
    let len = u16::try_from(bytes.len() - FIXED_LEN).unwrap();
    bytes[14..16].copy_from_slice(&len.to_be_bytes());
}

/// The TLVs that must be there.
fn required() -> Vec<u8> {
    encoded(&header())[FIXED_LEN + 12..].to_vec()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap();
    [&[kind][..], &len.to_be_bytes(), value].concat()
}

/// Byte for byte after `struct proxy_hdr_v2`, `union proxy_addr` and `struct pp2_tlv` of
/// proxy-protocol.txt.
#[test]
fn the_layout_is_that_of_proxy_protocol_v2() {
    let mut expected: Vec<u8> = vec![
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, // sig
        0x21, // ver_cmd
        0x11, // fam
        0x00, 0x8F, // len
        10, 0, 0, 1, // src_addr
        192, 0, 2, 7, // dst_addr
        0x9C, 0x40, // src_port
        0x01, 0xBB, // dst_port
        0x02, 0x00, 0x09, // PP2_TYPE_AUTHORITY
    ];
    expected.extend(b"a.example");
    expected.extend([0x05, 0x00, 0x10]); // PP2_TYPE_UNIQUE_ID
    expected.extend(ID);
    expected.extend([0xE1, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8]);
    expected.extend([0xE0, 0x00, 0x47]);
    expected.extend(b"\x01\0\x03web\x02\0\x07crawl-0\x03\0\x07crawler\x04\0\x03app");
    expected.extend(b"\x05\0\x09/kubepods\x06\0\x04\0\0\x03\xe8");
    expected.extend(b"\x07\0\x11\0\x03app\x05crawl\0\x03run\0");
    expected.extend(b"\xE2\0\x0c\0\0\x10\x92\0\0\x03\xe8curl");

    let header = OpenHeader {
        workload: Workload {
            namespace: Some("web".to_owned()),
            pod: Some("crawl-0".to_owned()),
            service_account: Some("crawler".to_owned()),
            container: Some("app".to_owned()),
            cgroup: Some("/kubepods".to_owned()),
            uid: Some(1000),
            labels: Some(labels(&[("run", ""), ("app", "crawl")])),
        },
        process: Some(Process {
            pid: 4242,
            comm: "curl".to_owned(),
            uid: 1000,
        }),
        ..header()
    };
    assert_eq!(encoded(&header)[..], expected[..]);
    assert_eq!(OpenHeader::decode(&expected), Ok(header));
}

#[test]
fn one_ipv6_address_makes_both_ipv6() {
    let header = OpenHeader {
        client: ClientAddr::new("[::1]:40000".parse().unwrap()),
        ..header()
    };
    let bytes = encoded(&header);
    assert_eq!(bytes[13], 0x21);
    assert_eq!(bytes[16..32], Ipv6Addr::LOCALHOST.octets());
    let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
    assert_eq!(bytes[32..48], mapped.octets());
    assert_eq!(bytes[48..52], [0x9C, 0x40, 0x01, 0xBB]);
    assert_eq!(OpenHeader::decode(&bytes), Ok(header));
}

#[test]
fn a_header_at_every_limit_fits_an_open_frame() {
    let name = |len| Some("n".repeat(len));
    let header = OpenHeader {
        client: ClientAddr::new("[2001:db8::1]:1".parse().unwrap()),
        server_name: "a".repeat(253),
        workload: Workload {
            namespace: name(253),
            pod: name(253),
            service_account: name(253),
            container: name(253),
            cgroup: name(1024),
            uid: Some(u32::MAX),
            labels: Some(labels(&[
                (&"k".repeat(1000), &"v".repeat(255)),
                (&"l".repeat(275), ""),
            ])),
        },
        process: Some(Process {
            pid: 1,
            comm: "\u{FFFD}".repeat(15),
            uid: 1,
        }),
        ..header()
    };
    let bytes = encoded(&header);
    assert_eq!(bytes.len(), LARGEST);
    assert!(bytes.len() <= MAX_OPEN);
    assert_eq!(OpenHeader::decode(&bytes), Ok(header));
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    let labels = labels.iter();
    labels
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// To have no label is to be known, and is said.
#[test]
fn no_labels_are_not_unknown_labels() {
    let mut header = header();
    header.workload.labels = Some(Labels::default());
    let decoded = OpenHeader::decode(&encoded(&header)).unwrap();
    assert_eq!(decoded.workload.labels, Some(Labels::default()));
}

/// How a gateway reads them that does not know them: as any other type that it does not know.
#[test]
fn labels_are_left_out_by_who_does_not_know_them() {
    let mut header = header();
    header.workload.uid = Some(7);
    header.workload.labels = Some(labels(&[("app", "crawl")]));
    let mut bytes = encoded(&header);
    let at = bytes.windows(3).position(|tlv| tlv == [LABELS, 0, 11]);
    bytes[at.unwrap()] = 0x7f;
    header.workload.labels = None;
    assert_eq!(OpenHeader::decode(&bytes), Ok(header));
}

#[test]
fn what_would_not_be_taken_is_not_written() {
    type Change = fn(&mut OpenHeader);
    let changes: [(Change, HeaderError); 12] = [
        (
            |h| h.server_name.clear(),
            HeaderError::Invalid(Field::ServerName),
        ),
        (
            |h| h.server_name = "A.example".to_owned(),
            HeaderError::Invalid(Field::ServerName),
        ),
        (
            |h| h.server_name = "a".repeat(254),
            HeaderError::TooLong(Field::ServerName),
        ),
        (
            |h| h.workload.pod = Some(String::new()),
            HeaderError::Invalid(Field::Pod),
        ),
        (
            |h| h.workload.pod = Some("a\nb".to_owned()),
            HeaderError::Invalid(Field::Pod),
        ),
        (
            |h| h.workload.namespace = Some("n".repeat(254)),
            HeaderError::TooLong(Field::Namespace),
        ),
        (
            |h| h.workload.cgroup = Some("/".repeat(1025)),
            HeaderError::TooLong(Field::Cgroup),
        ),
        (
            |h| {
                h.process = Some(Process {
                    comm: "c".repeat(46),
                    ..Process::default()
                })
            },
            HeaderError::TooLong(Field::Process),
        ),
        (
            |h| h.workload.labels = Some(labels(&[("", "v")])),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            |h| h.workload.labels = Some(labels(&[("k", "a\nb")])),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            |h| h.workload.labels = Some(labels(&[("k", &"v".repeat(256))])),
            HeaderError::TooLong(Field::Labels),
        ),
        (
            |h| h.workload.labels = Some((0..65).map(|n| (n.to_string(), String::new())).collect()),
            HeaderError::TooLong(Field::Labels),
        ),
    ];
    for (change, error) in changes {
        let mut header = header();
        change(&mut header);
        let mut out = BytesMut::from(&b"x"[..]);
        assert_eq!(header.encode(&mut out), Err(error));
        assert_eq!(&out[..], b"x");
    }
}

#[test]
fn the_fixed_part_is_strict() {
    let good = encoded(&header());
    let with = |index: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[index] = byte;
        OpenHeader::decode(&bytes).unwrap_err().reason()
    };
    assert_eq!(with(0, b'P'), "header_signature");
    assert_eq!(with(11, 0), "header_signature");
    for command in [0x20, 0x22, 0x11, 0x31] {
        assert_eq!(with(12, command), "header_command");
    }
    for family in [0x00, 0x12, 0x22, 0x31, 0x32, 0x10] {
        assert_eq!(with(13, family), "header_family");
    }
    assert_eq!(with(15, 0), "header_length");
    let trailing = [&good[..], b"x"].concat();
    assert_eq!(
        OpenHeader::decode(&trailing).unwrap_err().reason(),
        "header_length"
    );
}

#[test]
fn addresses_of_the_wrong_length_are_refused() {
    let mut bytes = encoded(&header())[..FIXED_LEN + 12].to_vec();
    bytes[13] = TCP6;
    set_length(&mut bytes);
    assert_eq!(OpenHeader::decode(&bytes), Err(HeaderError::Truncated));
}

#[test]
fn unknown_tlvs_are_skipped_even_twice() {
    let inside = tlv(0xE0, &[tlv(9, b"?"), tlv(1, b"web"), tlv(9, b"")].concat());
    let tlvs = [
        tlv(0x04, b"pad"),
        required(),
        tlv(0xEF, b"?"),
        inside,
        tlv(0xEF, b""),
    ];
    let decoded = OpenHeader::decode(&with_tlvs(&tlvs.concat())).unwrap();
    assert_eq!(decoded.workload.namespace.as_deref(), Some("web"));
    assert_eq!(decoded.server_name, "a.example");
}

#[test]
fn every_known_tlv_may_come_once() {
    let names = [1, 2, 3, 4, 5].map(|kind| tlv(kind, b"n"));
    let inside = [names.concat(), tlv(6, &[0; 4])].concat();
    let inside = [inside, tlv(7, b"\0\x01k\0")].concat();
    let all = [required(), tlv(0xE0, &inside), tlv(0xE2, &[0; 8])].concat();
    assert!(OpenHeader::decode(&with_tlvs(&all)).is_ok());

    let outer = [
        tlv(2, b"b"),
        tlv(5, &ID),
        tlv(0xE1, &[0; 8]),
        tlv(0xE0, b""),
        tlv(0xE2, &[0; 8]),
    ];
    for again in outer {
        let bytes = with_tlvs(&[&all[..], &again].concat());
        let error = OpenHeader::decode(&bytes).unwrap_err();
        assert!(matches!(error, HeaderError::Duplicate(_)), "{again:?}");
    }
    for again in names.into_iter().chain([tlv(6, &[0; 4]), tlv(7, b"")]) {
        let twice = tlv(0xE0, &[&inside[..], &again].concat());
        let error = OpenHeader::decode(&with_tlvs(&[required(), twice].concat())).unwrap_err();
        assert!(matches!(error, HeaderError::Duplicate(_)), "{again:?}");
    }
}

#[test]
fn what_must_be_there_is_missed() {
    let parts = [
        (tlv(2, b"a.example"), Field::ServerName),
        (tlv(5, &ID), Field::ConnectionId),
        (tlv(0xE1, &[0; 8]), Field::Policy),
    ];
    for (_, absent) in &parts {
        let others = parts.iter().filter(|(_, field)| field != absent);
        let tlvs: Vec<u8> = others.flat_map(|(tlv, _)| tlv.clone()).collect();
        assert_eq!(
            OpenHeader::decode(&with_tlvs(&tlvs)),
            Err(HeaderError::Missing(*absent))
        );
    }
}

fn with_labels(value: &[u8]) -> Vec<u8> {
    tlv(0xE0, &tlv(LABELS, value))
}

#[test]
fn more_labels_than_any_has_are_not_read() {
    let label = |n: u8| [0, 1, b'0' + n, 0];
    let labels = |count| with_labels(&(0..count).flat_map(label).collect::<Vec<u8>>());
    let decoded = |count| OpenHeader::decode(&with_tlvs(&[required(), labels(count)].concat()));
    assert!(decoded(64).is_ok());
    assert_eq!(decoded(65), Err(HeaderError::TooLong(Field::Labels)));
}

#[test]
fn values_are_strict() {
    let long = "n".repeat(254);
    let bad: [(Vec<u8>, HeaderError); 25] = [
        (tlv(2, b""), HeaderError::Invalid(Field::ServerName)),
        (
            tlv(2, b"A.example"),
            HeaderError::Invalid(Field::ServerName),
        ),
        (tlv(2, b"a/b"), HeaderError::Invalid(Field::ServerName)),
        (tlv(2, b"\xff"), HeaderError::Invalid(Field::ServerName)),
        (
            tlv(2, long.as_bytes()),
            HeaderError::TooLong(Field::ServerName),
        ),
        (tlv(5, &ID[..15]), HeaderError::Invalid(Field::ConnectionId)),
        (tlv(5, &[0; 16]), HeaderError::Invalid(Field::ConnectionId)),
        (tlv(0xE1, &[0; 7]), HeaderError::Invalid(Field::Policy)),
        (tlv(0xE1, &[0; 9]), HeaderError::Invalid(Field::Policy)),
        (tlv(0xE2, &[0; 7]), HeaderError::Invalid(Field::Process)),
        (tlv(0xE2, &[b'c'; 54]), HeaderError::TooLong(Field::Process)),
        (
            tlv(0xE2, b"12345678\xff"),
            HeaderError::Invalid(Field::Process),
        ),
        (
            tlv(0xE0, &tlv(1, b"")),
            HeaderError::Invalid(Field::Namespace),
        ),
        (
            tlv(0xE0, &tlv(3, b"a\x1bb")),
            HeaderError::Invalid(Field::ServiceAccount),
        ),
        (
            tlv(0xE0, &tlv(4, long.as_bytes())),
            HeaderError::TooLong(Field::Container),
        ),
        (
            tlv(0xE0, &tlv(6, &[0; 3])),
            HeaderError::Invalid(Field::Uid),
        ),
        (tlv(0xE0, &tlv(1, b"web")[..5]), HeaderError::Truncated),
        (
            with_labels(b"\0\0\x01v"),
            HeaderError::Invalid(Field::Labels),
        ),
        (with_labels(b"\0\x01k"), HeaderError::Invalid(Field::Labels)),
        (
            with_labels(b"\0\x01k\x02v"),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            with_labels(b"\0\x01k\x01\xff"),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            with_labels(b"\0\x01k\x01\n"),
            HeaderError::Invalid(Field::Labels),
        ),
        // Twice, and in the wrong order.
        (
            with_labels(b"\0\x01k\0\0\x01k\0"),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            with_labels(b"\0\x01l\0\0\x01k\0"),
            HeaderError::Invalid(Field::Labels),
        ),
        (
            with_labels(&[0; MAX_LABELS_LEN + 1]),
            HeaderError::TooLong(Field::Labels),
        ),
    ];
    for (tlv, error) in bad {
        assert_eq!(OpenHeader::decode(&with_tlvs(&tlv)), Err(error), "{tlv:?}");
    }
}

fn any_name(longest: usize) -> impl Strategy<Value = Option<String>> {
    prop::option::of("[^\\p{Cc}]{1,600}".prop_map(move |mut name| {
        let end = (0..=longest).rev().find(|&end| name.is_char_boundary(end));
        name.truncate(end.unwrap());
        name
    }))
}

prop_compose! {
    fn any_workload()(
        namespace in any_name(253),
        pod in any_name(253),
        service_account in any_name(253),
        container in any_name(253),
        cgroup in any_name(1024),
        uid: Option<u32>,
        labels in prop::option::of(prop::collection::btree_map("[^\\p{Cc}]{1,9}", "[^\\p{Cc}]{0,9}", 0..9)),
    ) -> Workload {
        let labels = labels.map(Labels::from_iter);
        Workload { namespace, pod, service_account, labels, container, cgroup, uid }
    }
}

prop_compose! {
    fn any_header()(
        client: SocketAddr,
        original: SocketAddr,
        server_name in "[a-z0-9._-]{1,253}",
        policy: [u8; 8],
        workload in any_workload(),
        process in prop::option::of((any::<u32>(), any::<u32>(), "[ -~]{0,15}|\u{FFFD}{0,15}")),
    ) -> OpenHeader {
        OpenHeader {
            // Scope and flow label of a link-local address do not travel.
            client: ClientAddr::new((client.ip(), client.port()).into()),
            original: OriginalDst::new((original.ip(), original.port()).into()),
            server_name,
            connection_id: ConnectionId::new(),
            policy,
            workload,
            process: process.map(|(pid, uid, comm)| Process { pid, comm, uid }),
        }
    }
}

proptest! {
    #[test]
    fn headers_round_trip(header in any_header()) {
        let bytes = encoded(&header);
        prop_assert!(bytes.len() <= LARGEST);
        prop_assert_eq!(OpenHeader::decode(&bytes), Ok(header));
    }

    #[test]
    fn every_truncation_is_refused(header in any_header()) {
        let bytes = encoded(&header);
        for cut in 0..bytes.len() {
            prop_assert!(OpenHeader::decode(&bytes[..cut]).is_err());
        }
    }

    /// The same with the length made to fit, so that the cut reaches the TLVs. What a cut between
    /// two of them leaves is shorter and still whole.
    #[test]
    fn a_truncation_with_a_fitting_length_never_yields_the_same(header in any_header()) {
        let bytes = encoded(&header);
        for cut in FIXED_LEN..bytes.len() {
            let mut bytes = bytes[..cut].to_vec();
            set_length(&mut bytes);
            prop_assert_ne!(OpenHeader::decode(&bytes), Ok(header.clone()));
        }
    }

    /// Whatever is accepted can be written and read again to the same.
    #[test]
    fn changed_bytes_are_refused_or_read_the_same_again(
        header in any_header(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&header);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(decoded) = OpenHeader::decode(&bytes) {
            prop_assert_eq!(OpenHeader::decode(&encoded(&decoded)), Ok(decoded));
        }
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = OpenHeader::decode(&tail);
        let _ = OpenHeader::decode(&with_tlvs(&tail));
        let _ = OpenHeader::decode(&with_tlvs(&[required(), tlv(0xE0, &tail)].concat()));
    }
}
