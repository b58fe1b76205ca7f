//! From bytes to [`OpenHeader`] and [`ProxyHeader`].

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::tunnel::reader::Reader;

pub(super) fn decode(bytes: &[u8]) -> Result<OpenHeader, HeaderError> {
    let mut reader = Reader::new(bytes);
    let family = fixed_part(&mut reader)?;
    let (client, original) = addresses(family, &mut reader).ok_or(HeaderError::Truncated)?;
    let tlvs = Tlvs::read(reader)?;
    let connection_id = tlvs.unique_id.map(connection_id).transpose()?;
    Ok(OpenHeader {
        client,
        original,
        server_name: tlvs.server_name.ok_or(missing(Field::ServerName))?,
        connection_id: connection_id.ok_or(missing(Field::ConnectionId))?,
        policy: tlvs.policy.ok_or(missing(Field::Policy))?,
        workload: tlvs.workload.unwrap_or_default(),
        process: tlvs.process,
    })
}

/// A unique id of another form is somebody else's.
pub(super) fn decode_any(bytes: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let mut reader = Reader::new(bytes);
    if bytes.starts_with(&SIGNATURE) && bytes.get(SIGNATURE.len()) == Some(&VERSION_2_LOCAL) {
        return Ok(ProxyHeader::default());
    }
    let family = fixed_part(&mut reader)?;
    let addresses = addresses(family, &mut reader).ok_or(HeaderError::Truncated)?;
    let tlvs = Tlvs::read(reader)?;
    Ok(ProxyHeader {
        addresses: Some(addresses),
        server_name: tlvs.server_name,
        connection_id: tlvs.unique_id.and_then(|id| connection_id(id).ok()),
        policy: tlvs.policy,
        workload: tlvs.workload.unwrap_or_default(),
        process: tlvs.process,
    })
}

/// Reads up to the addresses and says of which family they are.
fn fixed_part(reader: &mut Reader<'_>) -> Result<u8, HeaderError> {
    let signature: [u8; 12] = reader.array().ok_or(HeaderError::Truncated)?;
    let command = reader.u8().ok_or(HeaderError::Truncated)?;
    let family = reader.u8().ok_or(HeaderError::Truncated)?;
    let declared = reader.u16().map(usize::from);
    let declared = declared.ok_or(HeaderError::Truncated)?;
    let actual = reader.rest().len();
    if signature != SIGNATURE {
        Err(HeaderError::Signature)
    } else if command != VERSION_2_PROXY {
        Err(HeaderError::Command(command))
    } else if !matches!(family, TCP4 | TCP6) {
        Err(HeaderError::Family(family))
    } else if declared != actual {
        Err(HeaderError::Length { declared, actual })
    } else {
        Ok(family)
    }
}

fn addresses(family: u8, reader: &mut Reader<'_>) -> Option<(ClientAddr, OriginalDst)> {
    let mut ip = || {
        Some(if family == TCP4 {
            IpAddr::from(reader.array::<4>()?)
        } else {
            IpAddr::from(reader.array::<16>()?)
        })
    };
    let (source, destination) = (ip()?, ip()?);
    let source = SocketAddr::new(source, reader.u16()?);
    let destination = SocketAddr::new(destination, reader.u16()?);
    Some((ClientAddr::new(source), OriginalDst::new(destination)))
}

#[derive(Default)]
struct Tlvs<'a> {
    server_name: Option<String>,
    unique_id: Option<&'a [u8]>,
    policy: Option<PolicyDigest>,
    workload: Option<Workload>,
    process: Option<Process>,
}

impl<'a> Tlvs<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Tlvs<'a>, HeaderError> {
        let mut tlvs = Tlvs::default();
        while !reader.is_empty() {
            let (kind, value) = next_tlv(&mut reader).ok_or(HeaderError::Truncated)?;
            match kind {
                AUTHORITY => {
                    let name = check_server_name(utf8(Field::ServerName, value)?)?.to_owned();
                    set_once(&mut tlvs.server_name, Field::ServerName, name)?;
                }
                UNIQUE_ID => set_once(&mut tlvs.unique_id, Field::ConnectionId, value)?,
                POLICY => {
                    let digest = exact(Field::Policy, value)?;
                    set_once(&mut tlvs.policy, Field::Policy, digest)?;
                }
                WORKLOAD => {
                    let workload = workload(Reader::new(value))?;
                    set_once(&mut tlvs.workload, Field::Workload, workload)?;
                }
                PROCESS => set_once(&mut tlvs.process, Field::Process, process(value)?)?,
                _ => {}
            }
        }
        Ok(tlvs)
    }
}

