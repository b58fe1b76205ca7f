//! What narrows a ServiceEntry: the Sidecars of namespaces, what gateways let in, and policies that
//! may be about it.

use super::super::super::host::Host;
use super::super::kubernetes::{Object, list, word};
use super::super::{File, Output, Place};
use super::{Entry, gather, is_tls};

/// The condition on the server name.
const SNI: &str = "connection.sni";

/// Its Sidecar is the default of the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";

/// What the pods of a namespace can reach.
#[derive(Debug)]
pub(super) struct Sidecar {
    place: Place,
    title: String,
    namespace: String,
    /// Whether it is for some of the pods only.
    for_some: bool,
    /// None reaches everything.
    egress: Option<Vec<Reached>>,
}

/// Hosts of one listener.
#[derive(Debug)]
struct Reached {
    /// A namespace, or `*`.
    namespace: String,
    /// `None` is all hosts of it.
    host: Option<Host>,
    port: Option<String>,
}

impl Sidecar {
    pub(super) fn of(file: &mut File<'_>, object: Object<'_>) -> Sidecar {
        let title = object.title();
        if let Some(value) = object.spec.get("ingress") {
            let why = "it is about connections that come in";
            file.leave_out(value.line(), format!("ingress of {title}"), why);
        }
        if let Some(value) = object.spec.get("outboundTrafficPolicy")
            && word(value, "mode") == Some("ALLOW_ANY")
        {
            let what = format!("outboundTrafficPolicy ALLOW_ANY of {title}");
            file.leave_out(value.line(), what, "it would allow every name");
        }
        let egress = object.spec.get("egress").map(|_| {
            let mut reached = Vec::new();
            for listener in list(object.spec, "egress") {
                let port = listener.get("port").and_then(|port| word(port, "number"));
                for value in list(listener, "hosts") {
                    let reach = reached_by(object, value.word().unwrap_or_default());
                    reached.extend(reach.map(|(namespace, host)| Reached {
                        namespace,
                        host,
                        port: port.map(str::to_owned),
                    }));
                }
            }
            reached
        });
        Sidecar {
            place: file.at(object.line),
            title,
            namespace: object.namespace.to_owned(),
            for_some: object.spec.get("workloadSelector").is_some(),
            egress,
        }
    }

    fn reaches(&self, entry: &Entry, host: &Host) -> bool {
        let Some(egress) = &self.egress else {
            return true;
        };
        entry.ports.iter().all(|port| {
            egress.iter().any(|reached| {
                (reached.namespace == "*" || reached.namespace == entry.namespace)
                    && reached.host.as_ref().is_none_or(|wider| wider.covers(host))
                    && reached.port.as_ref().is_none_or(|only| only == port)
            })
        })
    }

    /// Says what became of it.
    pub(super) fn tell(&self, output: &mut Output) {
        let why = match (self.namespace.as_str(), self.for_some) {
            ("", _) => "it is taken to be for all namespaces, since it names none",
            (_, true) => "what it narrows for some pods is narrowed for their whole namespace",
            (ROOT_NAMESPACE, false) => "it narrows ServiceEntries for namespaces without their own",
            (_, false) => "it narrows ServiceEntries for its namespace",
        };
        output.change(self.place.clone(), self.title.as_str(), why);
    }
}

/// `namespace/host` as a Sidecar writes it; nothing if it is about no host.
fn reached_by(object: Object<'_>, text: &str) -> Option<(String, Option<Host>)> {
    let (namespace, name) = text.split_once('/')?;
    let namespace = match namespace {
        "~" => return None,
        "." => object.namespace,
        other => other,
    };
    let host = match name {
        "*" => None,
        name => Some(Host::parse(name).ok()?),
    };
    Some((namespace.to_owned(), host))
}

/// Who reaches a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    /// Namespaces; `None` is everyone.
    pub(super) allowed: Option<Vec<String>>,
    /// Namespaces among everyone that do not.
    pub(super) denied: Vec<String>,
}

