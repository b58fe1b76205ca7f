//! SOCKS 5 (RFC 1928) with user and password (RFC 1929). Every answer says how long it is before it
//! goes on, so that not a byte of the origin is read.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::ProxyError;
use super::credentials::Credentials;
use crate::addr::OriginAddr;

const VERSION: u8 = 5;
const NO_CREDENTIALS: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// The version of the exchange of user and password.
const SUBNEGOTIATION: u8 = 1;

/// Asks for a connection to `origin`. What follows the answer is the origin's, and left in the
/// socket.
pub(super) async fn ask(
    socket: &mut TcpStream,
    origin: OriginAddr,
    credentials: Option<&Credentials>,
) -> Result<(), ProxyError> {
    let methods: &[u8] = match credentials {
        None => &[VERSION, 1, NO_CREDENTIALS],
        Some(_) => &[VERSION, 2, NO_CREDENTIALS, USER_AND_PASSWORD],
    };
    socket.write_all(methods).await?;
    let [version, method] = read(socket).await?;
    check_version(version)?;
    match (method, credentials) {
        (NO_CREDENTIALS, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => authenticate(socket, credentials).await?,
        (NO_METHOD, _) => return Err(ProxyError::Auth),
        _ => {
            return Err(ProxyError::Protocol(
                "it chose a method that was not offered",
            ));
        }
    }
    socket.write_all(&request(origin)).await?;
    answer(socket).await
}

async fn authenticate(socket: &mut TcpStream, credentials: &Credentials) -> Result<(), ProxyError> {
    let mut message = vec![SUBNEGOTIATION];
    for part in [credentials.user(), credentials.password()] {
        // That both fit was seen when they were read.
        message.push(u8::try_from(part.len()).map_err(|_| ProxyError::Auth)?);
        message.extend_from_slice(part.as_bytes());
    }
    socket.write_all(&message).await?;
    match read(socket).await? {
        [SUBNEGOTIATION, 0] => Ok(()),
        [SUBNEGOTIATION, _] => Err(ProxyError::Auth),
        _ => Err(ProxyError::Protocol(
            "its answer to the credentials is none",
        )),
    }
}

fn request(origin: OriginAddr) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    match origin.ip() {
        IpAddr::V4(ip) => {
            request.push(IPV4);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(IPV6);
            request.extend(ip.octets());
        }
    }
    request.extend(origin.port().to_be_bytes());
    request
}

async fn answer(socket: &mut TcpStream) -> Result<(), ProxyError> {
    let [version, reply, _reserved, kind] = read(socket).await?;
    check_version(version)?;
    // Of a refusal nothing more is of interest, and some proxies say nothing more.
    match reply {
        0 => {}
        2 | 7 | 8 => return Err(ProxyError::Refused(reply.into())),
        3 | 4 => return Err(ProxyError::Origin("no_route")),
        5 => return Err(ProxyError::Origin("connect_refused")),
        6 => return Err(ProxyError::Origin("connect_timeout")),
        _ => return Err(ProxyError::Failed(reply.into())),
    }
    // The address at which the proxy's own connection begins.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        DOMAIN => {
            let [length] = read(socket).await?;
            usize::from(length)
        }
        _ => return Err(ProxyError::Protocol("its address is of no known kind")),
    };
    let mut rest = vec![0; length + 2];
    socket.read_exact(&mut rest).await?;
    Ok(())
}

fn check_version(version: u8) -> Result<(), ProxyError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(ProxyError::Protocol("it does not speak SOCKS 5"))
    }
}

async fn read<const N: usize>(socket: &mut TcpStream) -> Result<[u8; N], ProxyError> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await?;
    Ok(bytes)
}
