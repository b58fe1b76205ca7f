//! ClientHellos of real clients, cut and changed in every way.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says what it expects by panicking"
)]

use egress_user::hello::{ClientHello, Ech, Parser, Progress, ServerName};
use proptest::prelude::*;
use rustls::pki_types::DnsName;

/// A capture and what it says.
#[derive(Clone, Copy, Debug)]
struct Captured {
    client: &'static str,
    stream: &'static [u8],
    name: &'static str,
    alpn: &'static [&'static str],
    versions: &'static [&'static str],
    ech: Ech,
    ja4: &'static str,
}

macro_rules! captured {
    ($client:literal, $name:literal, $alpn:expr, $versions:expr, $ech:ident, $ja4:literal) => {
        Captured {
            client: $client,
            stream: include_bytes!(concat!("hellos/", $client, ".bin")),
            name: $name,
            alpn: &$alpn,
            versions: &$versions,
            ech: Ech::$ech,
            ja4: $ja4,
        }
    };
}

const NEW: [&str; 2] = ["TLS1.3", "TLS1.2"];
const ALL: [&str; 4] = ["TLS1.3", "TLS1.2", "TLS1.1", "TLS1.0"];

/// The fingerprints were computed by another program; those of Chromium, curl, Go and Python
/// are also the published ones of these clients.
#[rustfmt::skip]
const CAPTURED: [Captured; 12] = [
    captured!("chromium", "en.wikipedia.org", ["h2", "http/1.1"], NEW, Outer, "t13d1517h2_8daaf6152771_cb7bf5808d99"),
    captured!("curl", "en.wikipedia.org", ["h2", "http/1.1"], ALL, Absent, "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6"),
    captured!("firefox", "en.wikipedia.org", ["h2", "http/1.1"], NEW, Outer, "t13d1617h2_86a278354501_3cbfd9057e0d"),
    captured!("go", "en.wikipedia.org", ["h2", "http/1.1"], NEW, Absent, "t13d1910h2_9dc949149365_97f8aa674fd9"),
    captured!("java", "en.wikipedia.org", [], NEW, Absent, "t13d371200_db35923f8641_7c76daad20ec"),
    captured!("node", "en.wikipedia.org", ["http/1.1"], NEW, Absent, "t13d5911h1_a33745022dd6_1f22a2ca17c4"),
    captured!("openssl", "en.wikipedia.org", [], ALL, Absent, "t13d311000_e8f1e7e78f70_1f22a2ca17c4"),
    captured!("openssl-early-data", "en.wikipedia.org", [], ["TLS1.3"], Absent, "t13d041200_16476d049b0b_2226a1d1dedf"),
    captured!("openssl-tls1_2", "en.wikipedia.org", [], ["TLS1.2"], Absent, "t12d280700_d943125447b4_e7e480e5a997"),
    captured!("python", "en.wikipedia.org", [], NEW, Absent, "t13d181100_85036bcba153_d41ae481755e"),
    captured!("rustls", "en.wikipedia.org", [], ["TLS1.3"], Absent, "t13d030900_55b375c5d22e_76ad8fd2bde2"),
    captured!("wget", "localhost", [], ALL, Absent, "t13d291300_723694b0fccc_899037bd0b8c"),
];

#[test]
fn what_real_clients_say() {
    for captured in CAPTURED {
        let client = captured.client;
        let hello = accepted(captured.stream);
        let versions: Vec<String> = hello.versions.iter().map(ToString::to_string).collect();
        assert_eq!(hello.server_name.as_str(), captured.name, "{client}");
        assert_eq!(hello.raw_name.as_str(), captured.name, "{client}");
        assert_eq!(hello.alpn, captured.alpn, "{client}");
        assert_eq!(versions, captured.versions, "{client}");
        assert_eq!(hello.ech, captured.ech, "{client}");
        assert_eq!(hello.ja4, captured.ja4, "{client}");
    }
}

#[test]
fn any_two_segments() {
    for Captured { client, stream, .. } in CAPTURED {
        let whole = accepted(stream);
        for at in 0..stream.len() {
            let mut parser = Parser::new();
            let first = parser.advance(&stream[..at]);
            if first != Progress::NeedMore {
                assert_eq!(
                    first,
                    Progress::Hello(whole.clone().into()),
                    "{client} at {at}"
                );
            }
            let second = parser.advance(stream);
            assert_eq!(
                second,
                Progress::Hello(whole.clone().into()),
                "{client} at {at}"
            );
        }
    }
}

