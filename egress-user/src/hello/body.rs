//! The ClientHello message itself (RFC 8446 §4.1.2).
//!
//! `tls-parser` is lenient where this room is not: it drops what is left over in a list, ends
//! the extensions quietly at the first one it cannot read, and takes the server's form of an
//! extension from a client. So it decodes the fixed part, the frame of each extension and the
//! entries of lists, and the exact fit of every length is checked here.

use tls_parser::{SNIType, TlsClientHelloContents, TlsExtension};

use super::{
    ClientHello, Ech, MAX_ALPN, MAX_EXTENSIONS, NotAHello, RawName, ServerName, TlsVersion,
    is_grease, ja4,
};

/// Extension types (IANA registry "TLS ExtensionType Values").
const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// Reads a whole handshake message whose type is ClientHello.
pub(super) fn read(message: &[u8]) -> Result<ClientHello, NotAHello> {
    let (_header, body) = message
        .split_first_chunk::<4>()
        .ok_or(NotAHello::InnerLength)?;
    let fixed = fixed_part(body)?;
    let extensions = Extensions::read(fixed.ext.unwrap_or_default())?;

    let raw = host_name(extensions.server_name.ok_or(NotAHello::NoSni)?)?;
    let versions = versions(fixed.version.0, extensions.supported_versions)?;
    let protocols = protocols(extensions.alpn)?;
    let signatures = signature_algorithms(extensions.signature_algorithms)?;

    let server_name = ServerName::parse(raw).map_err(|why| NotAHello::Name {
        why,
        raw: RawName::new(raw),
    })?;
    let raw_name = RawName::of(raw, &server_name);
    let newest = versions.iter().copied().max().unwrap_or(TlsVersion(0));
    if newest < TlsVersion::TLS_1_2 {
        return Err(NotAHello::OldVersion(raw_name));
    }

    let ciphers = fixed.ciphers.iter().map(|suite| suite.0).collect();
    let ja4 = ja4::fingerprint(ja4::Parts {
        version: newest,
        ciphers,
        extensions: &extensions.types,
        first_protocol: protocols.first().copied(),
        signature_algorithms: signatures,
    });
    Ok(ClientHello {
        server_name,
        raw_name,
        alpn: escape(&protocols),
        versions,
        ech: extensions.ech,
        ja4,
    })
}

/// Everything up to the extensions, and their block.
fn fixed_part(body: &[u8]) -> Result<TlsClientHelloContents<'_>, NotAHello> {
    let (rest, fixed) =
        tls_parser::parse_tls_handshake_client_hello(body).map_err(|_| NotAHello::InnerLength)?;
    // The parser takes an extension block that is cut short for no block and a rest.
    if !rest.is_empty() {
        return Err(match fixed.ext {
            Some(_) => NotAHello::TrailingBytes,
            None => NotAHello::InnerLength,
        });
    }
    if fixed.ciphers.is_empty() || fixed.comp.is_empty() {
        return Err(NotAHello::InnerLength);
    }
    Ok(fixed)
}

/// The extensions that matter here, undecoded, and the types of all.
struct Extensions<'a> {
    /// Ascending, each once.
    types: Vec<u16>,
    server_name: Option<&'a [u8]>,
    signature_algorithms: Option<&'a [u8]>,
    alpn: Option<&'a [u8]>,
    supported_versions: Option<&'a [u8]>,
    ech: Ech,
}

impl<'a> Extensions<'a> {
    fn read(mut block: &'a [u8]) -> Result<Extensions<'a>, NotAHello> {
        let mut found = Extensions {
            types: Vec::with_capacity(24),
            server_name: None,
            signature_algorithms: None,
            alpn: None,
            supported_versions: None,
            ech: Ech::Absent,
        };
        while !block.is_empty() {
            // Of its parsers the one that takes every type, and nothing of the content.
            let Ok((rest, TlsExtension::Unknown(kind, data))) =
                tls_parser::parse_tls_extension_unknown(block)
            else {
                return Err(NotAHello::InnerLength);
            };
            found.add(kind.0, data)?;
            block = rest;
        }
        found.types.sort_unstable();
        if found
            .types
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if a == b))
        {
            return Err(NotAHello::DuplicateExtension);
        }
        Ok(found)
    }

    fn add(&mut self, kind: u16, data: &'a [u8]) -> Result<(), NotAHello> {
        if self.types.len() == MAX_EXTENSIONS {
            return Err(NotAHello::TooManyExtensions);
        }
        self.types.push(kind);
        match kind {
            SERVER_NAME => self.server_name = Some(data),
            SIGNATURE_ALGORITHMS => self.signature_algorithms = Some(data),
            ALPN => self.alpn = Some(data),
            SUPPORTED_VERSIONS => self.supported_versions = Some(data),
            ENCRYPTED_CLIENT_HELLO => self.ech = Ech::Outer,
            _ => {}
        }
        Ok(())
    }
}