impl Reach {
    /// Who reaches a host of a ServiceEntry.
    pub(super) fn of(sidecars: &[Sidecar], entry: &Entry, host: &Host) -> Reach {
        let in_namespace = |name: &str| {
            let own: Vec<_> = sidecars.iter().filter(|s| s.namespace == name).collect();
            let whole = own.iter().any(|sidecar| !sidecar.for_some);
            let own = own.iter().all(|sidecar| sidecar.reaches(entry, host));
            own && (whole || elsewhere(sidecars, entry, host))
                // One without a namespace may be in this one.
                && in_none(sidecars).all(|sidecar| sidecar.reaches(entry, host))
        };
        if let Some(namespaces) = &entry.exported_to {
            let reaching = namespaces.iter().filter(|name| in_namespace(name));
            return Reach {
                allowed: Some(reaching.cloned().collect()),
                denied: Vec::new(),
            };
        }
        let mut own: Vec<String> = Vec::new();
        for sidecar in sidecars {
            let name = &sidecar.namespace;
            if !name.is_empty() && name != ROOT_NAMESPACE && !own.contains(name) {
                own.push(name.clone());
            }
        }
        let (reaching, denied): (Vec<_>, Vec<_>) =
            own.into_iter().partition(|name| in_namespace(name));
        if elsewhere(sidecars, entry, host) {
            return Reach {
                allowed: None,
                denied,
            };
        }
        Reach {
            allowed: Some(reaching),
            denied: Vec::new(),
        }
    }
}

/// Whether namespaces without a Sidecar reach a host.
fn elsewhere(sidecars: &[Sidecar], entry: &Entry, host: &Host) -> bool {
    let root = sidecars.iter().filter(|s| s.namespace == ROOT_NAMESPACE);
    let mut all = root.chain(in_none(sidecars));
    all.all(|sidecar| sidecar.reaches(entry, host))
}

fn in_none(sidecars: &[Sidecar]) -> impl Iterator<Item = &Sidecar> {
    sidecars
        .iter()
        .filter(|sidecar| sidecar.namespace.is_empty())
}

/// What one server of a gateway lets in.
#[derive(Debug)]
pub(super) struct Gate {
    /// `None` is everything.
    hosts: Option<Vec<Host>>,
}

impl Gate {
    /// The servers of a gateway to the outside.
    pub(super) fn all(file: &mut File<'_>, object: Object<'_>) -> Vec<Gate> {
        let title = object.title();
        let selector = object.spec.get("selector");
        let labels = selector.into_iter().flat_map(|selector| selector.entries());
        let mut labels = labels.filter_map(|(_, value)| value.word());
        if labels.any(|value| value.contains("ingress")) {
            file.leave_out(object.line, title, "it is about connections that come in");
            return Vec::new();
        }
        let mut gates = Vec::new();
        for server in list(object.spec, "servers") {
            let port = server.get("port");
            let field = |key| port.and_then(|port| word(port, key)).unwrap_or_default();
            let what = format!("server on port {} of {title}", field("number"));
            if !is_tls(field("protocol")) {
                file.leave_out(server.line(), what, "only TLS names the server");
                continue;
            }
            let mut hosts = Some(Vec::new());
            for value in list(server, "hosts") {
                // `namespace/name` says whose VirtualServices may use it.
                let text = value.word().unwrap_or_default();
                let name = text.split_once('/').map_or(text, |(_, name)| name);
                match (name, &mut hosts) {
                    ("*", hosts) => *hosts = None,
                    (name, Some(hosts)) => hosts.extend(Host::parse(name)),
                    (_, None) => {}
                }
            }
            let why = "it says what a gateway lets in, and opens nothing by itself";
            file.leave_out(server.line(), what, why);
            gates.push(Gate { hosts });
        }
        gates
    }

    pub(super) fn lets_in(&self, host: &Host) -> bool {
        let hosts = self.hosts.as_ref();
        hosts.is_none_or(|hosts| hosts.iter().any(|wider| wider.covers(host)))
    }
}

/// A policy that may be about connections through an egress gateway, and then about any of them.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) title: String,
}

impl Suspect {
    pub(super) fn of(file: &mut File<'_>, object: Object<'_>) -> Option<Suspect> {
        let title = object.title();
        let mut about_egress = object.namespace.contains("egress");
        gather(object.spec, &mut |_, value| {
            let words = value
                .word()
                .into_iter()
                .chain(value.items().filter_map(|v| v.word()));
            let mut words = words.map(|text| text.contains("egress") || text == SNI);
            about_egress |= words.any(|found| found);
        });
        let why = match about_egress {
            true => "no rule can say it, so what it may narrow is left out",
            false => "it is about connections that come in",
        };
        file.leave_out(object.line, title.as_str(), why);
        about_egress.then_some(Suspect { title })
    }
}
