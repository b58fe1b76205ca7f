//! Istio: a ServiceEntry opens names, for the namespaces that it is exported to. Everything else
//! only narrows that (Sidecar, Gateway, AuthorizationPolicy) or says which way it goes
//! (VirtualService, EnvoyFilter), so nothing is made of it alone. All files are read before any
//! rule is made.

mod narrowing;

use super::super::host::Host;
use super::super::write::Subject;
use super::kubernetes::{Object, list, word};
use super::{File, Output, Place, Proposal};
use crate::document::{self, Mistakes, Value};
use narrowing::{Gate, Reach, Sidecar, Suspect};

/// Names of services inside a cluster.
const CLUSTER: &str = ".cluster.local";

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    entries: Vec<Entry>,
    sidecars: Vec<Sidecar>,
    /// Names on their way through a gateway.
    routed: Vec<Named>,
    gates: Vec<Gate>,
    suspects: Vec<Suspect>,
    /// Names in filters of Envoy.
    filtered: Vec<Named>,
}

/// Hosts of a ServiceEntry.
#[derive(Debug)]
struct Entry {
    place: Place,
    name: String,
    namespace: String,
    hosts: Vec<Host>,
    ports: Vec<String>,
    /// The namespaces that may use it; `None` is all.
    exported_to: Option<Vec<String>>,
}

/// A name that some object is about.
#[derive(Debug)]
struct Named {
    place: Place,
    title: String,
    host: Host,
}

impl Mesh {
    pub(super) fn read(&mut self, file: &mut File<'_>, text: &str) -> Result<(), Mistakes> {
        document::read_foreign(text, file.label, |documents| {
            for object in Object::all(documents, file) {
                match object.kind {
                    "ServiceEntry" => self.service_entry(file, object),
                    "VirtualService" => self.virtual_service(file, object),
                    "Gateway" => self.gates.extend(Gate::all(file, object)),
                    "Sidecar" => self.sidecars.push(Sidecar::of(file, object)),
                    "EnvoyFilter" => self.envoy_filter(file, object),
                    "AuthorizationPolicy" => self.suspects.extend(Suspect::of(file, object)),
                    kind => file.leave_out(object.line, object.title(), why_not(kind)),
                }
            }
            Some(())
        })?;
        Ok(())
    }

    fn service_entry(&mut self, file: &mut File<'_>, object: Object<'_>) {
        let title = object.title();
        if word(object.spec, "location") == Some("MESH_INTERNAL") {
            let why = "it is about a service inside the mesh";
            return file.leave_out(object.line, title, why);
        }
        for (key, why) in [
            ("addresses", "the name decides, not the address"),
            ("endpoints", "the gateway resolves the name itself"),
            ("workloadSelector", "the gateway resolves the name itself"),
            ("subjectAltNames", "the application checks the certificate"),
        ] {
            if let Some(value) = object.spec.get(key) {
                file.change(value.line(), format!("{key} of {title}"), why);
            }
        }
        let ports = ports(file, object);
        if ports.is_empty() {
            return file.leave_out(object.line, title, "it has no port that carries TLS");
        }
        let Some(exported_to) = exported_to(file, object) else {
            return;
        };
        self.entries.push(Entry {
            place: file.at(object.line),
            name: object.name.to_owned(),
            namespace: object.namespace.to_owned(),
            hosts: hosts(file, &list(object.spec, "hosts")),
            ports,
            exported_to,
        });
    }

    fn virtual_service(&mut self, file: &mut File<'_>, object: Object<'_>) {
        let title = object.title();
        for (key, why) in [
            ("http", "what is inside TLS is not read"),
            (
                "tcp",
                "it routes by address and port, and there is no name in it",
            ),
        ] {
            if let Some(value) = object.spec.get(key) {
                file.leave_out(value.line(), format!("{key} routes of {title}"), why);
            }
        }
        for matching in list(object.spec, "tls")
            .into_iter()
            .flat_map(|route| list(route, "match"))
        {
            for value in list(matching, "sniHosts") {
                self.routed.extend(named(file, &title, value));
            }
        }
    }

