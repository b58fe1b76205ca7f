//! One lab with everything in it, and what can be asked of it afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use egress_lab::deployment::{Hop, Record, Setup, TUNNEL_PORT, init_pki};
use egress_lab::names::Lasting;
use egress_lab::wire::{TCP, Target, UDP};
use egress_lab::{
    Authority, Cgroup, Deployment, Host, Lab, Names, Origins, Site, Wire, tools, wait,
};

use crate::certificates::Ca;
use crate::workload_api::WorkloadApis;

pub(crate) const EN: Site = Site::new("en.wikipedia.org", 10);
pub(crate) const DE: Site = Site::new("de.wikipedia.org", 20);
pub(crate) const IBM: Site = Site::new("cloud.ibm.com", 30);

/// Names and addresses of which the test's own listeners, or nobody, take care.
pub(crate) const RAW: Site = Site::new("raw.wikipedia.org", 40);
pub(crate) const DOWN: Site = Site::new("down.wikipedia.org", 90);
pub(crate) const LOOPBACK: (&str, Ipv4Addr) = ("loopback.wikipedia.org", Ipv4Addr::LOCALHOST);
pub(crate) const METADATA: (&str, Ipv4Addr) =
    ("metadata.wikipedia.org", Ipv4Addr::new(169, 254, 169, 254));

pub(crate) const WIKIPEDIA: &str = r#"
version: 1
rules:
  - name: wikipedia
    hosts: ["*.wikipedia.org"]
"#;

pub(crate) const WIKIPEDIA_AND_IBM: &str = r#"
version: 1
rules:
  - name: wikipedia
    hosts: ["*.wikipedia.org"]
  - name: ibm
    hosts: [cloud.ibm.com]
"#;

pub(crate) fn egress() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_egress"))
}

/// What a test wants otherwise than most.
pub(crate) struct Wish<'a> {
    pub(crate) agent_policy: &'a str,
    pub(crate) gateway_policy: &'a str,
    pub(crate) agent_identity: Identity,
    pub(crate) gateway_identity: Identity,
    /// Whether both read a revocation list, which is empty at first.
    pub(crate) crl: bool,
    /// Whether both have their certificates from a Workload API.
    pub(crate) workload_api: bool,
    pub(crate) agent_answers: &'a str,
    pub(crate) drain: &'a str,
    /// More lines for the agent's configuration.
    pub(crate) agent: &'a [&'a str],
    pub(crate) capture: &'a [&'a str],
    /// The most files that the agent may open.
    pub(crate) agent_descriptors: Option<u64>,
    /// The most files that the gateway may open.
    pub(crate) gateway_descriptors: Option<u64>,
    /// More lines for the gateway's configuration.
    pub(crate) gateway: &'a [&'a str],
    pub(crate) gateways: &'a [u16],
    /// The zones of these.
    pub(crate) gateway_zones: &'a [&'a str],
    /// The names of their host.
    pub(crate) gateway_names: &'a [&'a str],
    /// More names for the name server, which may be led elsewhere later.
    pub(crate) names: &'a [(&'a str, Ipv4Addr)],
    /// And such that keep their address for so many seconds.
    pub(crate) lasting: &'a [Lasting<'a>],
}

/// Whose authority signed a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Identity {
    /// The one that both processes trust.
    Own,
    /// Another one, made in the same way.
    Foreign,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Wish {
            agent_policy: WIKIPEDIA,
            gateway_policy: WIKIPEDIA,
            agent_identity: Identity::Own,
            gateway_identity: Identity::Own,
            crl: false,
            workload_api: false,
            agent_answers: "/readyz",
            drain: "60s",
            agent: &[],
            capture: &[],
            agent_descriptors: None,
            gateway_descriptors: None,
            gateway: &[],
            gateways: &[TUNNEL_PORT],
            gateway_zones: &[],
            gateway_names: &[],
            names: &[],
            lasting: &[],
        }
    }
}

// What is used is dropped before what it uses: the order of the fields matters.
pub(crate) struct World {
    pub(crate) workload_apis: Option<WorkloadApis>,
    pub(crate) deployment: Deployment,
    pub(crate) origins: Origins,
    pub(crate) names: Names,
    pub(crate) cgroup: Cgroup,
    app_wire: Wire,
    gateway_wire: Wire,
    pub(crate) authority: Authority,
    pub(crate) lab: Lab,
}

