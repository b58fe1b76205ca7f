//! The product itself in the lab: one agent and one gateway, each a process on a host of its own.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::lab::{Host, Lab};
use crate::names::Names;
use crate::process::{self, Process, cap_descriptors, fresh_file, limit_descriptors, numbered};
use crate::{http, wait};

/// The extension of record files. Each process has one of its own, so that none that is killed in the
/// middle of a line spoils another's.
const RECORDS: &str = "jsonl";

/// Open files that service managers and shells give a program that does not ask for more; it may
/// raise them to what the administrator allows.
const USUAL_DESCRIPTORS: u64 = 1024;

/// Where both processes answer about themselves, each on its own host.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// The port on which the gateway takes agents.
pub const TUNNEL_PORT: u16 = 8443;

/// What a deployment is made of.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The `egress` program.
    pub program: &'a Path,
    /// The agent's policy document.
    pub agent_policy: &'a str,
    /// The gateway's policy document.
    pub gateway_policy: &'a str,
    /// Directory with the agent's certificate, as `egress pki init` makes it.
    pub agent_identity: &'a Path,
    /// Directory with the gateway's certificate.
    pub gateway_identity: &'a Path,
    /// The certificate authorities that both trust, as a PEM file.
    pub bundle: &'a Path,
    /// Revocation lists that both read, as a PEM file.
    pub crl: Option<&'a Path>,
    /// Directory with the sockets `agent.sock` and `gateway.sock` of a Workload API, which gives the
    /// certificates instead of files.
    pub workload_api: Option<&'a Path>,
    /// What the agent must answer with 200 before it counts as started: `/readyz` as a rule.
    pub agent_answers: &'a str,
    /// How long a drain may take, such as `60s`.
    pub drain: &'a str,
    /// The most files that the agent may open; as many as the administrator allows otherwise.
    pub agent_descriptors: Option<u64>,
    /// The same for the gateway.
    pub gateway_descriptors: Option<u64>,
    /// More lines for the gateway's configuration.
    pub gateway: &'a [&'a str],
    /// More lines for the agent's configuration.
    pub agent: &'a [&'a str],
    /// More lines for the `capture` section of the agent; `CGROUP` stands for the cgroup's path.
    pub capture: &'a [&'a str],
    /// Ports of the gateways that the agent knows, all on the gateway's host;
    /// [`Deployment::another_gateway`] starts those other than [`TUNNEL_PORT`].
    pub gateways: &'a [u16],
    /// The zones of these gateways, in the same order; those that it says nothing of have none.
    pub gateway_zones: &'a [&'a str],
    /// The names by which the agent knows these gateways' host, in the same order; its address
    /// where there is none.
    pub gateway_names: &'a [&'a str],
}

/// A running agent and gateway. The agent captures port 443 of one cgroup in the lab's
/// application namespace.
#[derive(Debug)]
pub struct Deployment {
    /// The agent, on the node.
    pub agent: Process,
    /// The gateway, on the gateway's host.
    pub gateway: Process,
    home: PathBuf,
}

/// Which of the two processes is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// The agent.
    Agent,
    /// The gateway.
    Gateway,
}

/// One line of a record file.
#[derive(Clone, PartialEq, Debug)]
pub struct Record(Value);

impl Deployment {
    /// Writes the configuration, starts both and waits until both say that they have started.
    ///
    /// # Errors
    /// When either does not start; the error carries what it printed.
    pub fn start(lab: &Lab, cgroup: &Cgroup, setup: &Setup<'_>) -> anyhow::Result<Deployment> {
        let home = lab.directory().join("egress");
        fs::create_dir_all(&home)?;
        let section = gateway_section(setup.gateway);
        let gateway = start(lab, Hop::Gateway, &home, setup, &section)?;
        let agent_section = agent_section(lab, cgroup, setup);
        let agent = start(lab, Hop::Agent, &home, setup, &agent_section)?;
        let mut deployment = Deployment {
            agent,
            gateway,
            home,
        };
        deployment.answers(lab, Hop::Gateway, "/readyz")?;
        deployment.answers(lab, Hop::Agent, setup.agent_answers)?;
        Ok(deployment)
    }

    /// Starts a gateway with the configuration of the first on another port, which is also where
    /// it answers about itself, on loopback.
    ///
    /// # Errors
    /// When it does not start; the error carries what it printed.
    pub fn another_gateway(&self, lab: &Lab, program: &Path, port: u16) -> anyhow::Result<Process> {
        self.another_gateway_at(lab, program, (lab.gateway.v4, port).into())
    }