    /// Names stand in filters where a listener chooses a chain by the server name.
    fn envoy_filter(&mut self, file: &mut File<'_>, object: Object<'_>) {
        let title = object.title();
        let why = "egress reads the server name and dials it without Envoy";
        file.leave_out(object.line, title.as_str(), why);
        let mut names = Vec::new();
        gather(object.spec, &mut |key, value| {
            if matches!(key, "server_names" | "serverNames") {
                names.extend(value.items());
            }
        });
        for value in names {
            self.filtered.extend(named(file, &title, value));
        }
    }

    /// Makes the rules.
    pub(super) fn finish(self, output: &mut Output) {
        for named in self.routed.iter().chain(&self.filtered) {
            let what = format!("host `{}` of {}", named.host, named.title);
            let entry = self.entries.iter().find(|entry| entry.has(&named.host));
            let why = match entry {
                Some(entry) => format!("it says which way; ServiceEntry {} opens it", entry.name),
                None => "no ServiceEntry among the files opens it".to_owned(),
            };
            output.leave_out(named.place.clone(), what, why);
        }
        for sidecar in &self.sidecars {
            sidecar.tell(output);
        }
        for entry in &self.entries {
            self.rules_of(entry, output);
        }
    }

    fn rules_of(&self, entry: &Entry, output: &mut Output) {
        let mut groups: Vec<(Reach, Vec<Host>)> = Vec::new();
        for host in &entry.hosts {
            if let Some(why) = self.closed(host) {
                let what = format!("host `{host}` of ServiceEntry {}", entry.name);
                if !output.widens(entry.place.clone(), what, why) {
                    continue;
                }
            }
            let reach = Reach::of(&self.sidecars, entry, host);
            match groups.iter_mut().find(|(known, _)| *known == reach) {
                Some((_, hosts)) => hosts.push(host.clone()),
                None => groups.push((reach, vec![host.clone()])),
            }
        }
        for (reach, hosts) in groups {
            let Reach { allowed, denied } = reach;
            let names: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            let what = format!("{} of ServiceEntry {}", names.join(", "), entry.name);
            if allowed.as_ref().is_some_and(Vec::is_empty) {
                let why = "no namespace that may use it has a Sidecar that reaches it";
                output.leave_out(entry.place.clone(), what, why);
                continue;
            }
            let from = |namespaces: &[String]| {
                let subjects = namespaces.iter().map(|name| Subject::in_namespace(name));
                subjects.collect::<Vec<_>>()
            };
            if !denied.is_empty() {
                let why = format!(
                    "the Sidecars in {} do not reach it, so it is denied there, and wherever the \
                     namespace is not known",
                    denied.join(", ")
                );
                output.change(entry.place.clone(), what, why);
                let rule = Proposal {
                    name: format!("{}-not-there", entry.name),
                    deny: true,
                    from: from(&denied),
                    hosts: hosts.clone(),
                    ports: entry.ports.clone(),
                };
                output.add(&entry.place, rule);
            }
            let rule = Proposal {
                name: entry.name.clone(),
                deny: false,
                from: allowed.as_deref().map(from).unwrap_or_default(),
                hosts,
                ports: entry.ports.clone(),
            };
            output.add(&entry.place, rule);
        }
    }

    /// Why a host of a ServiceEntry may not be reached after all.
    fn closed(&self, host: &Host) -> Option<String> {
        let meets = |named: &&Named| named.host.covers(host) || host.covers(&named.host);
        let routed = self.routed.iter().find(meets);
        let open = self.gates.iter().any(|gate| gate.lets_in(host));
        if let Some(routed) = routed
            && !self.gates.is_empty()
            && !open
        {
            return Some(format!(
                "{} may send it through a Gateway, and none lets all of it in",
                routed.title
            ));
        }
        let suspect = self.suspects.first();
        suspect.map(|suspect| format!("{} may narrow it, and no rule can say how", suspect.title))
    }
}

