//! `NAME:PORT:ADDR`: names that the operator pins to addresses.

use std::collections::HashMap;
use std::net::IpAddr;
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
}