/// Every record of both hops and of the kernel, complete.
pub(crate) struct Records {
    pub(crate) agent: Vec<Record>,
    pub(crate) kernel: Vec<Record>,
    pub(crate) gateway: Vec<Record>,
    /// The gateway's, of those who left in the handshake. An agent that ends may be one of them: it
    /// gives up the tunnel that it is about to warm.
    pub(crate) left: Vec<Record>,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(&Wish::default())
    }

    pub(crate) fn with(wish: &Wish<'_>) -> World {
        let lab = Lab::new().unwrap();
        let authority = Authority::new(lab.directory()).unwrap();
        let app_wire = Wire::watch(&lab, &lab.app).unwrap();
        let gateway_wire = Wire::watch(&lab, &lab.gateway).unwrap();
        let mut names = Names::with(&lab, &records(), wish.lasting).unwrap();
        for (name, address) in wish.names {
            names.lead(name, &[(*address).into()]).unwrap();
        }
        let origins = Origins::start(&lab, &authority, &[EN, DE, IBM]).unwrap();
        let cgroup = Cgroup::new().unwrap();
        make_pki(&lab);
        let pki = lab.directory().join("pki");
        let workload_apis = wish.workload_api.then(|| WorkloadApis::serve(&pki));
        let deployment = deploy(&lab, &cgroup, wish);
        World {
            workload_apis,
            deployment,
            origins,
            names,
            cgroup,
            app_wire,
            gateway_wire,
            authority,
            lab,
        }
    }

    /// The files of the authority that signed the certificates of both processes.
    pub(crate) fn pki(&self) -> PathBuf {
        self.lab.directory().join("pki")
    }

    /// A command that will run captured: in the application's namespace and cgroup.
    pub(crate) fn captured(&self, program: &str) -> Command {
        let mut command = self.uncaptured(program);
        self.cgroup.enter(&mut command).unwrap();
        command
    }

    /// A command that will run next to the captured ones, in the same namespace.
    pub(crate) fn uncaptured(&self, program: &str) -> Command {
        let mut command = tools::locate(program).unwrap().command();
        self.lab.app.namespace.enter(&mut command).unwrap();
        command
    }

    /// Not one TCP connection, not even an unfinished one, has come to the site, and the gateway
    /// has sent nothing towards it.
    pub(crate) fn assert_nothing_arrived(&self, site: Site) {
        let arrived = self.origins.arrived(&self.lab, site.name).unwrap();
        assert_eq!(arrived, [], "connections arrived at {}", site.name);
        for address in site.addresses() {
            self.assert_gateway_sent_nothing_to(address);
        }
    }

    pub(crate) fn assert_gateway_sent_nothing_to(&self, address: IpAddr) {
        let sent = self.gateway_wire.sent_to(&self.lab.gateway, address);
        assert_eq!(sent.unwrap(), [], "the gateway sent packets to {address}");
    }

    /// Waits until the gateway has begun to connect to the address.
    pub(crate) fn gateway_dials(&self, address: IpAddr) {
        wait::until("the gateway dials", || {
            let sent = self.gateway_wire.sent_to(&self.lab.gateway, address).ok()?;
            sent.iter().any(|(_, count)| count.syns > 0).then_some(())
        })
        .unwrap();
    }

    pub(crate) fn assert_no_name_was_asked_for(&self) {
        let queries = self.names.queries();
        assert!(queries.is_empty(), "{queries:?}");
    }

    /// Nothing of any protocol has left the application's namespace for the site.
    pub(crate) fn assert_application_sent_nothing_to(&self, site: Site) {
        for address in site.addresses() {
            let sent = self.app_wire.sent_to(&self.lab.app, address).unwrap();
            assert_eq!(sent, [], "the application sent packets to {address}");
        }
    }

    /// TCP and UDP that has left the application's namespace, wherever to.
    pub(crate) fn application_sent(&self) -> Vec<Target> {
        sent(&self.app_wire, &self.lab.app)
    }

    /// Ends the deployment in good order and gives all its records. By then nothing at all must
    /// have left the application's namespace.
    pub(crate) fn finish(mut self) -> Records {
        self.deployment.finish().unwrap();
        assert_eq!(self.application_sent(), []);
        let node = self.deployment.records(Hop::Agent).unwrap();
        let (kernel, agent) = node
            .into_iter()
            .partition(|record| record.text("hop") == "kernel");
        let gateway = self.deployment.records(Hop::Gateway).unwrap();
        let (left, gateway) = gateway.into_iter().partition(is_left);
        Records {
            agent,
            kernel,
            gateway,
            left,
        }
    }
}

