//! Configuration: what the user wrote in files, flags and variables → what the
//! program needs, with every mistake of a run at once.

pub mod agent;
mod destinations;
pub mod gateway;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::document::{self, Map, Mistake, Mistakes, Value};
use crate::in_force;
use crate::record::{LogFormat, Target};
use crate::renewal::Source;
use crate::tunnel::tls::CredentialFiles;
use crate::workload_api::{SOCKET_VARIABLE, Socket};

/// The longest grace that a drain may be given.
const MAX_DRAIN: Duration = Duration::from_secs(3600);

/// The longest that connections may go on that a new policy refuses.
const MAX_SPREAD: Duration = Duration::from_secs(600);

/// Live connections may end by themselves for so long, unless told otherwise.
/// Below Kubernetes' default terminationGracePeriodSeconds of 30 seconds.
const DRAIN: Duration = Duration::from_secs(25);

/// What both halves can be told; every field may come from the file, a flag or a
/// variable.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// The policy document.
    pub policy: Option<PathBuf>,
    /// Certificate chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// Certificates of the CAs that vouch for the other half, PEM.
    pub bundle: Option<PathBuf>,
    /// Revocation lists of those CAs, PEM.
    pub crl: Option<PathBuf>,
    /// The Workload API that all of these come from instead.
    pub workload_api: Option<Socket>,
    /// What [`SOCKET_VARIABLE`] says, which counts where neither it nor a file is named.
    pub endpoint_socket: Option<String>,
    /// Where records go; `-` is standard output.
    pub log: Option<PathBuf>,
    /// The form of the records.
    pub log_format: Option<LogFormat>,
    /// Metrics and health.
    pub admin: Option<SocketAddr>,
    /// Grace for live connections at the end.
    pub drain: Option<Duration>,
    /// The time over which connections that a new policy refuses are closed.
    pub spread: Option<Duration>,
}

/// [`Common`], complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// The policy document.
    pub policy: PathBuf,
    /// Where certificates come from.
    pub tls: Source,
    /// Where records go.
    pub log: Target,
    /// The form of the records.
    pub log_format: LogFormat,
    /// Metrics and health, if wanted.
    pub admin: Option<SocketAddr>,
    /// Grace for live connections at the end.
    pub drain: Duration,
    /// The time over which connections that a new policy refuses are closed.
    pub spread: Duration,
}

impl Common {
    fn read(map: &Map<'_>) -> Common {
        let tls = map.optional("tls", |value| value.map(TlsPaths::read));
        let tls = tls.unwrap_or_default();
        let log = map.optional("log", |value| value.map(LogPaths::read));
        let log = log.unwrap_or_default();
        Common {
            policy: map.optional("policy", Value::path),
            certificate: tls.certificate,
            key: tls.key,
            bundle: tls.bundle,
            crl: tls.crl,
            workload_api: tls.workload_api,
            endpoint_socket: None,
            log: log.file,
            log_format: log.format,
            admin: map.optional("admin", Value::socket_addr),
            drain: map.optional("drain", |value| value.duration(Duration::ZERO..=MAX_DRAIN)),
            spread: map.optional("spread", |value| {
                value.duration(Duration::ZERO..=MAX_SPREAD)
            }),
        }
    }

    /// Flags and variables win over the file.
    fn over(self, file: Common) -> Common {
        Common {
            policy: self.policy.or(file.policy),
            certificate: self.certificate.or(file.certificate),
            key: self.key.or(file.key),
            bundle: self.bundle.or(file.bundle),
            crl: self.crl.or(file.crl),
            workload_api: self.workload_api.or(file.workload_api),
            endpoint_socket: self.endpoint_socket,
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
            admin: self.admin.or(file.admin),
            drain: self.drain.or(file.drain),
            spread: self.spread.or(file.spread),
        }
    }

    /// Paths in a file are relative to the folder that the file lies in.
    fn below(mut self, file: &Path) -> Common {
        let Some(folder) = file.parent() else {
            return self;
        };
        let paths = [
            &mut self.policy,
            &mut self.certificate,
            &mut self.key,
            &mut self.bundle,
            &mut self.crl,
            &mut self.log,
        ];
        for path in paths.into_iter().flatten() {
            if path != Path::new("-") {
                *path = folder.join(&*path);
            }
        }
        self
    }

    fn complete(self, needs: &mut Needs) -> Option<Base> {
        let tls = self.source(needs);
        let policy = needs.path("policy", self.policy);
        let log = self
            .log
            .as_deref()
            .map_or(Target::Stdout, Target::from_path);
        Some(Base {
            policy: policy?,
            tls: tls?,
            log,
            log_format: self.log_format.unwrap_or_default(),
            admin: self.admin,
            drain: self.drain.unwrap_or(DRAIN),
            spread: self.spread.unwrap_or(in_force::SPREAD),
        })
    }
}

