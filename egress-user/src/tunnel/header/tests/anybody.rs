//! Headers of programs that are not ours.

use super::*;

#[test]
fn anybodys_header_may_say_less() {
    let bare = ProxyHeader::decode(&with_tlvs(&[])).unwrap();
    assert_eq!(bare.addresses, Some((header().client, header().original)));
    assert_eq!(bare.workload, Workload::default());
    assert_eq!((bare.server_name, bare.connection_id), (None, None));

    let full = OpenHeader {
        workload: Workload {
            namespace: Some("web".to_owned()),
            ..Workload::default()
        },
        ..header()
    };
    let read = ProxyHeader::decode(&encoded(&full)).unwrap();
    assert_eq!(read.server_name, Some(full.server_name));
    assert_eq!(read.connection_id, Some(full.connection_id));
    assert_eq!(read.policy, Some(full.policy));
    assert_eq!(read.workload, full.workload);

    // Checksum, SSL information, and the unique id of another program.
    let others = [tlv(3, &[1; 4]), tlv(0x20, &[7; 20]), tlv(5, b"id-7")].concat();
    let read = ProxyHeader::decode(&with_tlvs(&others)).unwrap();
    assert_eq!(read.connection_id, None);
}

/// proxy-protocol.txt §2.2: what a sender of its own accord opened is for nobody, whatever follows.
#[test]
fn a_local_header_says_nothing() {
    let mut local = with_tlvs(&required());
    local[12] = VERSION_2_LOCAL;
    local[13] = 0;
    assert_eq!(ProxyHeader::decode(&local), Ok(ProxyHeader::default()));
    assert_eq!(
        OpenHeader::decode(&local),
        Err(HeaderError::Command(VERSION_2_LOCAL))
    );
}

#[test]
fn anybodys_header_is_read_strictly() {
    let mut other_family = with_tlvs(&[]);
    other_family[13] = 0x31;
    for (bytes, error) in [
        (other_family, HeaderError::Family(0x31)),
        (with_tlvs(&[2, 0]), HeaderError::Truncated),
        (
            with_tlvs(&tlv(AUTHORITY, b"A.example")),
            HeaderError::Invalid(Field::ServerName),
        ),
        (
            with_tlvs(&[tlv(5, b"a"), tlv(5, b"b")].concat()),
            HeaderError::Duplicate(Field::ConnectionId),
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), HeaderError::Signature),
    ] {
        assert_eq!(ProxyHeader::decode(&bytes), Err(error));
    }
    let mut fixed = *encoded(&header()).first_chunk().unwrap();
    assert_eq!(
        ProxyHeader::rest_len(&fixed),
        Ok(encoded(&header()).len() - 16)
    );
    fixed[14] = 0xff;
    let error = ProxyHeader::rest_len(&fixed).unwrap_err();
    assert!(matches!(error, HeaderError::TooLarge(_)), "{error}");
    fixed[0] = 0x16;
    assert_eq!(ProxyHeader::rest_len(&fixed), Err(HeaderError::Signature));
}
