use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::hello::ServerName;
use crate::policy::{Policy, Request, Verdict};
use crate::workload::Workload;

fn imported(origin: Origin, text: &str) -> Imported {
    with(origin, Options::default(), text)
}

fn with(origin: Origin, options: Options, text: &str) -> Imported {
    let mut importer = Importer::new(origin, options);
    importer.read(text, "file").unwrap();
    importer.finish()
}

/// The rules in short: name, what it does, whom for, hosts, ports.
fn rules(imported: &Imported) -> Vec<String> {
    let rules = imported.rules.iter().map(|rule| {
        let hosts: Vec<_> = rule.hosts.iter().map(|host| host.host.as_str()).collect();
        let from = rule.from.iter().map(|subject| {
            let names = [&subject.namespace, &subject.service_account];
            let names: Vec<_> = names.into_iter().flatten().map(String::as_str).collect();
            names.join("/")
        });
        let from = from.collect::<Vec<_>>().join("+");
        let deny = if rule.deny { "deny " } else { "" };
        format!(
            "{} {deny}[{from}] {} {}",
            rule.name,
            hosts.join(","),
            rule.ports.join(",")
        )
    });
    // What is written can be read.
    let loaded = Policy::parse(&imported.to_string(), "p");
    assert!(loaded.is_ok(), "{imported}");
    rules.collect()
}

/// Line and reason of everything that is noted about some word.
fn notes(notes: &[Note], word: &str) -> Vec<(u32, String)> {
    let found = notes.iter().filter(|note| note.what.contains(word));
    found
        .map(|note| (note.place.line, note.why.clone()))
        .collect()
}

#[test]
fn istio_the_seven_objects_of_a_wildcard_gateway() {
    let text = include_str!("../../../tests/policy/wildcard_gateway.yaml");
    let imported = imported(Origin::Istio, text);
    assert_eq!(rules(&imported), ["wildcard [] *.wikipedia.org 443"]);
    assert_eq!(imported.changed, []);
    // Every object but the ServiceEntry is accounted for.
    for object in [
        "Service egressgateway",
        "Deployment istio-egressgateway",
        "Role istio-egressgateway-sds",
        "RoleBinding istio-egressgateway-sds",
        "Gateway egressgateway",
        "VirtualService direct-wildcard-through-egress-gateway",
        "DestinationRule egressgateway",
        "Telemetry mesh-default",
        "EnvoyFilter sni-magic",
    ] {
        assert!(
            !notes(&imported.not_carried_over, object).is_empty(),
            "{object}"
        );
    }
}

/// A ServiceEntry in namespace `egress` with `more` below its spec.
fn entry(name: &str, hosts: &str, more: &str) -> String {
    format!(
        "---\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shared}}\nspec:\n  \
         hosts: [{hosts}]\n  ports: [{{number: 443, protocol: TLS}}]\n  {more}\n"
    )
}

fn sidecar(namespace: &str, rest: &str) -> String {
    format!(
        "---\nkind: Sidecar\nmetadata: {{name: default, namespace: {namespace}}}\n\
         spec: {{{rest}}}\n"
    )
}

#[test]
fn istio_what_a_service_entry_opens() {
    let text = "kind: ServiceEntry
metadata: {name: some, namespace: web}
spec:
  hosts: [a.org, '*.b.org', reviews.prod.svc.cluster.local, '*', up*.org]
  exportTo: ['.', batch]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
  ports:
  - {number: 443, protocol: HTTPS, targetPort: 8443}
  - {number: 8443, protocol: tls}
  - {number: 80, protocol: HTTP}
";
    let imported = imported(Origin::Istio, text);
    assert_eq!(
        rules(&imported),
        ["some [web+batch] a.org,*.b.org 443,8443"]
    );
    let left_out = &imported.not_carried_over;
    assert_eq!(
        notes(left_out, "port 80"),
        [(12, "only TLS names the server".to_owned())]
    );
    for host in ["cluster.local", "host `*`", "up*.org"] {
        assert_eq!(notes(left_out, host).len(), 1, "{host}");
        assert_eq!(notes(left_out, host)[0].0, 4);
    }
    assert_eq!(notes(&imported.changed, "endpoints").len(), 1);
    assert_eq!(notes(&imported.changed, "port 443").len(), 1);
}

