//! Servers of ours and of the neighbourhood, as a configuration names them.

use std::fmt;
use std::str::FromStr;

/// A server as it is written in the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let form = || format!("`{text}` is not HOST:PORT, such as gateway.example.org:8443");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(form());
        }
        Ok(Endpoint {
            host: bare.unwrap_or(host).to_owned(),
            port: port.parse().map_err(|_| form())?,
        })
    }
}

/// A server and the zone that it is in, as far as somebody said so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zoned {
    /// The server.
    pub endpoint: Endpoint,
    /// Its zone.
    pub zone: Option<String>,
}

impl FromStr for Zoned {
    type Err = String;

    /// Reads an [`Endpoint`], of whose zone nothing is said.
    fn from_str(text: &str) -> Result<Zoned, String> {
        let (endpoint, zone) = (text.parse()?, None);
        Ok(Zoned { endpoint, zone })
    }
}

impl fmt::Display for Zoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)?;
        match &self.zone {
            Some(zone) => write!(f, " in zone {zone}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_by_name_and_address() {
        for text in [
            "gateway.example.org:8443",
            "192.0.2.1:8443",
            "[2001:db8::1]:8443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "gateway",
            ":8443",
            "gateway:",
            "gateway:x",
            "2001:db8::1:8443",
            "",
        ] {
            assert!(
                text.parse::<Endpoint>().unwrap_err().contains("HOST:PORT"),
                "{text}"
            );
        }
    }
}