impl Records {
    /// The only record of each hop, of one and the same connection.
    pub(crate) fn one_each(&self) -> (&Record, &Record) {
        let ([agent], [gateway]) = (&self.agent[..], &self.gateway[..]) else {
            panic!(
                "one record a hop, not {:?} and {:?}",
                self.agent, self.gateway
            );
        };
        assert_eq!(agent.text("hop"), "agent");
        assert_eq!(gateway.text("hop"), "gateway");
        assert_eq!(agent.text("connection"), gateway.text("connection"));
        assert!(!agent.text("connection").is_empty());
        (agent, gateway)
    }

    /// The only record: the gateway never heard of the connection.
    pub(crate) fn agent_alone(&self) -> &Record {
        let ([agent], []) = (&self.agent[..], &self.gateway[..]) else {
            panic!(
                "one record at the agent, not {:?} and {:?}",
                self.agent, self.gateway
            );
        };
        agent
    }
}

/// Of somebody who left in the handshake.
pub(crate) fn is_left(record: &Record) -> bool {
    record.text("reason") == "handshake_broken_off"
}

/// TCP and UDP that has left a host.
pub(crate) fn sent(wire: &Wire, host: &Host) -> Vec<Target> {
    let seen = wire.seen(host).unwrap();
    let targets = seen.into_keys();
    targets
        .filter(|target| matches!(target.protocol, TCP | UDP))
        .collect()
}

/// The authority that both processes trust, and another one.
const PKIS: [&str; 2] = ["pki", "foreign-pki"];

fn make_pki(lab: &Lab) {
    for name in PKIS {
        init_pki(egress(), &lab.directory().join(name)).unwrap();
    }
}

fn deploy(lab: &Lab, cgroup: &Cgroup, wish: &Wish<'_>) -> Deployment {
    let [own, foreign] = PKIS.map(|name| lab.directory().join(name));
    let directory = |identity| match identity {
        Identity::Own => own.as_path(),
        Identity::Foreign => foreign.as_path(),
    };
    let crl = wish.crl.then(|| own.join("crl.pem"));
    if let Some(crl) = &crl {
        Ca::of(&own).revoke(&[], crl);
    }
    let setup = Setup {
        program: egress(),
        agent_policy: wish.agent_policy,
        gateway_policy: wish.gateway_policy,
        agent_identity: directory(wish.agent_identity),
        gateway_identity: directory(wish.gateway_identity),
        bundle: &own.join("ca.pem"),
        crl: crl.as_deref(),
        workload_api: wish.workload_api.then_some(own.as_path()),
        agent_answers: wish.agent_answers,
        drain: wish.drain,
        agent: wish.agent,
        capture: wish.capture,
        agent_descriptors: wish.agent_descriptors,
        gateway_descriptors: wish.gateway_descriptors,
        gateway: wish.gateway,
        gateways: wish.gateways,
        gateway_zones: wish.gateway_zones,
        gateway_names: wish.gateway_names,
    };
    Deployment::start(lab, cgroup, &setup).unwrap()
}

/// One address a name, so that the gateway never has a choice and nothing depends on which of two
/// connects sooner.
fn records() -> Vec<(&'static str, Vec<IpAddr>)> {
    vec![
        (EN.name, vec![EN.v4.into()]),
        (DE.name, vec![DE.v6.into()]),
        (IBM.name, vec![IBM.v4.into()]),
        (RAW.name, vec![RAW.v4.into()]),
        (DOWN.name, vec![DOWN.v4.into()]),
        (LOOPBACK.0, vec![LOOPBACK.1.into()]),
        (METADATA.0, vec![METADATA.1.into()]),
    ]
}
