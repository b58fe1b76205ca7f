//! From [`OpenHeader`] to bytes.

use std::net::{IpAddr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::*;

pub(super) fn encode(header: &OpenHeader, out: &mut BytesMut) -> Result<(), HeaderError> {
    let (family, addresses) = addresses(header);
    let tlvs = tlvs(header)?;
    let len = addresses.len() + tlvs.len();
    // Cannot fail: the sum of all limits is far below 64 KiB.
    let declared = u16::try_from(len).map_err(|_| HeaderError::TooLong(Field::Workload))?;

    out.reserve(FIXED_LEN + len);
    out.put_slice(&SIGNATURE);
    out.put_u8(VERSION_2_PROXY);
    out.put_u8(family);
    out.put_u16(declared);
    out.put_slice(&addresses);
    out.put_slice(&tlvs);
    Ok(())
}

fn addresses(header: &OpenHeader) -> (u8, Vec<u8>) {
    let mut out = Vec::with_capacity(TCP6_LEN);
    let family = match (header.client.ip(), header.original.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.put_slice(&source.octets());
            out.put_slice(&destination.octets());
            TCP4
        }
        (source, destination) => {
            out.put_slice(&mapped(source).octets());
            out.put_slice(&mapped(destination).octets());
            TCP6
        }
    };
    out.put_u16(header.client.port());
    out.put_u16(header.original.port());
    (family, out)
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn tlvs(header: &OpenHeader) -> Result<Vec<u8>, HeaderError> {
    let mut out = Vec::with_capacity(LARGEST);
    let name = check_server_name(&header.server_name)?;
    put_tlv(AUTHORITY, Field::ServerName, name.as_bytes(), &mut out)?;
    let id = header.connection_id.to_bytes();
    put_tlv(UNIQUE_ID, Field::ConnectionId, &id, &mut out)?;
    put_tlv(POLICY, Field::Policy, &header.policy, &mut out)?;
    let workload = workload(&header.workload)?;
    if !workload.is_empty() {
        put_tlv(WORKLOAD, Field::Workload, &workload, &mut out)?;
    }
    if let Some(process) = &header.process {
        put_tlv(PROCESS, Field::Process, &process_value(process), &mut out)?;
    }
    Ok(out)
}

fn workload(workload: &Workload) -> Result<Vec<u8>, HeaderError> {
    let names = [
        (NAMESPACE, Field::Namespace, &workload.namespace),
        (POD, Field::Pod, &workload.pod),
        (
            SERVICE_ACCOUNT,
            Field::ServiceAccount,
            &workload.service_account,
        ),
        (CONTAINER, Field::Container, &workload.container),
        (CGROUP, Field::Cgroup, &workload.cgroup),
    ];
    let mut out = Vec::new();
    for (kind, field, name) in names {
        if let Some(name) = name {
            put_tlv(kind, field, check_text(field, name)?.as_bytes(), &mut out)?;
        }
    }
    if let Some(uid) = workload.uid {
        put_tlv(UID, Field::Uid, &uid.to_be_bytes(), &mut out)?;
    }
    if let Some(known) = &workload.labels {
        put_tlv(LABELS, Field::Labels, &labels(known)?, &mut out)?;
    }
    Ok(out)
}

pub(super) fn labels(labels: &Labels) -> Result<Vec<u8>, HeaderError> {
    let too_long = HeaderError::TooLong(Field::Labels);
    let mut out = Vec::new();
    for (key, value) in labels.iter() {
        check_label(key, value)?;
        out.put_u16(u16::try_from(key.len()).map_err(|_| too_long)?);
        out.put_slice(key.as_bytes());
        out.put_u8(u8::try_from(value.len()).map_err(|_| too_long)?);
        out.put_slice(value.as_bytes());
    }
    match labels.iter().len() > MAX_LABELS || out.len() > MAX_LABELS_LEN {
        true => Err(too_long),
        false => Ok(out),
    }
}

fn process_value(process: &Process) -> Vec<u8> {
    let mut out = Vec::with_capacity(Field::Process.max_len());
    out.put_u32(process.pid);
    out.put_u32(process.uid);
    out.put_slice(process.comm.as_bytes());
    out
}

fn put_tlv(kind: u8, field: Field, value: &[u8], out: &mut Vec<u8>) -> Result<(), HeaderError> {
    let too_long = HeaderError::TooLong(field);
    if value.len() > field.max_len() {
        return Err(too_long);
    }
    out.put_u8(kind);
    out.put_u16(u16::try_from(value.len()).map_err(|_| too_long)?);
    out.put_slice(value);
    Ok(())
}