#[test]
fn any_two_records() {
    for Captured { client, stream, .. } in CAPTURED {
        let whole = accepted(stream);
        let message = message(stream);
        for at in 1..message.len() {
            let (start, rest) = message.split_at(at);
            let two = [record(start), record(rest)].concat();
            assert_eq!(accepted(&two), whole, "{client} at {at}");
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    for Captured { client, stream, .. } in CAPTURED {
        let whole = accepted(stream);
        let bytes_in_records = message(stream).chunks(1).flat_map(record).collect();
        for stream in [stream.to_vec(), bytes_in_records] {
            let cuts: Vec<usize> = (0..stream.len()).collect();
            assert_eq!(
                in_segments(&stream, &cuts),
                Progress::Hello(whole.clone().into()),
                "{client}"
            );
        }
    }
}

#[test]
fn no_hello_before_its_last_byte() {
    for Captured { client, stream, .. } in CAPTURED {
        let hello = 5 + message(stream).len();
        for taken in 0..hello {
            assert_eq!(
                Parser::new().advance(&stream[..taken]),
                Progress::NeedMore,
                "{client} at {taken}"
            );
        }
        accepted(&stream[..hello]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(stream in prop::collection::vec(any::<u8>(), 0..400), cuts in cuts()) {
        prop_assert_eq!(in_segments(&stream, &cuts), Parser::new().advance(&stream));
    }

    /// Random bytes that pass for a record and a handshake header.
    #[test]
    fn random_message(body in prop::collection::vec(any::<u8>(), 0..400), cuts in cuts()) {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let stream = record(&[&[1, 0], &length[..], &body].concat());
        let answer = Parser::new().advance(&stream);
        prop_assert_ne!(&answer, &Progress::NeedMore);
        prop_assert_eq!(in_segments(&stream, &cuts), answer);
    }

    /// A real hello with some bytes changed, put in, or taken out.
    #[test]
    fn changed_hello(
        captured in prop::sample::select(&CAPTURED[..]),
        changes in prop::collection::vec(change(), 1..6),
        cuts in cuts(),
    ) {
        let mut stream = captured.stream.to_vec();
        for change in changes {
            change.apply(&mut stream);
        }
        prop_assert_eq!(in_segments(&stream, &cuts), Parser::new().advance(&stream));
    }

    /// A real hello over records and segments of any size.
    #[test]
    fn any_records_and_segments(
        captured in prop::sample::select(&CAPTURED[..]),
        records in cuts(),
        cuts in cuts(),
    ) {
        let stream: Vec<u8> =
            pieces(message(captured.stream), &records).into_iter().flat_map(record).collect();
        let whole = accepted(captured.stream);
        prop_assert_eq!(in_segments(&stream, &cuts), Progress::Hello(whole.into()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    /// The names taken are those that rustls would verify a certificate for.
    #[test]
    fn names_are_those_of_webpki(name in "[a-z0-9A-Fx_.-]{1,12}|([0-9a-z]{1,3}\\.){0,3}(0[xX])?[0-9a-g]{0,3}") {
        let ours = ServerName::parse(name.as_bytes());
        prop_assert_eq!(ours.is_ok(), DnsName::try_from(name.as_str()).is_ok(), "{:?}", ours);
    }

    #[test]
    fn a_canonical_name_is_its_own(name in "[a-zA-Z0-9_.-]{1,12}") {
        if let Ok(once) = ServerName::parse(name.as_bytes()) {
            prop_assert_eq!(ServerName::parse(once.as_str().as_bytes()), Ok(once));
        }
    }
}

fn accepted(stream: &[u8]) -> ClientHello {
    match Parser::new().advance(stream) {
        Progress::Hello(hello) => *hello,
        other => panic!("{other:?}"),
    }
}

/// The answer to a stream that arrives in segments that end at these places (taken modulo its
/// length), and then whole.
fn in_segments(stream: &[u8], cuts: &[usize]) -> Progress {
    let mut parser = Parser::new();
    for segment in pieces(stream, cuts).iter().scan(0, |end, piece| {
        *end += piece.len();
        Some(*end)
    }) {
        let answer = parser.advance(&stream[..segment]);
        if answer != Progress::NeedMore {
            // The rest, when it comes, changes nothing.
            assert_eq!(parser.advance(stream), answer);
            return answer;
        }
    }
    parser.advance(stream)
}

/// The data cut at these places, taken modulo its length; no empty piece.
fn pieces<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % data.len().max(1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

/// The handshake message of a capture: the fragment of its first record.
fn message(stream: &[u8]) -> &[u8] {
    let length = u16::from_be_bytes([stream[3], stream[4]]);
    &stream[5..5 + usize::from(length)]
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    [&[22, 3, 3], &length[..], fragment].concat()
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..3000_usize, 0..8)
}

#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
}

impl Change {
    fn apply(self, stream: &mut Vec<u8>) {
        let length = stream.len().max(1);
        match self {
            Change::Set(at, value) => {
                if let Some(byte) = stream.get_mut(at % length) {
                    *byte = value;
                }
            }
            Change::Insert(at, bytes) => {
                let at = at % length;
                stream.splice(at..at, bytes);
            }
            Change::Remove(at, count) => {
                let at = at % length;
                stream.drain(at..stream.len().min(at + count));
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..600_usize, any::<u8>()).prop_map(|(at, value)| Change::Set(at, value)),
        1 => (0..600_usize, prop::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (0..600_usize, 1..8_usize).prop_map(|(at, count)| Change::Remove(at, count)),
    ]
}
