//! The name server: a real dnsmasq that knows the given names and no others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::lab::Lab;
use crate::process::Process;
use crate::wait;

/// A running name server. Names that it was not given do not exist (NXDOMAIN).
#[derive(Debug)]
pub struct Names {
    process: Process,
    leads: BTreeMap<String, Vec<IpAddr>>,
    /// Where it reads them.
    file: PathBuf,
}

/// A name, its only address, and for how many seconds that is good.
pub type Lasting<'a> = (&'a str, IpAddr, u32);

impl Names {
    /// Where it answers, over UDP and TCP.
    pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53)), 53);

    /// Starts it in the lab's internet with the address records given, whose TTL is 0.
    ///
    /// # Errors
    /// When dnsmasq is missing or does not start; the error carries what it said.
    pub fn start<A: AsRef<[IpAddr]>>(lab: &Lab, records: &[(&str, A)]) -> anyhow::Result<Names> {
        Names::with(lab, records, &[])
    }

    /// As [`start`](Self::start), with more records, which have a TTL.
    ///
    /// # Errors
    /// The same.
    pub fn with<A: AsRef<[IpAddr]>>(
        lab: &Lab,
        records: &[(&str, A)],
        lasting: &[Lasting<'_>],
    ) -> anyhow::Result<Names> {
        let home = lab.directory().join("names");
        fs::create_dir_all(&home)?;
        let file = home.join("leads");
        fs::write(&file, "")?;
        let mut command = lab.internet.command("dnsmasq")?;
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file",
            ])
            .args(["--user=root", "--group=root"])
            .args(["--no-resolv", "--no-hosts", "--bind-interfaces"])
            .arg(format!("--listen-address={}", Names::ADDRESS.ip()))
            .arg(format!("--port={}", Names::ADDRESS.port()))
            .arg(format!("--addn-hosts={}", file.display()))
            .args(["--log-queries", "--log-facility=-", "--address=/#/"]);
        for (name, addresses) in records {
            // An option an address: one host-record takes a single address of each family.
            for address in addresses.as_ref() {
                command.arg(format!("--host-record={name},{address}"));
            }
        }
        for (name, address, ttl) in lasting {
            command.arg(format!("--host-record={name},{address},{ttl}"));
        }
        let mut process = Process::start(command, "dnsmasq", &home)?;
        process.says("started, version")?;
        let leads = BTreeMap::new();
        Ok(Names {
            process,
            leads,
            file,
        })
    }

    /// Lets a name that [`start`](Self::start) was not given lead there from now on, with a TTL of 0;
    /// without addresses it does not exist.
    ///
    /// # Errors
    /// When dnsmasq does not say that it has read them.
    pub fn lead(&mut self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
        self.leads.insert(name.to_owned(), addresses.to_vec());
        let mut text = String::new();
        for (name, addresses) in &self.leads {
            for address in addresses {
                writeln!(text, "{address} {name}")?;
            }
        }
        fs::write(&self.file, text)?;
        let read = format!("read {} ", self.file.display());
        let count = |process: &Process| process.output().matches(&read).count();
        let before = count(&self.process);
        self.process.signal(Signal::HUP)?;
        wait::until("dnsmasq has read what names lead to", || {
            (count(&self.process) > before).then_some(())
        })
    }

    /// Ends it: whoever asks hears nothing any more.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.ended().map(drop)
    }

    /// The queries it has been asked, as `TYPE NAME`, in order.
    pub fn queries(&self) -> Vec<String> {
        let output = self.process.output();
        output.lines().filter_map(query).collect()
    }
}

/// Takes it from a line such as `dnsmasq[7]: query[A] en.wikipedia.org from 10.77.3.2`.
fn query(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("query[")?;
    let (kind, rest) = rest.split_once("] ")?;
    let (name, _) = rest.split_once(" from ")?;
    Some(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_from_dnsmasq_s_log() {
        let line = "dnsmasq[7]: query[AAAA] en.wikipedia.org from 10.77.3.2";
        assert_eq!(query(line).as_deref(), Some("AAAA en.wikipedia.org"));
        assert_eq!(query("dnsmasq[7]: cleared cache"), None);
    }
}
