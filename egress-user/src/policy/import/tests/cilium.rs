use super::*;

/// An egress rule of a policy for a service account of namespace `web`.
fn cilium(egress: &str) -> String {
    format!(
        "kind: CiliumNetworkPolicy\nmetadata: {{name: c, namespace: web}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{io.cilium.k8s.policy.serviceaccount: crawler}}}}\n  \
         egress:\n  - {egress}\n"
    )
}

#[test]
fn names() {
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
fn what_would_allow_more_is_left_out() {
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
fn whom_a_policy_is_for() {
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
    // Of these, some are not labels of pods, and Cilium does not look at others.
    for other in [
        "'container:app': x",
        "'io.cilium.k8s.namespace.labels.team': a",
        "'k8s:io.kubernetes.pod.name': a",
        "pod-template-hash: a",
        "'k8s:statefulset.kubernetes.io/pod-name': a",
        "node.beta.kubernetes.io/x: a",
        "tier: 'a b'",
    ] {
        let and_app = format!("app: x, {other}");
        for labels in [labels(other), labels(&and_app)] {
            assert_eq!(of(&policy(own, web, &labels)), [""; 0], "{labels}");
        }
    }
    let two_sources = labels("app: x, 'k8s:app': y");
    assert_eq!(of(&policy(own, web, &two_sources)), [""; 0]);
    for (given, carried) in [
        ("app: x", "web app=x"),
        ("'k8s:app': x, 'any:tier': ''", "web app=x tier="),
        ("app.kubernetes.io/name: x", "web app.kubernetes.io/name=x"),
        (
            "io.cilium.k8s.policy.serviceaccount: crawler, app: x",
            "web/crawler app=x",
        ),
    ] {
        let policy = policy(own, web, &labels(given));
        assert_eq!(of(&policy), [format!("c [{carried}] a.org 443")]);
    }
    let anywhere = policy(wide, "", &labels("app: x"));
    assert_eq!(of(&anywhere), ["c [ app=x] a.org 443"]);
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
        &policy(own, web, &labels("app: x, pod-template-hash: a")),
    );
    assert_eq!(rules(&widened), ["c [web app=x] a.org 443"]);
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
fn denials_close() {
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