impl Entry {
    fn has(&self, host: &Host) -> bool {
        self.hosts.iter().any(|wider| wider.covers(host))
    }
}

/// Why objects of a kind have no counterpart.
fn why_not(kind: &str) -> &'static str {
    match kind {
        "DestinationRule" => "agent and gateway have mTLS of their own",
        "Telemetry" => "every connection is recorded anyway",
        "Service" | "Deployment" | "ServiceAccount" | "Pod" => {
            "it runs a gateway, which `egress gateway` replaces"
        }
        "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
            "it lets a gateway read secrets, which `egress gateway` does not"
        }
        "NetworkPolicy" => "it is about addresses; keep it beside egress",
        "PeerAuthentication" | "RequestAuthentication" => "it is about connections that come in",
        _ => "it names no outside host",
    }
}

/// The ports that carry TLS.
fn ports(file: &mut File<'_>, object: Object<'_>) -> Vec<String> {
    let title = object.title();
    let mut ports = Vec::new();
    for port in list(object.spec, "ports") {
        let number = word(port, "number").unwrap_or_default();
        let protocol = word(port, "protocol").unwrap_or_default();
        let what = format!("port {number} ({protocol}) of {title}");
        if !is_tls(protocol) {
            file.leave_out(port.line(), what, "only TLS names the server");
            continue;
        }
        if word(port, "targetPort").is_some_and(|target| target != number) {
            let why = "its targetPort is left out: the application's port is dialled";
            file.change(port.line(), what, why);
        }
        ports.push(number.to_owned());
    }
    ports
}

/// Those that may use an object, `Some(None)` for all; `None` if nobody may, or nobody knows who.
fn exported_to(file: &mut File<'_>, object: Object<'_>) -> Option<Option<Vec<String>>> {
    let listed = list(object.spec, "exportTo");
    if listed.is_empty() || listed.iter().any(|value| value.word() == Some("*")) {
        return Some(None);
    }
    let mut namespaces = Vec::new();
    for namespace in listed {
        match namespace.word() {
            Some(".") if object.namespace.is_empty() => {
                let why = "it is for its own namespace, and names none";
                file.leave_out(
                    namespace.line(),
                    format!("exportTo of {}", object.title()),
                    why,
                );
            }
            Some(".") => namespaces.push(object.namespace.to_owned()),
            // Nobody.
            Some("~") | None => {}
            Some(other) => namespaces.push(other.to_owned()),
        }
    }
    if namespaces.is_empty() {
        file.leave_out(
            object.line,
            object.title(),
            "it is exported to no namespace",
        );
        return None;
    }
    Some(Some(namespaces))
}

fn hosts(file: &mut File<'_>, values: &[Value<'_>]) -> Vec<Host> {
    let hosts = values.iter().filter_map(|value| outside(file, *value));
    hosts.collect()
}

fn named(file: &mut File<'_>, title: &str, value: Value<'_>) -> Option<Named> {
    Some(Named {
        host: outside(file, value)?,
        place: file.at(value.line()),
        title: title.to_owned(),
    })
}

/// A host that is not inside the cluster.
fn outside(file: &mut File<'_>, value: Value<'_>) -> Option<Host> {
    let Some(name) = value.word() else {
        file.leave_out(value.line(), "a host", "it is no text");
        return None;
    };
    if name.ends_with(CLUSTER) {
        file.leave_out(
            value.line(),
            format!("host `{name}`"),
            "it is inside the cluster",
        );
        return None;
    }
    file.host(value.line(), name)
}

fn gather<'d>(value: Value<'d>, found: &mut impl FnMut(&str, Value<'d>)) {
    for (key, value) in value.entries() {
        found(key, value);
        gather(value, found);
    }
    for value in value.items() {
        gather(value, found);
    }
}

fn is_tls(protocol: &str) -> bool {
    matches!(protocol.to_ascii_uppercase().as_str(), "TLS" | "HTTPS")
}