#[test]
fn istio_what_opens_nothing() {
    for more in [
        "location: MESH_INTERNAL",
        "exportTo: ['~']",
        "ports: [{number: 443, protocol: TCP}]",
    ] {
        let text = entry("e", "a.org", more).replacen(
            "ports: [{number: 443, protocol: TLS}]\n",
            "x: y\n",
            usize::from(more.starts_with("ports")),
        );
        let imported = imported(Origin::Istio, &text);
        assert_eq!(rules(&imported), [""; 0], "{more}");
        assert_eq!(
            notes(&imported.not_carried_over, "ServiceEntry e")
                .len()
                .min(1),
            1
        );
    }
    let alone = "kind: VirtualService\nmetadata: {name: v}\nspec:\n  tls:\n  - match:\n    \
                 - {sniHosts: [a.org, '*.b.org']}\n";
    let imported = imported(Origin::Istio, alone);
    assert_eq!(rules(&imported), [""; 0]);
    let why = "no ServiceEntry among the files opens it".to_owned();
    assert_eq!(
        notes(&imported.not_carried_over, "VirtualService v"),
        [(6, why.clone()), (6, why)]
    );
}

#[test]
fn istio_sidecars_narrow() {
    let entries = entry("wiki", "'*.wikipedia.org'", "") + &entry("a", "a.org", "");
    let of = |sidecars: &str| {
        let imported = imported(Origin::Istio, &(entries.clone() + sidecars));
        rules(&imported)
    };
    let both = ["wiki [] *.wikipedia.org 443", "a [] a.org 443"];
    assert_eq!(of(""), both);
    assert_eq!(of(&sidecar("web", "")), both);
    assert_eq!(of(&sidecar("web", "egress: [{hosts: ['*/*']}]")), both);
    assert_eq!(of(&sidecar("web", "egress: [{hosts: ['shared/*']}]")), both);
    // Not reached from one namespace: denied there.
    assert_eq!(
        of(&sidecar(
            "web",
            "egress: [{hosts: ['shared/a.org', './*']}]"
        )),
        [
            "wiki-not-there deny [web] *.wikipedia.org 443",
            "wiki [] *.wikipedia.org 443",
            "a [] a.org 443",
        ]
    );
    // A part of a wildcard is not the wildcard.
    let narrower = sidecar(
        "web",
        "egress: [{hosts: ['*/en.wikipedia.org', '*/a.org']}]",
    );
    assert_eq!(
        of(&narrower)[0],
        "wiki-not-there deny [web] *.wikipedia.org 443"
    );
    // The default of the mesh, and a namespace that reaches more.
    let root = sidecar("istio-system", "egress: [{hosts: ['*/a.org']}]");
    assert_eq!(of(&root), ["a [] a.org 443"]);
    let more = root + &sidecar("web", "egress: [{hosts: ['*/*.wikipedia.org']}]");
    assert_eq!(
        of(&more),
        [
            "wiki [web] *.wikipedia.org 443",
            "a-not-there deny [web] a.org 443",
            "a [] a.org 443",
        ]
    );
    // For some pods is for all; another port is not this one.
    let some = sidecar(
        "web",
        "workloadSelector: {labels: {app: x}}, egress: [{hosts: ['~/*']}]",
    );
    assert_eq!(
        of(&some)
            .iter()
            .filter(|rule| rule.contains("deny [web]"))
            .count(),
        2
    );
    let port = sidecar("web", "egress: [{port: {number: 8443}, hosts: ['*/*']}]");
    assert_eq!(
        of(&port)
            .iter()
            .filter(|rule| rule.contains("deny [web]"))
            .count(),
        2
    );
    // Exported to some: no denial is needed.
    let exported = entry("a", "a.org", "exportTo: [web, batch]");
    let narrowed = exported + &sidecar("web", "egress: [{hosts: ['*/b.org']}]");
    assert_eq!(
        rules(&imported(Origin::Istio, &narrowed)),
        ["a [batch] a.org 443"]
    );
}

