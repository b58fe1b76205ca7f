//! The origins: a real nginx with one certificate a name, and its word on who arrived.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::authority::Authority;
use crate::lab::Lab;
use crate::process::{Process, limit_descriptors};
use crate::{tools, wait};

/// One origin: a name and its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The name that its certificate carries.
    pub name: &'static str,
    /// Its IPv4 address, of [`Lab::ORIGINS_V4`].
    pub v4: Ipv4Addr,
    /// Its IPv6 address, of [`Lab::ORIGINS_V6`].
    pub v6: Ipv6Addr,
}

impl Site {
    /// An origin whose addresses end in `number`, written in decimal in both.
    pub const fn new(name: &'static str, number: u8) -> Site {
        let digits = number as u16;
        let digits = digits / 100 * 0x100 + digits / 10 % 10 * 0x10 + digits % 10;
        Site {
            name,
            v4: Ipv4Addr::new(203, 0, 113, number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, digits),
        }
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// A running nginx that serves the sites on port 443.
///
/// TCP is accepted by its stream part, which notes each connection at once, before the first
/// byte, and hands it to the HTTPS part of the same process. Every site answers `GET /` with a
/// page, serves [`Origins::files`] and stores what is `PUT` under `/upload/`.
#[derive(Debug)]
pub struct Origins {
    sites: Vec<Site>,
    home: PathBuf,
    process: Process,
    /// Connections of our own, which are no arrivals.
    probes: Mutex<Vec<Arrival>>,
}

/// A TCP connection that reached an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Who connected.
    pub client: SocketAddr,
    /// The origin's address.
    pub server: SocketAddr,
}

/// Where the HTTPS part listens, in the internet's namespace.
const HTTPS: &str = "127.0.0.1:10443";

impl Origins {
    /// Starts nginx in the lab's internet and waits until every address answers.
    ///
    /// # Errors
    /// When nginx is missing or does not start; the error carries what it said.
    pub fn start(lab: &Lab, authority: &Authority, sites: &[Site]) -> anyhow::Result<Origins> {
        let home = lab.directory().join("origins");
        for directory in ["", "files", "upload", "temporary"] {
            fs::create_dir_all(home.join(directory))?;
        }
        let nginx = tools::locate("nginx")?;
        let module = nginx.file("/usr/lib/nginx/modules/ngx_stream_module.so");
        let configuration = home.join("nginx.conf");
        fs::write(&configuration, configure(&home, &module, authority, sites)?)?;
        let mut command = nginx.command();
        lab.internet.enter(&mut command)?;
        command
            .arg("-p")
            .arg(&home)
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&configuration);
        // In one process nginx does not follow its own setting for this.
        limit_descriptors(&mut command, None);
        let process = Process::start(command, "nginx", &home)?;
        let mut origins = Origins {
            sites: sites.to_vec(),
            home,
            process,
            probes: Mutex::default(),
        };
        origins.answer(lab)?;
        Ok(origins)
    }

    /// Files put here are served by every site under `/files/`.
    pub fn files(&self) -> PathBuf {
        self.home.join("files")
    }

    /// What was uploaded to any site.
    pub fn uploads(&self) -> PathBuf {
        self.home.join("upload")
    }

    /// The TCP connections that have arrived at a site until now, finished or not.
    ///
    /// "Until now" is made certain: a probe of our own connects last, and nginx accepts in the
    /// order of arrival.
    ///
    /// # Errors
    /// When nginx does not answer, or has no such site.
    pub fn arrived(&self, lab: &Lab, name: &str) -> anyhow::Result<Vec<Arrival>> {
        let site = self.sites.iter().find(|site| site.name == name);
        let Some(site) = site else {
            anyhow::bail!("there is no origin {name}");
        };
        for address in site.addresses() {
            let probe = self.probe(lab, address)?;
            wait::until("nginx notes the probe", || {
                self.log(name).contains(&probe).then_some(())
            })?;
        }
        let mut arrivals = self.log(name);
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.retain(|arrival| !probes.contains(arrival));
        Ok(arrivals)
    }

