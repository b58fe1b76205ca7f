//! What flags say: each error is what a person would need to hear, since clap's frame has only the
//! flag and the value.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// An address to listen on.
pub(super) fn listening(text: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Err(format!(
            "a port needs an address in front: 0.0.0.0:{port} for everybody, 127.0.0.1:{port} for \
             this machine alone"
        ));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    Err(match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("an address needs a port behind it, such as {ip}:8443"),
        Ok(IpAddr::V6(ip)) => format!("an address needs a port behind it, such as [{ip}]:8443"),
        Err(_) => "not an IP address with a port, such as 127.0.0.1:8443 or [::1]:8443".to_owned(),
    })
}

/// A port to capture.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "not a port: a number from 1 to 65535, such as 443".to_owned())
}

/// A number of days that a certificate is good for.
pub(super) fn days(text: &str) -> Result<u32, String> {
    let days = text.parse().ok().filter(|days| (1..=3650).contains(days));
    days.ok_or_else(|| "not a number of days from 1 to 3650".to_owned())
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "not an IP address, such as 192.0.2.53 or 2001:db8::53".to_owned())
}

/// A range of addresses; one alone is a range too, as in the file.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let prefix = text.parse::<IpNet>().or_else(|_| alone());
    prefix.map_err(|_| "not a range of addresses, such as 10.20.0.0/16 or 10.20.0.7".to_owned())
}
