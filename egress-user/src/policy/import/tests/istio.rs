use super::*;

#[test]
fn the_seven_objects_of_a_wildcard_gateway() {
    let text = include_str!("../../../../tests/policy/wildcard_gateway.yaml");
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
fn what_a_service_entry_opens() {
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
fn what_opens_nothing() {
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
fn sidecars_narrow() {
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
fn gateways_and_policies_narrow() {
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
