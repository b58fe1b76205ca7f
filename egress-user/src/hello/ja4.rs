//! JA4, the fingerprint of a TLS client, by FoxIO's published description of the algorithm.
//!
//! JA4 itself is under the BSD 3-Clause licence; the other members of the JA4+ family are not
//! and have no place here.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{TlsVersion, is_grease};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Of every fingerprint, in characters.
const LENGTH: usize = 36;

/// Room for the list of a usual client: sixty values of five characters.
const USUAL_LIST: usize = 300;

/// The parts of a hello that JA4 looks at. GREASE is skipped wherever it stands.
pub(super) struct Parts<'a, S> {
    /// The newest version offered.
    pub(super) version: TlsVersion,
    /// In any order.
    pub(super) ciphers: Vec<u16>,
    /// The types, in ascending order.
    pub(super) extensions: &'a [u16],
    /// The first protocol that ALPN offers.
    pub(super) first_protocol: Option<&'a [u8]>,
    /// In the client's order.
    pub(super) signature_algorithms: S,
}

/// The fingerprint: what can be read off the hello, then a hash of its cipher suites, then
/// one of its extensions and signature algorithms.
pub(super) fn fingerprint<S: Iterator<Item = u16>>(parts: Parts<'_, S>) -> String {
    let mut ciphers = parts.ciphers;
    ciphers.retain(|suite| !is_grease(*suite));
    ciphers.sort_unstable();
    let extensions = parts
        .extensions
        .iter()
        .copied()
        .filter(|kind| !is_grease(*kind));
    let hashed = extensions
        .clone()
        .filter(|kind| !matches!(*kind, SERVER_NAME | ALPN));
    let signatures = parts
        .signature_algorithms
        .filter(|scheme| !is_grease(*scheme));

    let mut text = String::with_capacity(LENGTH);
    // `t` is TLS over TCP, the only transport here. Writing to a String does not fail.
    let _ = write!(
        text,
        "t{version}{name}{ciphers:02}{extensions:02}",
        version = version(parts.version),
        name = if parts.extensions.contains(&SERVER_NAME) {
            'd'
        } else {
            'i'
        },
        ciphers = ciphers.len().min(99),
        extensions = extensions.count().min(99),
    );
    text.extend(protocol(parts.first_protocol.unwrap_or_default()));
    let mut list = Vec::with_capacity(USUAL_LIST);
    put_list(&mut list, ciphers.into_iter());
    put_hash(&mut text, &list);
    list.clear();
    put_list(&mut list, hashed);
    // Without extensions there is nothing that signatures could follow.
    if !list.is_empty() {
        list.push(b'_');
        put_list(&mut list, signatures);
        if list.last() == Some(&b'_') {
            list.pop();
        }
    }
    put_hash(&mut text, &list);
    text
}

fn version(version: TlsVersion) -> &'static str {
    match version.0 {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// First and last character of a protocol, or of its hexadecimal form where one of them is
/// not alphanumeric.
fn protocol(name: &[u8]) -> [char; 2] {
    match (name.first(), name.last()) {
        (Some(first), Some(last))
            if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() =>
        {
            [*first, *last].map(char::from)
        }
        (Some(first), Some(last)) => {
            [first >> 4, last & 0x0f].map(|value| char::from(digit(value)))
        }
        _ => ['0', '0'],
    }
}

/// Appends an underscore and the first twelve hexadecimal digits of the list's SHA-256; zeros where
/// it is empty.
fn put_hash(text: &mut String, list: &[u8]) {
    text.push('_');
    if list.is_empty() {
        text.push_str("000000000000");
        return;
    }
    for byte in Sha256::digest(list).iter().take(6) {
        text.extend([byte >> 4, byte & 0x0f].map(|value| char::from(digit(value))));
    }
}

/// Appends the values in hexadecimal with commas between them.
fn put_list(list: &mut Vec<u8>, values: impl Iterator<Item = u16>) {
    for (index, value) in values.enumerate() {
        if index > 0 {
            list.push(b',');
        }
        let [high, low] = value.to_be_bytes();
        list.extend([high >> 4, high & 0x0f, low >> 4, low & 0x0f].map(digit));
    }
}

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello of the given versions, name or no name, and lists in hexadecimal.
    fn of(version: u16, ciphers: &str, extensions: &str, protocol: &str, schemes: &str) -> String {
        let mut extensions = values(extensions);
        extensions.sort_unstable();
        fingerprint(Parts {
            version: TlsVersion(version),
            ciphers: values(ciphers),
            extensions: &extensions,
            first_protocol: Some(protocol.as_bytes()),
            signature_algorithms: values(schemes).into_iter(),
        })
    }

    fn values(list: &str) -> Vec<u16> {
        list.split_terminator(',')
            .map(|value| u16::from_str_radix(value, 16).unwrap())
            .collect()
    }

    const CIPHERS: &str =
        "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035";
    const EXTENSIONS: &str =
        "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015";
    const SCHEMES: &str = "0403,0804,0401,0503,0805,0501,0806,0601";

    /// The worked example of the description.
    #[test]
    fn published_example() {
        let ja4 = of(0x0304, CIPHERS, EXTENSIONS, "h2", SCHEMES);
        assert_eq!(ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn grease_is_nowhere() {
        let ja4 = of(
            0x0304,
            &format!("4a4a,{CIPHERS}"),
            &format!("{EXTENSIONS},0a0a,fafa"),
            "h2",
            &format!("3a3a,{SCHEMES}"),
        );
        assert_eq!(ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    /// The description's example of a hello without signature algorithms.
    #[test]
    fn no_signature_algorithms() {
        let ja4 = of(0x0303, CIPHERS, EXTENSIONS, "http/1.1", "");
        assert_eq!(ja4, "t12d1516h1_8daaf6152771_6d807ffa2a79");
    }

    #[test]
    fn nothing_at_all() {
        assert_eq!(
            of(0x0301, "", "", "", ""),
            "t10i000000_000000000000_000000000000"
        );
    }

    /// No extensions are left for the hash once these two are taken out.
    #[test]
    fn only_name_and_protocols() {
        let ja4 = of(0x0303, "", "0010,0000", "h2", "");
        assert_eq!(ja4, "t12d0002h2_000000000000_000000000000");
    }

    #[test]
    fn counts_stop_at_99() {
        let many: Vec<String> = (0x0100..0x0180)
            .map(|value| format!("{value:04x}"))
            .collect();
        let ja4 = of(0x0304, &many.join(","), &many.join(","), "h2", "");
        assert_eq!(ja4.split('_').next(), Some("t13i9999h2"));
    }

    /// The description's table, and its rule for a single character.
    #[test]
    fn protocols() {
        let cases: [(&[u8], &str); 9] = [
            (b"h2", "h2"),
            (b"http/1.1", "h1"),
            (b"x", "xx"),
            (b"", "00"),
            (&[0xab], "ab"),
            (&[0xab, 0xcd], "ad"),
            (&[0x30, 0xab], "3b"),
            (&[0x30, 0x31, 0xab, 0xcd], "3d"),
            (&[0x30, 0xab, 0xcd, 0x31], "01"),
        ];
        for (name, expected) in cases {
            assert_eq!(String::from_iter(protocol(name)), expected, "{name:02x?}");
        }
    }
}