    /// The HTTP requests that a site has finished: method, path and status, a space between.
    pub fn requests(&self, name: &str) -> Vec<String> {
        let log = fs::read_to_string(self.home.join(format!("{name}.requests")));
        log.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn answer(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let addresses: Vec<IpAddr> = self.sites.iter().flat_map(Site::addresses).collect();
        for address in addresses {
            let answer = wait::until("nginx accepts", || {
                if !matches!(self.process.status(), Ok(None)) {
                    return Some(false);
                }
                self.probe(lab, address).is_ok().then_some(true)
            })?;
            if !answer {
                anyhow::bail!("nginx did not start:\n{}", self.process.output());
            }
        }
        Ok(())
    }

    /// Connects to a site from within the internet and closes at once.
    fn probe(&self, lab: &Lab, address: IpAddr) -> io::Result<Arrival> {
        let stream = lab.internet.run(|| TcpStream::connect((address, 443)))??;
        let probe = Arrival {
            client: stream.local_addr()?,
            server: stream.peer_addr()?,
        };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.push(probe);
        Ok(probe)
    }

    fn log(&self, name: &str) -> Vec<Arrival> {
        let log = fs::read_to_string(self.home.join(format!("{name}.arrivals")));
        let log = log.unwrap_or_default();
        // A last line without its end is still being written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(Arrival::parse).collect()
    }
}

impl Arrival {
    /// Takes it from a line of nginx's log at level info:
    /// `… client 10.0.0.1:5000 connected to 203.0.113.10:443`.
    fn parse(line: &str) -> Option<Arrival> {
        let (before, server) = line.split_once(" connected to ")?;
        let (_, client) = before.rsplit_once("client ")?;
        Some(Arrival {
            client: client.parse().ok()?,
            server: server.trim().parse().ok()?,
        })
    }
}

fn configure(
    home: &Path,
    stream_module: &Path,
    authority: &Authority,
    sites: &[Site],
) -> anyhow::Result<String> {
    let mut streams = String::new();
    let mut servers = String::new();
    for site in sites {
        write!(streams, "{}", stream_server(site))?;
        write!(servers, "{}", https_server(site, authority)?)?;
    }
    Ok(format!(
        r#"load_module {module};
daemon off;
# One process, so that ending it leaves no workers.
master_process off;
pid {home}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 8192; multi_accept on; }}
stream {{
    proxy_half_close on;
    proxy_timeout 1h;
{streams}}}
http {{
    log_format request '$request_method $request_uri $status';
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {home}/temporary;
    proxy_temp_path {home}/temporary;
    fastcgi_temp_path {home}/temporary;
    uwsgi_temp_path {home}/temporary;
    scgi_temp_path {home}/temporary;
    ssl_protocols TLSv1.2 TLSv1.3;
    root {home};
    server {{
        listen {HTTPS} ssl default_server backlog=4096;
        ssl_reject_handshake on;
    }}
{servers}}}
"#,
        module = stream_module.display(),
        home = home.display(),
    ))
}

fn stream_server(site: &Site) -> String {
    let Site { name, v4, v6 } = site;
    format!(
        "    server {{
        listen {v4}:443 backlog=4096;
        listen [{v6}]:443 backlog=4096;
        error_log {name}.arrivals info;
        proxy_pass {HTTPS};
    }}
"
    )
}

fn https_server(site: &Site, authority: &Authority) -> anyhow::Result<String> {
    let name = site.name;
    let files = authority.issue(name)?;
    Ok(format!(
        "    server {{
        listen {HTTPS} ssl;
        server_name {name};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        access_log {name}.requests request;
        location = / {{
            default_type text/html;
            return 200 '<!doctype html><title>{name}</title><p>This is {name}.</p>\\n';
        }}
        location /files/ {{ }}
        location /upload/ {{ dav_methods PUT; }}
    }}
",
        certificate = files.certificate.display(),
        key = files.key.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_site_end_in_the_same_digits() {
        let site = Site::new("en.wikipedia.org", 210);
        assert_eq!(site.v4.to_string(), "203.0.113.210");
        assert_eq!(site.v6.to_string(), "2001:db8::210");
    }

    #[test]
    fn an_arrival_is_read_from_nginx_s_log() {
        let line = "2026/01/02 03:04:05 [info] 7#7: *1 client 10.77.3.2:40000 connected to 203.0.113.10:443";
        let arrival = Arrival::parse(line).unwrap();
        assert_eq!(arrival.client, "10.77.3.2:40000".parse().unwrap());
        assert_eq!(arrival.server, "203.0.113.10:443".parse().unwrap());

        let line = "… *2 client [fd77:3::2]:40000 connected to [2001:db8::10]:443";
        let arrival = Arrival::parse(line).unwrap();
        assert_eq!(arrival.server, "[2001:db8::10]:443".parse().unwrap());

        assert_eq!(
            Arrival::parse("… client disconnected, bytes from/to client:1/2"),
            None
        );
    }
}
