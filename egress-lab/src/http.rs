//! The least HTTP client that can ask an admin address.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::namespace::Namespace;
use crate::wait;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Gets `path` from a plain HTTP server in `namespace`.
///
/// # Errors
/// When there is no server, or what it says is not HTTP.
pub fn get(namespace: &Namespace, server: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = namespace.run(|| TcpStream::connect(server))??;
    stream.set_read_timeout(Some(wait::DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Answer::parse(&text).ok_or_else(|| io::Error::other(format!("not HTTP: {text}")))
}

impl Answer {
    fn parse(text: &str) -> Option<Answer> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
        Some(Answer {
            status: status.parse().ok()?,
            body: body.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = Answer::parse("HTTP/1.1 503 Busy\r\na: b\r\n\r\nnot yet\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "not yet\n"));
        assert_eq!(Answer::parse("SSH-2.0-x\r\n\r\n"), None);
    }
}