/// The one name of a server_name extension (RFC 6066 §3).
fn host_name(data: &[u8]) -> Result<&[u8], NotAHello> {
    let mut list = u16_prefixed(data)?;
    let mut found: Option<&[u8]> = None;
    while !list.is_empty() {
        let (rest, (kind, name)) = tls_parser::parse_tls_extension_sni_hostname(list)
            .map_err(|_| NotAHello::InnerLength)?;
        if kind != SNIType::HostName {
            return Err(NotAHello::NameType);
        }
        if let Some(first) = found {
            return Err(NotAHello::TwoNames(RawName::pair(first, name)));
        }
        found = Some(name);
        list = rest;
    }
    found.ok_or(NotAHello::InnerLength)
}

/// The versions offered (RFC 8446 §4.2.1), or the one of the fixed part if there is no such
/// extension; where there is one the fixed part does not count.
fn versions(legacy: u16, data: Option<&[u8]>) -> Result<Vec<TlsVersion>, NotAHello> {
    let Some(data) = data else {
        return Ok(vec![TlsVersion(legacy)]);
    };
    let (length, list) = data.split_first().ok_or(NotAHello::InnerLength)?;
    let list = exactly(list, usize::from(*length))?;
    if list.is_empty() {
        return Err(NotAHello::InnerLength);
    }
    Ok(pairs(list)?
        .filter(|value| !is_grease(*value))
        .map(TlsVersion)
        .collect())
}

/// The protocols of an ALPN extension (RFC 7301 §3.1).
fn protocols(data: Option<&[u8]>) -> Result<Vec<&[u8]>, NotAHello> {
    let Some(data) = data else {
        return Ok(Vec::new());
    };
    let list = u16_prefixed(data)?;
    let Ok((_, TlsExtension::ALPN(protocols))) = tls_parser::parse_tls_extension_alpn_content(data)
    else {
        return Err(NotAHello::InnerLength);
    };
    // The parser stops quietly at a protocol that is cut short.
    let read: usize = protocols.iter().map(|protocol| 1 + protocol.len()).sum();
    if read != list.len() {
        return Err(NotAHello::InnerLength);
    }
    Ok(protocols)
}

/// The signature schemes offered (RFC 8446 §4.2.3).
fn signature_algorithms(
    data: Option<&[u8]>,
) -> Result<impl Iterator<Item = u16> + Clone, NotAHello> {
    pairs(match data {
        Some(data) => u16_prefixed(data)?,
        None => &[],
    })
}

/// The content of a vector with a two-byte length that has to fill all of `data`.
fn u16_prefixed(data: &[u8]) -> Result<&[u8], NotAHello> {
    let (length, list) = data.split_first_chunk().ok_or(NotAHello::InnerLength)?;
    exactly(list, usize::from(u16::from_be_bytes(*length)))
}

fn exactly(data: &[u8], length: usize) -> Result<&[u8], NotAHello> {
    match data.len().checked_sub(length) {
        Some(0) => Ok(data),
        Some(_) => Err(NotAHello::TrailingBytes),
        None => Err(NotAHello::InnerLength),
    }
}

fn pairs(list: &[u8]) -> Result<impl Iterator<Item = u16> + Clone, NotAHello> {
    match list.as_chunks() {
        (pairs, []) => Ok(pairs.iter().copied().map(u16::from_be_bytes)),
        _ => Err(NotAHello::InnerLength),
    }
}

fn escape(protocols: &[&[u8]]) -> Vec<String> {
    protocols
        .iter()
        .take(MAX_ALPN)
        .map(|protocol| protocol.escape_ascii().to_string())
        .collect()
}
