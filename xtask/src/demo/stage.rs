//! The stage: hosts, name server and origins, and what stands ready to be played with.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use egress_lab::deployment::{Setup, TUNNEL_PORT, init_pki};
use egress_lab::wire::{TCP, UDP};
use egress_lab::{Authority, Cgroup, Deployment, Lab, Names, Origins, Site, Wire};

use super::attempt::Application;
use super::paint::Paint;

pub(crate) const EN: Site = Site::new("en.wikipedia.org", 10);
pub(crate) const DE: Site = Site::new("de.wikipedia.org", 20);
pub(crate) const IBM: Site = Site::new("cloud.ibm.com", 30);

pub(crate) const POLICY: &str = r#"version: 1
rules:
  - name: wikipedia
    hosts: ["*.wikipedia.org"]
"#;

// What is used is dropped before what it uses: the order of the fields matters.
pub(crate) struct Stage {
    origins: Origins,
    _names: Names,
    cgroup: Cgroup,
    wire: Wire,
    authority: Authority,
    pub(crate) lab: Lab,
    program: PathBuf,
    pki: PathBuf,
}

impl Stage {
    /// Makes the hosts and starts everything but agent and gateway.
    ///
    /// # Errors
    ///
    /// Fails when something is missing or does not start.
    pub(crate) fn set(program: &Path) -> Result<Stage> {
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
        let pki = lab.directory().join("pki");
        init_pki(program, &pki)?;
        Ok(Stage {
            origins,
            _names: names,
            cgroup: Cgroup::new()?,
            wire,
            authority,
            lab,
            program: program.to_owned(),
            pki,
        })
    }

    /// Says who is where.
    pub(crate) fn introduce(&self, paint: Paint) {
        let sites = [EN, DE, IBM].map(|site| site.name).join(", ");
        let internet = format!("nginx for {sites}; dnsmasq");
        let Lab {
            app, node, gateway, ..
        } = &self.lab;
        println!(
            "{}",
            paint.bold("Four hosts, each a network namespace of its own")
        );
        for (host, address, runs) in [
            ("app", app.v4.to_string(), "curl, captured by its cgroup"),
            ("node", node.v4.to_string(), "egress agent"),
            ("gateway", gateway.v4.to_string(), "egress gateway"),
            ("internet", Lab::ORIGINS_V4.to_owned(), internet.as_str()),
        ] {
            println!("  {host:<9} {address:<15} {runs}");
        }
    }

    /// Starts gateway and agent, the latter with a policy that may differ.
    ///
    /// # Errors
    ///
    /// Fails when either does not start.
    pub(crate) fn deploy(&self, agent_policy: &str) -> Result<Deployment> {
        let setup = Setup {
            program: &self.program,
            agent_policy,
            gateway_policy: POLICY,
            agent_identity: &self.pki,
            gateway_identity: &self.pki,
            bundle: &self.pki.join("ca.pem"),
            crl: None,
            workload_api: None,
            agent_descriptors: None,
            gateway_descriptors: None,
            gateway: &[],
            agent_answers: "/readyz",
            drain: "10s",
            agent: &[],
            capture: &[],
            gateways: &[TUNNEL_PORT],
            gateway_zones: &[],
            gateway_names: &[],
        };
        Deployment::start(&self.lab, &self.cgroup, &setup)
    }

    /// The application, which tries things.
    pub(crate) fn application(&self) -> Application<'_> {
        Application {
            lab: &self.lab,
            cgroup: &self.cgroup,
            authority: &self.authority,
        }
    }

    /// How many TCP connections have arrived at a site, and whether all came from the gateway.
    ///
    /// # Errors
    ///
    /// Fails when the origin does not answer.
    pub(crate) fn arrived(&self, site: Site) -> Result<(usize, bool)> {
        let gateway = self.lab.gateway.addresses();
        let arrived = self.origins.arrived(&self.lab, site.name)?;
        let from_gateway = arrived
            .iter()
            .all(|arrival| gateway.contains(&arrival.client.ip()));
        Ok((arrived.len(), from_gateway))
    }

    /// How many packets of TCP and UDP have left the application's host.
    ///
    /// # Errors
    ///
    /// Fails when the watcher missed some.
    pub(crate) fn left_the_application(&self) -> Result<u64> {
        let seen = self.wire.seen(&self.lab.app)?;
        Ok(seen
            .iter()
            .filter(|(target, _)| matches!(target.protocol, TCP | UDP))
            .map(|(_, count)| count.packets)
            .sum())
    }
}
