//! The stage: hosts, processes, the attempts, and what everybody says about them afterwards.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use egress_lab::deployment::{Hop, Record, Setup, init_pki};
use egress_lab::wire::{TCP, UDP};
use egress_lab::{Authority, Cgroup, Deployment, Lab, Names, Origins, Site, Wire};

use super::attempt::{Application, Attempt, Expected};
use super::paint::Paint;
use super::table;

const EN: Site = Site::new("en.wikipedia.org", 10);
const DE: Site = Site::new("de.wikipedia.org", 20);
const IBM: Site = Site::new("cloud.ibm.com", 30);

const POLICY: &str = r#"version: 1
rules:
  - name: wikipedia
    hosts: ["*.wikipedia.org"]
"#;

// What is used is dropped before what it uses: the order of the fields matters.
struct Stage {
    deployment: Deployment,
    origins: Origins,
    _names: Names,
    cgroup: Cgroup,
    wire: Wire,
    authority: Authority,
    lab: Lab,
}

/// Counts what was seen and what should have been.
struct Checks {
    paint: Paint,
    failed: usize,
    made: usize,
}

/// Sets the stage, lets the application try its luck, and shows what came of it.
///
/// # Errors
///
/// Fails when something cannot be started or anything was not as it should be.
pub(crate) fn show(program: &Path) -> Result<()> {
    let started = Instant::now();
    let paint = Paint::new();
    let mut stage = Stage::set(program)?;
    stage.introduce(paint);
    let mut checks = Checks {
        paint,
        failed: 0,
        made: 0,
    };
    println!("\n{}", paint.bold("The application tries"));
    for attempt in stage.attempts()? {
        let title = attempt.title.clone();
        let outcome = attempt.make()?;
        checks.note(
            outcome.as_expected,
            &format!("{title:<33} {}", outcome.words),
        );
    }
    println!("\n{}", paint.bold("What others saw of it"));
    stage.ask_others(&mut checks)?;
    println!("\n{}", paint.bold("What agent and gateway wrote down"));
    stage.deployment.finish()?;
    let [agent, gateway] = [Hop::Agent, Hop::Gateway].map(|hop| stage.records(hop));
    let (agent, gateway) = (agent?, gateway?);
    show_records(&agent, &gateway, &mut checks);
    let seconds = started.elapsed().as_secs_f64();
    if checks.failed > 0 {
        stage.lab.keep();
        let (failed, made) = (checks.failed, checks.made);
        bail!("{failed} of {made} things were not as they should be");
    }
    println!(
        "\nAll {} things were as they should be, in {seconds:.1} s.",
        checks.made
    );
    Ok(())
}

impl Stage {
    fn set(program: &Path) -> Result<Stage> {
        let lab = Lab::new()?;
        let authority = Authority::new(lab.directory())?;
        let wire = Wire::watch(&lab, &lab.app)?;
        // One address a name, of either family: the gateway shall not have a choice, which would
        // be a race.
        let addresses: [(_, [IpAddr; 1]); 3] = [
            (EN.name, [EN.v4.into()]),
            (DE.name, [DE.v6.into()]),
            (IBM.name, [IBM.v4.into()]),
        ];
        let names = Names::start(&lab, &addresses)?;
        let origins = Origins::start(&lab, &authority, &[EN, DE, IBM])?;
        let cgroup = Cgroup::new()?;
        let pki = lab.directory().join("pki");
        init_pki(program, &pki)?;
        let setup = Setup {
            program,
            agent_policy: POLICY,
            gateway_policy: POLICY,
            agent_identity: &pki,
            gateway_identity: &pki,
            bundle: &pki.join("ca.pem"),
            agent_answers: "/readyz",
            drain: "10s",
            capture: &[],
        };
        let deployment = Deployment::start(&lab, &cgroup, &setup)?;
        Ok(Stage {
            deployment,
            origins,
            _names: names,
            cgroup,
            wire,
            authority,
            lab,
        })
    }

    /// In the order of the connections: their ids begin with the time.
    fn records(&self, hop: Hop) -> Result<Vec<Record>> {
        let mut records = self.deployment.records(hop)?;
        records.sort_by(|one, other| one.text("connection").cmp(other.text("connection")));
        Ok(records)
    }

