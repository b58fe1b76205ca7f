//! What a stream is that does not start like TLS: worth a reason of its own, since the way
//! out is another one for each.

use super::NotAHello;

/// How requests of plain HTTP begin, HTTP/2 with prior knowledge included.
const HTTP: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"PATCH ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * ",
];

/// How both sides of SSH begin (RFC 4253 §4.2).
const SSH: &[u8] = b"SSH-";

/// Whether the stream starts like a TLS handshake record, by its content type and major
/// version; `false` while too little of it is there to say.
///
/// No entry of the tables begins another, so an error once given holds for every longer
/// stream.
pub(super) fn is_handshake(stream: &[u8]) -> Result<bool, NotAHello> {
    match stream {
        [22, 3, ..] => Ok(true),
        // Alert, change_cipher_spec, application_data: TLS, but nothing that may come first
        // (RFC 8446 §5).
        [20 | 21 | 23, 3, ..] => Err(NotAHello::RecordType),
        [] | [20..=23] => Ok(false),
        [0x80..=0xff, ..] => sslv2(stream),
        _ => text(stream),
    }
}

/// The SSLv2 ClientHello, also used by SSLv3 and TLS clients of old (RFC 5246 §E.2): a
/// two-byte length with the top bit set, message type 1, the version.
fn sslv2(stream: &[u8]) -> Result<bool, NotAHello> {
    match stream {
        [_] | [_, _] | [_, _, 1] | [_, _, 1, 0 | 3] => Ok(false),
        [_, _, 1, 0, 2, ..] | [_, _, 1, 3, _, ..] => Err(NotAHello::Sslv2),
        _ => Err(NotAHello::NotTls),
    }
}

fn text(stream: &[u8]) -> Result<bool, NotAHello> {
    if HTTP.iter().any(|method| stream.starts_with(method)) {
        Err(NotAHello::PlainHttp)
    } else if stream.starts_with(SSH) {
        Err(NotAHello::Ssh)
    } else if HTTP
        .iter()
        .chain([&SSH])
        .any(|start| start.starts_with(stream))
    {
        Ok(false)
    } else {
        Err(NotAHello::NotTls)
    }
}
