//! HTTP CONNECT (RFC 9110 §9.3.6) with Basic credentials (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::ProxyError;
use super::credentials::Credentials;
use crate::addr::OriginAddr;

/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// The most header fields of an answer.
const MAX_FIELDS: usize = 100;

/// The most interim answers before the final one.
const MAX_INTERIM: usize = 8;

/// Asks for a connection to `origin`. What follows the answer is the origin's, and left in the
/// socket.
pub(super) async fn ask(
    socket: &mut TcpStream,
    origin: OriginAddr,
    credentials: Option<&Credentials>,
) -> Result<(), ProxyError> {
    socket
        .write_all(request(origin, credentials).as_bytes())
        .await?;
    for _ in 0..=MAX_INTERIM {
        let head = read_head(socket).await?;
        match status(&head)? {
            // RFC 9110 §15.2: interim answers may come before the final one.
            100..=199 => continue,
            // Whatever length it announces, what follows is the tunnel.
            200..=299 => return Ok(()),
            401 | 407 => return Err(ProxyError::Auth),
            504 => return Err(ProxyError::Origin("connect_timeout")),
            code @ 500..=599 => return Err(ProxyError::Failed(code)),
            code => return Err(ProxyError::Refused(code)),
        }
    }
    Err(ProxyError::Protocol("it has no final answer"))
}

fn request(origin: OriginAddr, credentials: Option<&Credentials>) -> String {
    let mut request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n");
    if let Some(credentials) = credentials {
        let pair = format!("{}:{}", credentials.user(), credentials.password());
        request.push_str("Proxy-Authorization: Basic ");
        request.push_str(&STANDARD.encode(pair));
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

/// Takes the head of the next answer out of the socket, and not a byte more: what is there is
/// looked at first.
async fn read_head(socket: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let seen = socket.peek(&mut chunk).await?;
        if seen == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let before = head.len();
        head.extend_from_slice(chunk.get(..seen).unwrap_or_default());
        let end = end_of_head(&head);
        head.truncate(end.unwrap_or(head.len()));
        let taken = head.len().saturating_sub(before);
        socket
            .read_exact(chunk.get_mut(..taken).unwrap_or_default())
            .await?;
        if head.len() > MAX_HEAD {
            return Err(ProxyError::Protocol("the head of its answer is too long"));
        }
        if end.is_some() {
            return Ok(head);
        }
    }
}

/// Where the head ends: after its first empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::Response::new(&mut fields).parse(bytes) {
        Ok(httparse::Status::Complete(end)) => Some(end),
        Ok(httparse::Status::Partial) => None,
        // Enough was seen: `status` says what is wrong.
        Err(_) => Some(bytes.len()),
    }
}

fn status(head: &[u8]) -> Result<u16, ProxyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(ProxyError::Protocol("its answer is not HTTP")),
    }
    response
        .code
        .ok_or(ProxyError::Protocol("its answer has no status"))
}
