//! The play: what the application tries, what others see of it, and what is written down.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use egress_lab::Deployment;
use egress_lab::deployment::{Hop, Record};

use super::attempt::{Attempt, Expected};
use super::paint::Paint;
use super::stage::{DE, EN, IBM, POLICY, Stage};
use super::table;

const ACCESS_DENIED: &str = "alert access denied";

/// What a corrupt agent might be made to believe.
const CORRUPT_POLICY: &str = r#"version: 1
rules:
  - name: anything-goes
    hosts: ["*.wikipedia.org", "*.ibm.com"]
"#;

/// Shows everything.
///
/// # Errors
///
/// Fails when something cannot be started or anything was not as it should be.
pub(crate) fn show(program: &Path) -> Result<()> {
    let started = Instant::now();
    let mut checks = Checks::new();
    let mut stage = Stage::set(program)?;
    stage.introduce(checks.paint);
    let written = ordinary(&stage, &mut checks)?;
    corrupt(&stage, written, &mut checks)?;
    let seconds = started.elapsed().as_secs_f64();
    let Checks { failed, made, .. } = checks;
    if failed > 0 {
        stage.lab.keep();
        bail!("{failed} of {made} things were not as they should be");
    }
    println!("\nAll {made} things were as they should be, in {seconds:.1} s.");
    Ok(())
}

/// Agent and gateway have the same policy. Gives how many records each has written.
fn ordinary(stage: &Stage, checks: &mut Checks) -> Result<(usize, usize)> {
    checks.heading("The policy, at agent and gateway");
    for line in POLICY.lines() {
        println!("  {line}");
    }
    let mut deployment = stage.deploy(POLICY)?;
    checks.heading("The application tries");
    let application = stage.application();
    for attempt in [
        application.curl(EN, Expected::Page(EN.name))?,
        application.curl(DE, Expected::Page(DE.name))?,
        application.curl(IBM, Expected::Alert(ACCESS_DENIED))?,
        application.curl_address(EN.v4, ACCESS_DENIED)?,
        application.quic(EN.v4)?,
    ] {
        checks.attempt(attempt)?;
    }

    checks.heading("What others saw of it");
    for site in [EN, DE] {
        let (count, from_gateway) = stage.arrived(site)?;
        let words = format!("{:<17} {count} connection, from the gateway", site.name);
        checks.note(count == 1 && from_gateway, &words);
    }
    checks.nothing_arrived(stage)?;
    checks.nothing_left(stage)?;

    checks.heading("What agent and gateway wrote down");
    deployment.finish()?;
    let (agent, gateway) = (
        records(&deployment, Hop::Agent)?,
        records(&deployment, Hop::Gateway)?,
    );
    checks.table(&agent, &gateway);
    checks.note(
        names(&agent, "allowed") == [EN.name, DE.name]
            && names(&gateway, "allowed") == [EN.name, DE.name],
        "both hops allowed the two names of wikipedia",
    );
    checks.note(
        names(&agent, "refused") == [IBM.name, ""] && gateway.len() == 2,
        "the agent refused the third name and the nameless address by itself",
    );
    let by_kernel = agent.iter().filter(|record| table::is_by_kernel(record));
    let reasons: Vec<&str> = by_kernel.map(|record| record.text("reason")).collect();
    checks.note(
        reasons == ["refuse_udp"],
        "the kernel refused QUIC before there was a packet",
    );
    Ok((agent.len(), gateway.len()))
}

/// The agent believes in a wider policy. Its and the gateway's file of records go on behind those
/// `written` before.
fn corrupt(stage: &Stage, written: (usize, usize), checks: &mut Checks) -> Result<()> {
    checks.heading("And if the agent were corrupt, with a policy that lets cloud.ibm.com through?");
    let mut deployment = stage.deploy(CORRUPT_POLICY)?;
    let application = stage.application();
    checks.attempt(application.curl(IBM, Expected::Alert(ACCESS_DENIED))?)?;
    checks.nothing_arrived(stage)?;
    checks.nothing_left(stage)?;
    deployment.finish()?;
    let agent: Vec<_> = records(&deployment, Hop::Agent)?
        .into_iter()
        .skip(written.0)
        .collect();
    let gateway: Vec<_> = records(&deployment, Hop::Gateway)?
        .into_iter()
        .skip(written.1)
        .collect();
    println!();
    checks.table(&agent, &gateway);
    checks.note(
        names(&gateway, "refused") == [IBM.name],
        "the gateway refused it by itself, and the agent could tell the application why",
    );
    Ok(())
}

/// In the order of the connections: their ids begin with the time.
fn records(deployment: &Deployment, hop: Hop) -> Result<Vec<Record>> {
    let mut records = deployment.records(hop)?;
    records.sort_by(|one, other| one.text("connection").cmp(other.text("connection")));
    Ok(records)
}

/// The names that met with this verdict at a hop, the kernel left aside.
fn names<'a>(records: &'a [Record], verdict: &str) -> Vec<&'a str> {
    records
        .iter()
        .filter(|record| record.text("verdict") == verdict && !table::is_by_kernel(record))
        .map(|record| record.text("sni"))
        .collect()
}

/// Prints what was seen, and counts what should have been seen and was not.
struct Checks {
    paint: Paint,
    failed: usize,
    made: usize,
}

impl Checks {
    fn new() -> Checks {
        Checks {
            paint: Paint::new(),
            failed: 0,
            made: 0,
        }
    }

    fn heading(&self, words: &str) {
        println!("\n{}", self.paint.bold(words));
    }

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

    fn attempt(&mut self, attempt: Attempt) -> Result<()> {
        let title = attempt.title.clone();
        let outcome = attempt.make()?;
        let words = format!("{title:<33} {}", outcome.words);
        self.note(outcome.as_expected, &words);
        Ok(())
    }

    fn nothing_arrived(&mut self, stage: &Stage) -> Result<()> {
        let (count, _) = stage.arrived(IBM)?;
        self.note(count == 0, &format!("{:<17} {count} connections", IBM.name));
        Ok(())
    }

    fn nothing_left(&mut self, stage: &Stage) -> Result<()> {
        let count = stage.left_the_application()?;
        let words = format!(
            "{:<17} {count} packets of TCP or UDP left the application's host",
            "the wire"
        );
        self.note(count == 0, &words);
        Ok(())
    }

    fn table(&mut self, agent: &[Record], gateway: &[Record]) {
        let pairs = table::pair(agent, gateway);
        match &pairs {
            Some(connections) => println!("{}", table::render(connections, self.paint)),
            None => {
                for record in agent.iter().chain(gateway) {
                    println!("  {record}");
                }
            }
        }
        self.note(
            pairs.is_some(),
            "one record a hop for each connection that it saw, with the same id at both",
        );
    }
}