    /// As [`another_gateway`](Self::another_gateway), at another address of the gateway's host.
    ///
    /// # Errors
    /// When it does not start; the error carries what it printed.
    pub fn another_gateway_at(
        &self,
        lab: &Lab,
        program: &Path,
        listen: SocketAddr,
    ) -> anyhow::Result<Process> {
        let port = listen.port();
        let name = format!("gateway-{port}");
        let mut command = process::command(program);
        let namespace = &lab.gateway.namespace;
        namespace.enter(&mut command)?;
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        command
            .args(["gateway", "--config"])
            .arg(self.home.join("gateway.yaml"))
            .args(["--listen", &listen.to_string()])
            .args(["--admin", &admin.to_string(), "--log"])
            .arg(fresh_file(&self.home, &name, RECORDS)?.0);
        let process = Process::start(command, &name, &self.home)?;
        wait::until("the other gateway is ready", || {
            let answer = http::get(namespace, admin, "/readyz");
            answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(())
        })
        .with_context(|| process.output())?;
        Ok(process)
    }

    /// The records that a hop has written so far.
    ///
    /// # Errors
    /// When a line is no JSON object.
    pub fn records(&self, hop: Hop) -> anyhow::Result<Vec<Record>> {
        self.records_of(&hop.to_string())
    }

    /// The records that [another gateway](Self::another_gateway) has written so far.
    ///
    /// # Errors
    /// When a line is no JSON object.
    pub fn records_of_another(&self, port: u16) -> anyhow::Result<Vec<Record>> {
        self.records_of(&format!("gateway-{port}"))
    }

    /// Those of each process that was started by this name, one process after the other.
    fn records_of(&self, name: &str) -> anyhow::Result<Vec<Record>> {
        let files = numbered(&self.home, name, RECORDS).take_while(|path| path.exists());
        let records: anyhow::Result<Vec<_>> = files.map(|path| read_records(&path)).collect();
        Ok(records?.concat())
    }

    /// Puts another policy document in a hop's old one's place, as an editor does: by renaming.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace_policy(&self, hop: Hop, policy: &str) -> anyhow::Result<()> {
        let path = self.home.join(format!("{hop}-policy.yaml"));
        let new = path.with_extension("new");
        fs::write(&new, policy)?;
        Ok(fs::rename(new, path)?)
    }

    /// Starts another agent with the same configuration beside the one that runs, as an upgrade
    /// does. It is the deployment's agent from now on; the one before is given back.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn upgrade_agent(&mut self, lab: &Lab, program: &Path) -> anyhow::Result<Process> {
        let configuration = self.home.join("agent.yaml");
        let successor =
            start_configured(lab, Hop::Agent, &self.home, (program, None), &configuration)?;
        Ok(std::mem::replace(&mut self.agent, successor))
    }

    /// Ends both as an operator would, with SIGTERM, and waits: afterwards every record is
    /// written.
    ///
    /// # Errors
    /// When either does not end, or ends with an exit code other than 0.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        for (hop, process) in [
            (Hop::Agent, &mut self.agent),
            (Hop::Gateway, &mut self.gateway),
        ] {
            if process.status()?.is_none() {
                process.signal(Signal::TERM)?;
            }
            let status = process.ended()?;
            if !status.success() {
                bail!("the {hop} ended with {status}:\n{}", process.output());
            }
        }
        Ok(())
    }

    fn answers(&mut self, lab: &Lab, hop: Hop, path: &str) -> anyhow::Result<()> {
        let process = match hop {
            Hop::Agent => &mut self.agent,
            Hop::Gateway => &mut self.gateway,
        };
        let namespace = &hop.host(lab).namespace;
        let what = format!("the {hop} answers {path}");
        let started = wait::until(&what, || {
            if !matches!(process.status(), Ok(None)) {
                return Some(false);
            }
            let answer = http::get(namespace, ADMIN, path);
            answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(true)
        });
        match started {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the {hop} did not start:\n{}", process.output()),
            Err(error) => Err(error.context(process.output())),
        }
    }
}

impl Hop {
    /// The host on which it runs.
    pub fn host(self, lab: &Lab) -> &Host {
        match self {
            Hop::Agent => &lab.node,
            Hop::Gateway => &lab.gateway,
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hop::Agent => "agent",
            Hop::Gateway => "gateway",
        })
    }
}

impl Record {
    /// A field as text; empty where it is absent or no text.
    pub fn text(&self, field: &str) -> &str {
        self.0
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A field as a whole number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.0.get(field).and_then(Value::as_u64)
    }

    /// Any field, by its path: `/process/comm`.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Runs `egress pki init` into `directory`.
///
/// # Errors
/// When it fails; the error carries what it printed.
pub fn init_pki(program: &Path, directory: &Path) -> anyhow::Result<()> {
    let output = process::command(program)
        .args([OsStr::new("pki"), OsStr::new("init"), directory.as_os_str()])
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("egress pki init failed: {said}");
    }
    Ok(())
}