impl Common {
    /// Files, or a Workload API.
    fn source(&self, needs: &mut Needs) -> Option<Source> {
        let files = [&self.certificate, &self.key, &self.bundle, &self.crl];
        let no_file = files.into_iter().all(Option::is_none);
        if let Some(socket) = &self.workload_api {
            if !no_file {
                return needs.mistake(
                    "`tls.workload_api` gives certificate, key, bundle and revocation lists: \
                     leave the files away, or leave it away",
                );
            }
            return Some(Source::WorkloadApi(socket.clone()));
        }
        if let (true, Some(socket)) = (no_file, &self.endpoint_socket) {
            return match socket.parse() {
                Ok(socket) => Some(Source::WorkloadApi(socket)),
                Err(error) => needs.mistake(&format!("`{socket}` in {SOCKET_VARIABLE}: {error}")),
            };
        }
        let certificate = needs.path("tls.certificate", self.certificate.clone());
        let key = needs.path("tls.key", self.key.clone());
        let bundle = needs.path("tls.bundle", self.bundle.clone());
        Some(Source::Files(CredentialFiles {
            certificate: certificate?,
            key: key?,
            bundle: bundle?,
            crl: self.crl.clone(),
        }))
    }
}

#[derive(Default)]
struct TlsPaths {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    bundle: Option<PathBuf>,
    crl: Option<PathBuf>,
    workload_api: Option<Socket>,
}

impl TlsPaths {
    fn read(map: &Map<'_>) -> Option<TlsPaths> {
        let paths = TlsPaths {
            certificate: map.optional("certificate", Value::path),
            key: map.optional("key", Value::path),
            bundle: map.optional("bundle", Value::path),
            crl: map.optional("crl", Value::path),
            workload_api: map.optional("workload_api", |value| value.parse(str::parse)),
        };
        let mut files = ["certificate", "key", "bundle", "crl"].into_iter();
        match files.find(|key| map.has(key) && map.has("workload_api")) {
            Some(file) => map.mistake(format!(
                "`workload_api` gives what `{file}` would: leave one of them away"
            )),
            None => Some(paths),
        }
    }
}

#[derive(Default)]
struct LogPaths {
    file: Option<PathBuf>,
    format: Option<LogFormat>,
}

impl LogPaths {
    fn read(map: &Map<'_>) -> Option<LogPaths> {
        Some(LogPaths {
            file: map.optional("file", Value::path),
            format: map.optional("format", |value| {
                value.one_of(&[("json", LogFormat::Json), ("text", LogFormat::Text)])
            }),
        })
    }
}

/// Collects what is missing, or does not go together, once file, flags and variables are put
/// together.
struct Needs {
    label: String,
    missing: Vec<Mistake>,
}

impl Needs {
    fn new(file: Option<&Path>) -> Needs {
        let label = file.map_or_else(
            || "configuration".to_owned(),
            |file| file.display().to_string(),
        );
        Needs {
            label,
            missing: Vec::new(),
        }
    }

    fn path(&mut self, key: &str, value: Option<PathBuf>) -> Option<PathBuf> {
        self.value(key, value)
    }

    fn value<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let flag = key.rsplit('.').next().unwrap_or(key);
            let variable = flag.to_uppercase();
            self.missing.push(Mistake::new(
                &self.label,
                format!("`{key}` is missing: set it in the file, with --{flag} or with EGRESS_{variable}"),
            ));
        }
        value
    }

    /// Always `None`, to be returned.
    fn mistake<T>(&mut self, what: &str) -> Option<T> {
        self.missing.push(Mistake::new(&self.label, what));
        None
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        Mistakes::check(self.missing)?;
        value.ok_or_else(|| Mistake::new(self.label, "is incomplete").into())
    }
}

/// Reads a configuration file, or an empty one when there is none.
fn read_file<T: Default>(
    path: Option<&Path>,
    build: impl FnOnce(&Map<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let label = path.display().to_string();
    let text = read_text(path)?;
    Ok(document::read(&text, &label, build)?.value)
}

/// The text of a document, with a sentence when it cannot be had.
pub fn read_text(path: &Path) -> Result<String, Mistakes> {
    let label = path.display().to_string();
    let too_large = |len: u64| {
        let sentence = format!(
            "{len} bytes long, and at most {} are read",
            document::MAX_BYTES
        );
        Mistakes::from(Mistake::new(&label, sentence))
    };
    let unreadable =
        |error| Mistakes::from(Mistake::new(&label, format!("cannot be read: {error}")));
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > document::MAX_BYTES as u64 {
        return Err(too_large(len));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::agent::{AgentConfig, AgentOptions};
    use super::gateway::{GatewayConfig, GatewayOptions};
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn the_files_of_the_deployment_are_valid() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let agent = deploy.join("agent.yaml");
        let agent = AgentConfig::load(Some(&agent), AgentOptions::default()).unwrap();
        let gateway = deploy.join("gateway.yaml");
        let gateway = GatewayConfig::load(Some(&gateway), GatewayOptions::default()).unwrap();
        assert_eq!(agent.base.policy, gateway.base.policy);
        let text = read_text(&agent.base.policy).unwrap();
        let loaded = Policy::parse(&text, "policy.yaml").unwrap();
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn a_missing_file_is_named() {
        let mistakes = read_text(Path::new("/nonexistent/policy.yaml")).unwrap_err();
        assert!(
            mistakes
                .to_string()
                .starts_with("/nonexistent/policy.yaml: cannot be read")
        );
    }
}