fn connection_id(value: &[u8]) -> Result<ConnectionId, HeaderError> {
    let id = exact(Field::ConnectionId, value)?;
    ConnectionId::from_bytes(id).ok_or(invalid(Field::ConnectionId))
}

fn workload(mut reader: Reader<'_>) -> Result<Workload, HeaderError> {
    let mut workload = Workload::default();
    while !reader.is_empty() {
        let (kind, value) = next_tlv(&mut reader).ok_or(HeaderError::Truncated)?;
        let (slot, field) = match kind {
            NAMESPACE => (&mut workload.namespace, Field::Namespace),
            POD => (&mut workload.pod, Field::Pod),
            SERVICE_ACCOUNT => (&mut workload.service_account, Field::ServiceAccount),
            CONTAINER => (&mut workload.container, Field::Container),
            CGROUP => (&mut workload.cgroup, Field::Cgroup),
            UID => {
                let uid = u32::from_be_bytes(exact(Field::Uid, value)?);
                set_once(&mut workload.uid, Field::Uid, uid)?;
                continue;
            }
            LABELS => {
                set_once(&mut workload.labels, Field::Labels, labels(value)?)?;
                continue;
            }
            _ => continue,
        };
        let name = check_text(field, utf8(field, value)?)?;
        set_once(slot, field, name.to_owned())?;
    }
    Ok(workload)
}

/// In ascending order, so that none comes twice and there is one way to write them.
fn labels(value: &[u8]) -> Result<Labels, HeaderError> {
    if value.len() > MAX_LABELS_LEN {
        return Err(HeaderError::TooLong(Field::Labels));
    }
    let mut reader = Reader::new(value);
    let mut labels: Vec<(String, String)> = Vec::new();
    while !reader.is_empty() {
        let (key, value) = next_label(&mut reader).ok_or(invalid(Field::Labels))?;
        let (key, value) = (utf8(Field::Labels, key)?, utf8(Field::Labels, value)?);
        check_label(key, value)?;
        if labels.last().is_some_and(|(last, _)| last.as_str() >= key) {
            return Err(invalid(Field::Labels));
        }
        if labels.len() == MAX_LABELS {
            return Err(HeaderError::TooLong(Field::Labels));
        }
        labels.push((key.to_owned(), value.to_owned()));
    }
    Ok(labels.into_iter().collect())
}

fn next_label<'a>(reader: &mut Reader<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let len = reader.u16()?;
    let key = reader.take(usize::from(len))?;
    let len = reader.u8()?;
    Some((key, reader.take(usize::from(len))?))
}

/// The command name is taken as it is: a process may call itself anything.
fn process(value: &[u8]) -> Result<Process, HeaderError> {
    if value.len() > Field::Process.max_len() {
        return Err(HeaderError::TooLong(Field::Process));
    }
    let mut reader = Reader::new(value);
    Ok(Process {
        pid: reader.u32().ok_or(invalid(Field::Process))?,
        uid: reader.u32().ok_or(invalid(Field::Process))?,
        comm: utf8(Field::Process, reader.rest())?.to_owned(),
    })
}

fn next_tlv<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let len = reader.u16()?;
    Some((kind, reader.take(usize::from(len))?))
}

fn set_once<T>(slot: &mut Option<T>, field: Field, value: T) -> Result<(), HeaderError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderError::Duplicate(field)),
    }
}

fn exact<const N: usize>(field: Field, value: &[u8]) -> Result<[u8; N], HeaderError> {
    value.try_into().map_err(|_| invalid(field))
}

fn utf8(field: Field, value: &[u8]) -> Result<&str, HeaderError> {
    std::str::from_utf8(value).map_err(|_| invalid(field))
}

fn invalid(field: Field) -> HeaderError {
    HeaderError::Invalid(field)
}

fn missing(field: Field) -> HeaderError {
    HeaderError::Missing(field)
}
