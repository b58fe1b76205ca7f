//! Four hosts in a star: application, node, gateway, and the internet in the middle.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::sweep::{Entry, Leftover};

/// Where the files of labs are, whatever `TMPDIR` says: the path of a Unix socket has 107 bytes at the
/// most, and other users must get there.
pub(crate) const TEMPORARY: &str = "/tmp";

/// A directory for what must lie in a place like a lab's own, and not in it. It is removed when this is
/// dropped.
///
/// # Errors
/// When it cannot be made.
pub fn scratch() -> anyhow::Result<TempDir> {
    TempDir::with_prefix_in("egress-lab-", TEMPORARY).context("cannot make a directory")
}

/// The number of the gateway's host among those at the edge, in its addresses.
const GATEWAY: u8 = 3;

/// The laboratory: namespaces that know the way to each other, and a directory for files.
///
/// The application could reach every origin directly. Whatever keeps it from doing so is the
/// product, not the wiring.
///
/// ```text
///   app ──────┐
///   node ─────┤ internet: routes between the three, has the origins' and
///   gateway ──┘           name server's addresses
/// ```
#[derive(Debug)]
pub struct Lab {
    /// Where the captured workload runs.
    pub app: Host,
    /// Where the agent runs.
    pub node: Host,
    /// Where the gateway runs.
    pub gateway: Host,
    /// Where origins and the name server run; every address of [`Lab::ORIGINS_V4`] and
    /// [`Lab::ORIGINS_V6`] is local to it.
    pub internet: Namespace,
    directory: Directory,
}

/// A host at the edge: one interface, `eth0`, and a default route into the internet.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The internet's end of its link: what passes there has left the host.
    pub(crate) uplink: &'static str,
    /// The internet's IPv4 address on that link.
    pub(crate) next_hop: Ipv4Addr,
}

impl Lab {
    /// The origins' IPv4 addresses (RFC 5737, documentation).
    pub const ORIGINS_V4: &'static str = "203.0.113.0/24";
    /// The address of [`Lab::gateway`], for what must know it before the lab is made.
    pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 77, GATEWAY, 2);
    /// The origins' IPv6 addresses (RFC 3849, documentation).
    pub const ORIGINS_V6: &'static str = "2001:db8::/64";

    /// Makes the namespaces and connects them.
    ///
    /// # Errors
    /// Without root, or when `ip` is missing.
    pub fn new() -> anyhow::Result<Lab> {
        let directory = Directory::new()?;
        let internet = Namespace::new()?;
        internet.sysctl("ipv4/ip_forward", "1")?;
        internet.sysctl("ipv6/conf/all/forwarding", "1")?;
        // A local route per prefix: each address in it is the internet's own. IPv6 wants to be
        // told once more before a server may listen there.
        internet.sysctl("ipv6/ip_nonlocal_bind", "1")?;
        internet.ip(&format!(
            "route add local {} dev lo\nroute add local {} dev lo\n",
            Lab::ORIGINS_V4,
            Lab::ORIGINS_V6
        ))?;
        Ok(Lab {
            app: Host::attach(&internet, "app", 1)?,
            node: Host::attach(&internet, "node", 2)?,
            gateway: Host::attach(&internet, "gateway", GATEWAY)?,
            internet,
            directory,
        })
    }

    /// A directory for configuration and logs, readable by every user. It is removed with the
    /// lab, or kept, and its path printed, when a test fails.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Keeps the directory, and says where it is, as after a failed test.
    pub fn keep(&mut self) {
        self.directory.keep = true;
    }
}

impl Host {
    /// Makes a host and its link. `number` tells its addresses from those of the others.
    fn attach(internet: &Namespace, uplink: &'static str, number: u8) -> anyhow::Result<Host> {
        let namespace = Namespace::new()?;
        let [v4, next_hop] = [2, 1].map(|last| Ipv4Addr::new(10, 77, number, last));
        let [v6, next_hop_v6] =
            [2, 1].map(|last| Ipv6Addr::new(0xfd77, number.into(), 0, 0, 0, 0, 0, last));
        let [mac, next_hop_mac] = [2, 1].map(|last| format!("02:00:00:00:{number:02x}:{last:02x}"));
        // Addresses without duplicate detection, which would keep them unusable for a second.
        internet.ip(&format!(
            "link add {uplink} address {next_hop_mac} type veth \
             peer name eth0 address {mac} netns {peer}\n\
             addr add {next_hop}/24 dev {uplink}\n\
             addr add {next_hop_v6}/64 dev {uplink} nodad\n\
             link set {uplink} up\n",
            peer = namespace.path().display(),
        ))?;
        namespace.ip(&format!(
            "addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             neigh replace {next_hop} lladdr {next_hop_mac} dev eth0\n\
             neigh replace {next_hop_v6} lladdr {next_hop_mac} dev eth0\n\
             route add default via {next_hop}\n\
             route add default via {next_hop_v6}\n",
        ))?;
        // Who is at the other end is known, so that nothing waits for an answer about that, nor is
        // given up. The kernel may have learnt it by itself already.
        internet.ip(&format!(
            "neigh replace {v4} lladdr {mac} dev {uplink}\n\
             neigh replace {v6} lladdr {mac} dev {uplink}\n",
        ))?;
        Ok(Host {
            namespace,
            v4,
            v6,
            uplink,
            next_hop,
        })
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// The lab's directory, which outlives a failed test.
#[derive(Debug)]
struct Directory {
    directory: TempDir,
    keep: bool,
    _entry: Entry,
}

impl Directory {
    fn new() -> anyhow::Result<Directory> {
        let made = Entry::making(|| {
            let directory = scratch()?;
            let leftover = Leftover::Directory(directory.path().to_owned());
            anyhow::Ok((directory, leftover))
        });
        let (directory, entry) = made?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Directory {
            directory,
            keep: false,
            _entry: entry,
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.keep || thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the lab's logs are kept in {}", self.path().display());
        }
    }
}