#[test]
fn istio_gateways_and_policies_narrow() {
    let route = "---\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  tls:\n  - match:\n    \
                 - {sniHosts: ['*.b.org']}\n";
    let gate = |hosts: &str| {
        format!(
            "---\nkind: Gateway\nmetadata: {{name: g}}\nspec:\n  selector: {{istio: egressgateway}}\n  \
             servers: [{{port: {{number: 8443, protocol: TLS}}, hosts: [{hosts}]}}]\n"
        )
    };
    let entries = entry("e", "a.org, '*.b.org'", "");
    let of = |text: String| rules(&imported(Origin::Istio, &text));
    let whole = ["e [] a.org,*.b.org 443"];
    assert_eq!(of(entries.clone() + route), whole);
    assert_eq!(of(entries.clone() + &gate("x.b.org")), whole);
    for open in ["'*'", "'web/*'", "'*.b.org'", "'./*.org'"] {
        assert_eq!(of(entries.clone() + route + &gate(open)), whole, "{open}");
    }
    assert_eq!(
        of(entries.clone() + route + &gate("x.b.org")),
        ["e [] a.org 443"]
    );
    let ingress = gate("x.b.org").replace("egressgateway", "ingressgateway");
    assert_eq!(of(entries.clone() + route + &ingress), whole);

    let policy = "---\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: istio-system}\n\
                  spec:\n  action: DENY\n  rules: [{when: [{key: connection.sni, values: [a.org]}]}]\n";
    assert_eq!(of(entries.clone() + policy), [""; 0]);
    let inbound = policy.replace("connection.sni", "request.host");
    assert_eq!(of(entries.clone() + &inbound), whole);
    let widen = Options { widen: true };
    let widened = with(Origin::Istio, widen, &(entries + policy));
    assert_eq!(rules(&widened), whole);
    assert_eq!(widened.widened.len(), 2);
}

/// An egress rule of a policy for a service account of namespace `web`.
fn cilium(egress: &str) -> String {
    format!(
        "kind: CiliumNetworkPolicy\nmetadata: {{name: c, namespace: web}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{io.cilium.k8s.policy.serviceaccount: crawler}}}}\n  \
         egress:\n  - {egress}\n"
    )
}

#[test]
fn cilium_names() {
    let of = |egress: &str| rules(&imported(Origin::Cilium, &cilium(egress)));
    let ports = "toPorts: [{ports: [{port: '443', protocol: TCP}, {port: '8000', endPort: 8100}, \
                 {port: '53', protocol: UDP}, {port: https}]}]";
    assert_eq!(
        of("{toFQDNs: [{matchName: A.org}]}"),
        ["c [web/crawler] a.org 443"]
    );
    assert_eq!(
        of(&format!(
            "{{toFQDNs: [{{matchPattern: '**.b.org'}}], {ports}}}"
        )),
        ["c [web/crawler] *.b.org 443,8000-8100"]
    );
    assert_eq!(
        of("{toEntities: [world], toPorts: [{ports: [{port: '443'}], serverNames: [a.org]}]}"),
        ["c [web/crawler] a.org 443"]
    );
    assert_eq!(
        of("{toFQDNs: [{matchPattern: '**.b.org'}], toPorts: [{serverNames: [x.b.org, a.org]}]}"),
        ["c [web/crawler] x.b.org 443"]
    );
}