    fn introduce(&self, paint: Paint) {
        let sites = [EN, DE, IBM].map(|site| site.name).join(", ");
        println!(
            "{}",
            paint.bold("Four hosts, each a network namespace of its own")
        );
        let row = |host: &str, address: String, runs: &str| {
            println!("  {host:<9} {address:<15} {runs}");
        };
        let Lab {
            app, node, gateway, ..
        } = &self.lab;
        row(
            "app",
            app.v4.to_string(),
            "the application: curl, in a captured cgroup",
        );
        row("node", node.v4.to_string(), "egress agent");
        row("gateway", gateway.v4.to_string(), "egress gateway");
        row(
            "internet",
            Lab::ORIGINS_V4.to_owned(),
            &format!("nginx for {sites}; dnsmasq"),
        );
        println!("\n{}", paint.bold("The policy, at agent and gateway"));
        for line in POLICY.lines() {
            println!("  {line}");
        }
    }

    fn attempts(&self) -> Result<Vec<Attempt>> {
        let application = Application {
            lab: &self.lab,
            cgroup: &self.cgroup,
            authority: &self.authority,
        };
        Ok(vec![
            application.curl(EN, Expected::Page(EN.name))?,
            application.curl(DE, Expected::Page(DE.name))?,
            application.curl(IBM, Expected::Alert("alert access denied"))?,
            application.curl_address(EN.v4, "alert access denied")?,
            application.quic(EN.v4)?,
        ])
    }

    /// The origins and the wire have no reason to be kind.
    fn ask_others(&self, checks: &mut Checks) -> Result<()> {
        let gateway = self.lab.gateway.addresses();
        for site in [EN, DE] {
            let arrived = self.origins.arrived(&self.lab, site.name)?;
            let from_gateway = arrived
                .iter()
                .all(|arrival| gateway.contains(&arrival.client.ip()));
            let words = format!(
                "{:<17} {} connection, from the gateway",
                site.name,
                arrived.len()
            );
            checks.note(arrived.len() == 1 && from_gateway, &words);
        }
        let arrived = self.origins.arrived(&self.lab, IBM.name)?;
        let words = format!("{:<17} {} connections", IBM.name, arrived.len());
        checks.note(arrived.is_empty(), &words);

        let seen = self.wire.seen(&self.lab.app)?;
        let sent: u64 = seen
            .iter()
            .filter(|(target, _)| matches!(target.protocol, TCP | UDP))
            .map(|(_, count)| count.packets)
            .sum();
        let words = format!(
            "{:<17} {sent} packets of TCP or UDP left the application's host",
            "wire"
        );
        checks.note(sent == 0, &words);
        Ok(())
    }
}

fn show_records(agent: &[Record], gateway: &[Record], checks: &mut Checks) {
    let Some(connections) = table::pair(agent, gateway) else {
        checks.note(
            false,
            "each connection has one record a hop, with the same id",
        );
        for record in agent.iter().chain(gateway) {
            println!("    {record}");
        }
        return;
    };
    println!("{}", table::render(&connections, checks.paint));
    let counts = (agent.len(), gateway.len());
    checks.note(
        counts == (4, 2),
        "one record a hop for each connection that it saw, the same id at both",
    );
    let verdicts = |records: &[Record], verdict: &str| {
        let names: Vec<_> = records
            .iter()
            .filter(|record| record.text("verdict") == verdict)
            .map(|record| record.text("sni").to_owned())
            .collect();
        names
    };
    let allowed = [EN.name, DE.name];
    let right = verdicts(agent, "allowed") == allowed && verdicts(gateway, "allowed") == allowed;
    checks.note(
        right,
        "both hops allowed the two names of wikipedia, and nothing else",
    );
    let refused = verdicts(agent, "refused") == [IBM.name, ""];
    checks.note(
        refused,
        "the agent refused the third name and the nameless address by itself",
    );
}

impl Checks {
    fn note(&mut self, good: bool, words: &str) {
        self.made += 1;
        let mark = if good {
            self.paint.good("✔")
        } else {
            self.failed += 1;
            self.paint.bad("✘")
        };
        println!("  {mark} {words}");
    }
}
