//! Names as this machine resolves them: by hosts(5), else by the servers of resolv.conf(5), with
//! its search domains.
//!
//! Both files are read each time, since networks come and go. What else nsswitch.conf(5) may name
//! is not asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_resolver::config::ResolverConfig;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Client, Failure, Found, Keep};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Time for one name, whatever is asked for it: one server that is silent and another that has to
/// be asked twice.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a server may be silent before the next one is asked too.
const NEXT: Duration = Duration::from_secs(1);

/// How long the addresses of one family are waited for when those of the other are known: some
/// servers never answer for one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Servers of resolv.conf that are asked, as many as by the C library.
const MAX_SERVERS: usize = 3;

/// Who asks remembers; a day is what hickory takes for longest.
const KEEP: Keep = Keep {
    answers: 0,
    positive: (Duration::ZERO, Duration::from_secs(24 * 60 * 60)),
    negative: Duration::ZERO,
};

/// What a name leads to on this machine; an address stands for itself. What a file says is good for
/// no time: it may be another one at any moment, and costs nothing to read.
///
/// # Errors
/// Why it leads nowhere.
pub async fn resolve(host: &str) -> Result<Found, Failure> {
    if let Ok(ip) = host.parse() {
        let (ips, ttl) = (vec![ip], Duration::MAX);
        return Ok(Found { ips, ttl });
    }
    let found = timeout(LIMIT, look_up(host)).await;
    found.unwrap_or(Err(Failure::Timeout))
}

async fn look_up(host: &str) -> Result<Found, Failure> {
    let files = tokio::task::spawn_blocking(Files::read).await;
    let files = files.map_err(|error| Failure::System(error.to_string()))?;
    let ips = in_hosts(&files.hosts, host);
    if !ips.is_empty() {
        let ttl = Duration::ZERO;
        return Ok(Found { ips, ttl });
    }
    let name = Name::from_ascii(host).map_err(|_| Failure::NoName)?;
    let system = System::parse(&files.resolv_conf?)?;
    system.resolve(&name).await
}

/// The files as they are.
struct Files {
    hosts: String,
    resolv_conf: Result<String, Failure>,
}

impl Files {
    fn read() -> Files {
        Files {
            // As to the C library, one that cannot be read is one that says nothing.
            hosts: read(HOSTS).unwrap_or_default(),
            resolv_conf: read(RESOLV_CONF).map_err(|error| Failure::System(error.to_string())),
        }
    }
}

/// A file that is not there is empty.
fn read(path: impl AsRef<Path>) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The addresses that hosts(5) gives for a name, in any case of its letters.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut ips = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if words.any(|name| name.eq_ignore_ascii_case(host)) {
            ips.extend(ip);
        }
    }
    ips
}

/// What resolv.conf(5) says.
struct System {
    servers: Vec<Client>,
    search: Vec<Name>,
    ndots: usize,
}

impl System {
    fn parse(text: &str) -> Result<System, Failure> {
        let system = |error: &dyn std::error::Error| Failure::System(error.to_string());
        // Without any, the one on this machine is meant.
        let local = if has_server(text) {
            ""
        } else {
            "\nnameserver 127.0.0.1\n"
        };
        let parsed = parse_resolv_conf(format!("{text}{local}"));
        let (config, options) = parsed.map_err(|error| system(&error))?;
        let servers = config.name_servers().iter().take(MAX_SERVERS);
        let servers = servers.map(|server| {
            let addr = SocketAddr::new(server.ip, super::server::PORT);
            Client::new(&[addr.into()], None, KEEP).map_err(|error| system(&error))
        });
        Ok(System {
            servers: servers.collect::<Result<_, _>>()?,
            search: search_of(&config),
            ndots: options.ndots,
        })
    }

    async fn resolve(&self, name: &Name) -> Result<Found, Failure> {
        let mut told = Failure::Gone;
        for name in self.meant(name) {
            match ask_in_turn(&self.servers, &name).await {
                Ok(found) => return Ok(found),
                // Were it the name that is meant, what comes next would be another's.
                Err(Failure::Timeout) => return Err(Failure::Timeout),
                Err(failure) if rank(&failure) > rank(&told) => told = failure,
                Err(_) => {}
            }
        }
        Err(told)
    }

    /// The absolute names that a name may stand for, those that are tried first first.
    fn meant(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let appended = self.search.iter().map(|domain| {
            let mut whole = name.clone().append_domain(domain).ok()?;
            whole.set_fqdn(true);
            Some(whole)
        });
        let mut meant: Vec<Name> = appended.flatten().collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let at = if dots >= self.ndots { 0 } else { meant.len() };
        meant.insert(at, absolute);
        meant
    }
}

/// Whether there is a server of which the address can be read.
fn has_server(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        let server = words.next() == Some("nameserver");
        let addr = words.next().and_then(|word| word.split('%').next());
        server && addr.is_some_and(|addr| addr.parse::<IpAddr>().is_ok())
    })
}

/// The domains of `search` or `domain`, whichever comes last; without any, the host's own.
fn search_of(config: &ResolverConfig) -> Vec<Name> {
    match config.search() {
        [] => config.domain().cloned().into_iter().collect(),
        search => search.to_vec(),
    }
}

/// Which of several failures is told: that a server failed leaves open what it would have said.
fn rank(failure: &Failure) -> u8 {
    match failure {
        Failure::Gone | Failure::NoName => 0,
        Failure::Empty => 1,
        Failure::Timeout | Failure::Failed(_) | Failure::System(_) => 2,
    }
}

/// What the first server says that has an answer. Where one has failed, or is silent for a while, the
/// next one is asked too.
async fn ask_in_turn(servers: &[Client], name: &Name) -> Result<Found, Failure> {
    let mut waiting = servers.iter().cloned();
    let mut asked = JoinSet::new();
    let mut failed = Failure::Timeout;
    loop {
        if let Some(server) = waiting.next() {
            let name = name.clone();
            asked.spawn(async move { server.ask(name, |_| Some(PATIENCE)).await });
        } else if asked.is_empty() {
            return Err(failed);
        }
        match timeout(NEXT, asked.join_next()).await {
            Ok(Some(Ok(Err(failure @ (Failure::Failed(_) | Failure::Timeout))))) => {
                failed = failure;
            }
            Ok(Some(Ok(answer))) => return answer,
            Ok(Some(Err(error))) => failed = Failure::Failed(error.to_string()),
            Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