#[test]
fn cilium_what_would_allow_more_is_left_out() {
    for egress in [
        // One label there, any depth here.
        "{toFQDNs: [{matchPattern: '*.b.org'}]}",
        "{toFQDNs: [{matchPattern: '*'}]}",
        "{toFQDNs: [{matchPattern: 'a*.b.org'}]}",
        "{toFQDNs: [{matchName: a.org}], authentication: {mode: required}}",
        "{toFQDNs: [{matchName: a.org}], icmps: []}",
        "{toFQDNs: [{matchName: a.org}], toPorts: [{rules: {http: [{path: /}]}}]}",
        "{toFQDNs: [{matchName: a.org}], toPorts: [{ports: [{port: '443', protocol: UDP}]}]}",
        "{toFQDNs: [{matchName: a.org}], toPorts: [{terminatingTLS: {}}]}",
        "{toCIDR: [192.0.2.0/24], toPorts: [{serverNames: [a.org]}]}",
        "{toEntities: [cluster], toPorts: [{serverNames: [a.org]}]}",
        "{toEndpoints: [{}], toPorts: [{serverNames: [a.org]}]}",
        "{toEntities: [world]}",
        "{toPorts: [{ports: [{port: '443'}]}]}",
        "{toFQDNs: [{}]}",
    ] {
        let imported = imported(Origin::Cilium, &cilium(egress));
        assert_eq!(rules(&imported), [""; 0], "{egress}");
        let notes = imported.not_carried_over.len() + imported.changed.len();
        assert!(notes > 0, "{egress}");
    }
    let widen = Options { widen: true };
    let widened = with(
        Origin::Cilium,
        widen,
        &cilium("{toFQDNs: [{matchPattern: '*.b.org'}]}"),
    );
    assert_eq!(rules(&widened), ["c [web/crawler] *.b.org 443"]);
    assert!(
        widened
            .to_string()
            .contains("# Allows more than it did there:\n#   file:6: `*.b.org`")
    );
}

#[test]
fn cilium_whom_a_policy_is_for() {
    let policy = |kind: &str, metadata: &str, spec: &str| {
        format!(
            "kind: {kind}\nmetadata: {{name: c{metadata}}}\nspec:\n  \
             egress: [{{toFQDNs: [{{matchName: a.org}}]}}]\n  {spec}\n"
        )
    };
    let labels = |labels: &str| format!("endpointSelector: {{matchLabels: {{{labels}}}}}");
    let (own, wide) = ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy");
    let of = |text: &str| rules(&imported(Origin::Cilium, text));
    let web = ", namespace: web";
    assert_eq!(
        of(&policy(own, web, "endpointSelector: {}")),
        ["c [web] a.org 443"]
    );
    assert_eq!(
        of(&policy(wide, "", "endpointSelector: {}")),
        ["c [] a.org 443"]
    );
    let namespace = labels("'k8s:io.kubernetes.pod.namespace': batch");
    assert_eq!(of(&policy(wide, "", &namespace)), ["c [batch] a.org 443"]);
    assert_eq!(of(&policy(own, web, &namespace)), [""; 0]);
    assert_eq!(of(&policy(own, "", "endpointSelector: {}")), [""; 0]);
    assert_eq!(of(&policy(own, web, &labels("app: x"))), [""; 0]);
    let expressions = "endpointSelector: {matchExpressions: [{key: app, operator: Exists}]}";
    assert_eq!(of(&policy(own, web, expressions)), [""; 0]);
    assert_eq!(of(&policy(own, web, "nodeSelector: {}")), [""; 0]);
    assert_eq!(
        of(&policy(own, ", namespace: 'a b'", "endpointSelector: {}")),
        [""; 0]
    );
    let widened = with(
        Origin::Cilium,
        Options { widen: true },
        &policy(own, web, &labels("app: x")),
    );
    assert_eq!(rules(&widened), ["c [web] a.org 443"]);
    assert_eq!(widened.widened.len(), 1);
    let specs = "kind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: web}\nspecs:\n\
                 - egress: [{toFQDNs: [{matchName: a.org}]}]\n- egress: [{toFQDNs: [{matchName: b.org}]}]\n";
    assert_eq!(of(specs), ["c [web] a.org 443", "c-2 [web] b.org 443"]);
    let list = format!(
        "kind: List\nitems:\n- {}",
        policy(wide, "", "endpointSelector: {}")
            .trim_end()
            .replace('\n', "\n  ")
    );
    assert_eq!(of(&list), ["c [] a.org 443"]);
}

