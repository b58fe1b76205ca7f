//! Name servers as the configuration names them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use rustls::pki_types::ServerName;

/// A name server, and how it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameServer {
    addr: SocketAddr,
    transport: Transport,
}

/// How a name server is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Transport {
    /// By UDP, and by TCP for what is too long for it (RFC 7766 §5).
    Udp,
    /// By TCP alone.
    Tcp,
    /// By TLS alone (RFC 7858). The certificate must be for this name, or address.
    Tls(Arc<str>),
}

/// The ports of RFC 1035 §4.2 and RFC 7858 §3.1.
pub(super) const PORT: u16 = 53;
const TLS_PORT: u16 = 853;

impl NameServer {
    /// Whether it is asked by TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// The same as hickory has it.
    pub(super) fn config(&self) -> NameServerConfig {
        let connections = match &self.transport {
            Transport::Udp => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
            Transport::Tcp => vec![ConnectionConfig::tcp()],
            Transport::Tls(name) => vec![ConnectionConfig::tls(name.clone())],
        };
        let connections = connections.into_iter().map(|mut connection| {
            connection.port = self.addr.port();
            connection
        });
        NameServerConfig::new(self.addr.ip(), true, connections.collect())
    }
}

impl From<SocketAddr> for NameServer {
    /// Asked by UDP.
    fn from(addr: SocketAddr) -> NameServer {
        let transport = Transport::Udp;
        NameServer { addr, transport }
    }
}

impl FromStr for NameServer {
    type Err = String;

    /// Reads `ADDR[:PORT]`, `udp://ADDR[:PORT]`, `tcp://ADDR[:PORT]` and `tls://ADDR[:PORT][#NAME]`.
    fn from_str(text: &str) -> Result<NameServer, String> {
        let form = || {
            format!(
                "`{text}` is not a name server such as 192.0.2.53, [2001:db8::53]:5353, \
                 tcp://192.0.2.53 or tls://192.0.2.53#dns.example.org"
            )
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("udp", text));
        let (place, name) = match rest.split_once('#') {
            Some((place, name)) => (place, Some(name)),
            None => (rest, None),
        };
        let port = if scheme == "tls" { TLS_PORT } else { PORT };
        let addr = address(place, port).ok_or_else(form)?;
        let transport = match (scheme, name) {
            ("udp", None) => Transport::Udp,
            ("tcp", None) => Transport::Tcp,
            ("tls", name) => {
                let name = name.map_or_else(|| addr.ip().to_string(), str::to_owned);
                ServerName::try_from(name.as_str()).map_err(|_| form())?;
                Transport::Tls(name.into())
            }
            _ => return Err(form()),
        };
        Ok(NameServer { addr, transport })
    }
}

/// An address with a port that may be left out.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let whole = text.parse::<SocketAddr>();
    let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    whole.or_else(|_| alone()).ok()
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Udp => self.addr.fmt(f),
            Transport::Tcp => write!(f, "tcp://{}", self.addr),
            Transport::Tls(name) => write!(f, "tls://{}#{name}", self.addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_in_each_form() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("udp://192.0.2.1:5353", "192.0.2.1:5353"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("tcp://2001:db8::1", "tcp://[2001:db8::1]:53"),
            ("tls://192.0.2.1", "tls://192.0.2.1:853#192.0.2.1"),
            (
                "tls://[2001:db8::1]:443#dns.example",
                "tls://[2001:db8::1]:443#dns.example",
            ),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), shown);
            assert_eq!(shown.parse::<NameServer>().unwrap(), server);
        }
        for text in [
            "dns.example",
            "tls://dns.example",
            "192.0.2.1#dns.example",
            "tcp://192.0.2.1#dns.example",
            "tls://192.0.2.1#",
            "tls://192.0.2.1#not a name",
            "https://192.0.2.1",
            "tcp://",
            "",
        ] {
            let error = text.parse::<NameServer>().unwrap_err();
            assert!(error.contains("is not a name server such as"), "{error}");
        }
    }
}
