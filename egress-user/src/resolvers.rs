//! The name servers of this machine, which captured processes may go on asking.

use std::io;
use std::net::IpAddr;

use anyhow::Context;
use egress_common::MAX_RESOLVERS;

/// Where resolv.conf(5) is.
const FILE: &str = "/etc/resolv.conf";

/// The servers in /etc/resolv.conf; those on loopback need no mention, since loopback passes. No
/// file means no servers.
///
/// # Errors
/// Fails when the file is there and cannot be read.
pub fn of_the_system() -> anyhow::Result<Vec<IpAddr>> {
    match std::fs::read_to_string(FILE) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("cannot read the name servers in /etc/resolv.conf"),
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone (`fe80::1%eth0`) is for the resolver; the address is what the kernel sees.
        let server = words.next().and_then(|word| word.split('%').next());
        let server = server.and_then(|addr| addr.parse::<IpAddr>().ok());
        servers.extend(server.filter(|server| !server.is_loopback()));
    }
    servers.truncate(MAX_RESOLVERS);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_the_resolver_reads_them() {
        let text = "\
# nameserver 192.0.2.9
search example.org
nameserver 127.0.0.53
nameserver 192.0.2.1
  nameserver\t2001:db8::1
nameserver fe80::1%eth0
nameserver nonsense
options ndots:5
";
        let want = ["192.0.2.1", "2001:db8::1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(parse(text), want);
    }
}