#[test]
fn cilium_denials_close() {
    let of = |deny: &str| {
        let text = format!(
            "kind: CiliumNetworkPolicy\nmetadata: {{name: c, namespace: web}}\nspec:\n  \
             endpointSelector: {{matchLabels: {{app: x}}}}\n  egressDeny: [{deny}]\n"
        );
        rules(&imported(Origin::Cilium, &text))
    };
    let all = ["c-deny deny [web] * 1-65535"];
    assert_eq!(of("{toEntities: [world]}"), all);
    assert_eq!(
        of("{toCIDRSet: [{cidr: 0.0.0.0/0, except: [192.0.2.0/24]}]}"),
        all
    );
    assert_eq!(of("{toPorts: [{ports: [{port: https}]}]}"), all);
    assert_eq!(
        of("{toPorts: [{ports: [{port: '443'}]}]}"),
        ["c-deny deny [web] * 443"]
    );
    assert_eq!(of("{toEndpoints: [{}]}"), [""; 0]);
    assert_eq!(of("{toCIDR: [192.0.2.0/24]}"), [""; 0]);
}

#[test]
fn squid_a_plain_list() {
    let imported = imported(
        Origin::Squid,
        "# what is allowed\n.example.org\na.org b.org # two\n\nhttp://x.org/\n192.0.2.1\n*.c.org\n",
    );
    assert_eq!(
        rules(&imported),
        ["squid [] *.example.org,example.org,a.org,b.org,*.c.org 443"]
    );
    assert_eq!(notes(&imported.not_carried_over, "x.org")[0].0, 5);
    assert_eq!(notes(&imported.not_carried_over, "192.0.2.1")[0].0, 6);
}

#[test]
fn squid_a_configuration() {
    let conf = "\
acl localnet src 10.0.0.0/8
acl SSL_ports port 443
acl Safe_ports port 80 443
acl allowed dstdomain .example.org \\
    a.org
acl never dstdomain evil.example.org
acl unused dstdomain .u.org
http_port 3128
http_access deny !Safe_ports
http_access deny CONNECT !SSL_ports
http_access deny never
http_access allow CONNECT allowed
http_access allow localnet
http_access deny all
http_access allow unused2
";
    let imported = imported(Origin::Squid, conf);
    assert_eq!(
        rules(&imported),
        [
            "never deny [] evil.example.org 443",
            "allowed [] *.example.org,example.org,a.org 443",
        ]
    );
    let left_out = &imported.not_carried_over;
    for (what, line) in [
        ("`http_port 3128`", 8),
        ("deny !Safe_ports", 9),
        ("deny CONNECT !SSL_ports", 10),
        ("allow localnet", 13),
        ("allow unused2", 15),
        ("acl unused", 7),
    ] {
        assert_eq!(
            notes(left_out, what).first().map(|note| note.0),
            Some(line),
            "{what}"
        );
    }
}

#[test]
fn squid_what_would_allow_more_is_left_out() {
    let acls = "acl good dstdomain .good.org\nacl bad dstdomain .bad.org\nacl night time 20:00-24:00\n\
                acl part dstdomain \"/etc/squid/part\" .part.org\n";
    let of = |access: &str| rules(&imported(Origin::Squid, &format!("{acls}{access}")));
    let good = ["good [] *.good.org,good.org 443"];
    assert_eq!(of("http_access allow good\n"), good);
    for access in [
        "",
        "http_access allow good night\n",
        "http_access allow good !night\n",
        "http_access allow good bad\n",
        "http_access allow good !part\n",
        "http_access allow all\n",
        "http_access deny all\nhttp_access allow good\n",
        "http_access deny night\nhttp_access allow good\n",
        "http_access deny !bad\nhttp_access allow good\n",
        "http_access allow good\ninclude /etc/squid/conf.d/*.conf\n",
        "http_access allow good\nadapted_http_access deny night\n",
        "http_access allow good\n  .evil.org\n",
    ] {
        assert_eq!(of(access), [""; 0], "{access}");
    }
    assert_eq!(
        of("http_access deny bad night\n"),
        ["bad deny [] *.bad.org,bad.org 443"]
    );
    assert_eq!(
        of("http_access deny part\nhttp_access allow good\n").len(),
        1
    );
    let widened = with(
        Origin::Squid,
        Options { widen: true },
        &format!("{acls}http_access allow good night\n"),
    );
    assert_eq!(rules(&widened), good);
    assert_eq!(widened.widened.len(), 1);
}

