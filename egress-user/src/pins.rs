//! `NAME:PORT:ADDR`: names that the operator pins to addresses, and addresses of
//! servers with a port that may be left out.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::hello::ServerName;

/// One name and port with its addresses, in the form of curl's `--resolve`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    name: ServerName,
    port: u16,
    addrs: Vec<IpAddr>,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Pin, String> {
        let form = || {
            format!(
                "`{text}` is not NAME:PORT:ADDR[,ADDR…], such as en.wikipedia.org:443:192.0.2.7"
            )
        };
        let (name, rest) = text.split_once(':').ok_or_else(form)?;
        let (port, addrs) = rest.split_once(':').ok_or_else(form)?;
        let name =
            ServerName::parse(name.as_bytes()).map_err(|error| format!("{}: {error}", form()))?;
        let port = port.parse().map_err(|_| form())?;
        let addrs = addrs.split(',').map(|addr| {
            let bare = addr
                .strip_prefix('[')
                .and_then(|addr| addr.strip_suffix(']'));
            bare.unwrap_or(addr).parse().map_err(|_| form())
        });
        Ok(Pin {
            name,
            port,
            addrs: addrs.collect::<Result<_, _>>()?,
        })
    }
}

/// The pins by name and port; those of the same name and port are put together.
pub fn table(pins: Vec<Pin>) -> HashMap<(String, u16), Vec<IpAddr>> {
    let mut table = HashMap::<_, Vec<IpAddr>>::new();
    for pin in pins {
        let addrs = table.entry((pin.name.to_string(), pin.port)).or_default();
        addrs.extend(pin.addrs);
    }
    table
}

/// A name server: an address, with port 53 unless another is given.
pub fn server(text: &str) -> Result<SocketAddr, String> {
    let addr = text.parse::<SocketAddr>();
    addr.or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("`{text}` is not the address of a name server, such as 192.0.2.53 or [2001:db8::53]:5353"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_as_curl_writes_them() {
        let pin: Pin = "En.Wikipedia.org:443:192.0.2.1,[2001:db8::1]"
            .parse()
            .unwrap();
        let table = table(vec![pin, "en.wikipedia.org:443:192.0.2.2".parse().unwrap()]);
        let addrs = &table[&("en.wikipedia.org".to_owned(), 443)];
        assert_eq!(addrs.len(), 3);
        for wrong in [
            "",
            "a",
            "a.b:443",
            "a.b:x:192.0.2.1",
            "a.b:443:c",
            "a.b:443:",
        ] {
            let error = wrong.parse::<Pin>().unwrap_err();
            assert!(error.contains("NAME:PORT:ADDR"), "{error}");
        }
    }

    #[test]
    fn name_servers_with_and_without_a_port() {
        assert_eq!(server("192.0.2.1").unwrap().port(), 53);
        assert_eq!(server("[2001:db8::1]:5353").unwrap().port(), 5353);
        assert_eq!(server("2001:db8::1").unwrap().port(), 53);
        assert!(server("dns.example").is_err());
    }
}