/// Reads a file of records; one that does not exist yet has none.
///
/// # Errors
/// When a line is no JSON.
pub fn read_records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    // A last line without its end is still being written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let value = serde_json::from_str(line);
            value
                .map(Record)
                .with_context(|| format!("not a record: {line}"))
        })
        .collect()
}

fn start(
    lab: &Lab,
    hop: Hop,
    home: &Path,
    setup: &Setup<'_>,
    section: &str,
) -> anyhow::Result<Process> {
    let policy = match hop {
        Hop::Agent => setup.agent_policy,
        Hop::Gateway => setup.gateway_policy,
    };
    fs::write(home.join(format!("{hop}-policy.yaml")), policy)?;
    let configuration = home.join(format!("{hop}.yaml"));
    let text = format!(
        "policy: {hop}-policy.yaml\n\
         tls:\n{tls}\
         log: {{format: json}}\n\
         admin: {ADMIN}\n\
         drain: {drain}\n\
         {section}",
        tls = tls_section(hop, setup),
        drain = setup.drain,
    );
    fs::write(&configuration, text)?;
    let most = match hop {
        Hop::Agent => setup.agent_descriptors,
        Hop::Gateway => setup.gateway_descriptors,
    };
    start_configured(lab, hop, home, (setup.program, most), &configuration)
}

fn tls_section(hop: Hop, setup: &Setup<'_>) -> String {
    if let Some(sockets) = setup.workload_api {
        return format!("  workload_api: unix://{}/{hop}.sock\n", sockets.display());
    }
    let identity = match hop {
        Hop::Agent => setup.agent_identity,
        Hop::Gateway => setup.gateway_identity,
    };
    format!(
        "  certificate: {identity}/{hop}.pem\n  key: {identity}/{hop}-key.pem\n  bundle: {bundle}\n{crl}",
        identity = identity.display(),
        bundle = setup.bundle.display(),
        crl = setup
            .crl
            .map_or_else(String::new, |crl| format!("  crl: {}\n", crl.display())),
    )
}

fn start_configured(
    lab: &Lab,
    hop: Hop,
    home: &Path,
    (program, most_descriptors): (&Path, Option<u64>),
    configuration: &Path,
) -> anyhow::Result<Process> {
    let mut command = process::command(program);
    hop.host(lab).namespace.enter(&mut command)?;
    match most_descriptors {
        Some(most) => cap_descriptors(&mut command, most),
        None => limit_descriptors(&mut command, Some(USUAL_DESCRIPTORS)),
    }
    let name = hop.to_string();
    command
        .arg(&name)
        .arg("--config")
        .arg(configuration)
        .arg("--log")
        .arg(fresh_file(home, &name, RECORDS)?.0);
    Process::start(command, &name, home)
}

fn gateway_section(more: &[&str]) -> String {
    format!(
        "listen: 0.0.0.0:{TUNNEL_PORT}\n\
         dns: {{servers: [\"{}\"]}}\n\
         addresses: {{allow: [\"{}\", \"{}\"]}}\n{}",
        Names::ADDRESS,
        Lab::ORIGINS_V4,
        Lab::ORIGINS_V6,
        lines(more),
    )
}

fn lines(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn agent_section(lab: &Lab, cgroup: &Cgroup, setup: &Setup<'_>) -> String {
    let address = lab.gateway.v4.to_string();
    let names = setup.gateway_names.iter().copied();
    let hosts = names.chain(std::iter::repeat(address.as_str()));
    let zones = setup.gateway_zones.iter().map(Some);
    let zones = zones.chain(std::iter::repeat(None));
    let gateways = setup.gateways.iter().zip(hosts).zip(zones);
    let gateways: Vec<String> = gateways
        .map(|((port, host), zone)| match zone {
            Some(zone) => format!("{{address: \"{host}:{port}\", zone: {zone}}}"),
            None => format!("\"{host}:{port}\""),
        })
        .collect();
    let mut section = format!(
        "gateways: [{gateways}]\n\
         {more}capture:\n  cgroup: {cgroup}\n  namespaces: [{namespace}]\n",
        more = lines(setup.agent),
        gateways = gateways.join(", "),
        cgroup = cgroup.path().display(),
        namespace = lab.app.namespace.path().display(),
    );
    // An agent that does not get a processor for a while is refused nothing, unless that is what is
    // tested.
    let heartbeat = "heartbeat: 60s";
    let is_said = setup
        .capture
        .iter()
        .any(|line| line.starts_with("heartbeat:"));
    for line in setup
        .capture
        .iter()
        .copied()
        .chain((!is_said).then_some(heartbeat))
    {
        // Writing to a string does not fail.
        let line = line.replace("CGROUP", &cgroup.path().display().to_string());
        let _ = writeln!(section, "  {line}");
    }
    section
}