/// One `http_access` line: whether it allows, and its terms, each wanted or not.
type Access = (bool, Vec<(&'static str, bool)>);

const LISTS: [(&str, &[&str]); 3] = [
    ("one", &[".x.org", "a.org"]),
    ("two", &["a.x.org", ".b.x.org", "b.org"]),
    ("three", &[".org"]),
];

fn access() -> impl Strategy<Value = Vec<Access>> {
    let names = vec![
        "one", "two", "three", "who", "night", "ssl", "plain", "all", "CONNECT",
    ];
    let terms = subsequence(names, 1..4).prop_flat_map(|names| {
        let signs = prop::collection::vec(prop::bool::weighted(0.7), names.len());
        signs.prop_map(move |signs| names.iter().copied().zip(signs).collect::<Vec<_>>())
    });
    prop::collection::vec((any::<bool>(), terms), 1..6)
}

/// What Squid does about TLS to port 443 (http_access: the first line whose terms all hold; if none
/// does, the opposite of the last one).
fn squid_allows(access: &[Access], name: &str, who: bool, night: bool) -> bool {
    let holds = |term: &str| match term {
        "who" => who,
        "night" => night,
        "ssl" | "all" | "CONNECT" => true,
        "plain" => false,
        list => LISTS
            .iter()
            .filter(|(known, _)| *known == list)
            .any(|(_, domains)| {
                domains.iter().any(|domain| match domain.strip_prefix('.') {
                    Some(parent) => name == parent || name.ends_with(domain),
                    None => name == *domain,
                })
            }),
    };
    for (allows, terms) in access {
        if terms.iter().all(|(term, wanted)| holds(term) == *wanted) {
            return *allows;
        }
    }
    access.last().is_some_and(|(allows, _)| !allows)
}

fn conf(access: &[Access]) -> String {
    let mut text = String::from(
        "acl who src 10.0.0.0/8\nacl night time 20:00-24:00\nacl ssl port 443\nacl plain port 80\n",
    );
    for (name, domains) in LISTS {
        text += &format!("acl {name} dstdomain {}\n", domains.join(" "));
    }
    for (allows, terms) in access {
        let action = if *allows { "allow" } else { "deny" };
        let terms: Vec<_> = terms
            .iter()
            .map(|(term, wanted)| format!("{}{term}", if *wanted { "" } else { "!" }))
            .collect();
        text += &format!("http_access {action} {}\n", terms.join(" "));
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// What the rules admit, Squid allows to every client at any time.
    #[test]
    fn squid_rules_never_allow_more(
        access in access(),
        name in select(vec!["x.org", "a.x.org", "b.x.org", "c.b.x.org", "a.org", "b.org", "c.org", "d.com"]),
    ) {
        let text = conf(&access);
        let rules = imported(Origin::Squid, &text).to_string();
        let policy = Policy::parse(&rules, "p").unwrap().policy;
        let server = ServerName::parse(name.as_bytes()).unwrap();
        let workload = Workload::default();
        let request = Request { name: &server, port: 443, workload: &workload };
        if let Verdict::Admitted(_) = policy.judge(&request) {
            for (who, night) in [(false, false), (false, true), (true, false), (true, true)] {
                prop_assert!(squid_allows(&access, name, who, night), "{name}\n{text}\n{rules}");
            }
        }
    }
}
