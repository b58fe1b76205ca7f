use super::*;

fn load(text: &str) -> Result<AgentConfig, Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    std::fs::write(&path, text).unwrap();
    AgentConfig::load(Some(&path), AgentOptions::default())
}

#[test]
fn closed_by_default() {
    let config = load(
        "\
policy: p.yaml
tls: {certificate: a.pem, key: k.pem, bundle: ca.pem}
gateways: [\"10.0.0.2:8443\", \"gw.example.org:8443\"]
capture: {cgroup: /sys/fs/cgroup/kubepods}
",
    )
    .unwrap();
    assert_eq!(config.capture.other_ports, Fallback::Refuse);
    assert_eq!(config.capture.unregistered, Fallback::Refuse);
    assert_eq!(config.capture.ports, [443]);
    assert_eq!(config.gateways[1].endpoint.host, "gw.example.org");
}

#[test]
fn gateways_may_say_where_they_are() {
    let text = |gateways: &str| {
        format!(
            "policy: p.yaml\ntls: {{certificate: a.pem, key: k.pem, bundle: ca.pem}}\n\
             capture: {{cgroup: /c}}\nzone: eu-1a\ngateways: [{gateways}]\n"
        )
    };
    let config = load(&text("{address: \"gw:1\", zone: eu-1a}, \"gw:2\"")).unwrap();
    assert_eq!(config.zone.as_deref(), Some("eu-1a"));
    let shown: Vec<String> = config.gateways.iter().map(Zoned::to_string).collect();
    assert_eq!(shown, ["gw:1 in zone eu-1a", "gw:2"]);
    for (wrong, sentence) in [
        ("{zone: a}", ":5:12: `address` is missing"),
        ("{address: gw}", "is not HOST:PORT"),
        ("{address: \"gw:1\", zone: \"\"}", "`zone` is empty"),
        ("{address: \"gw:1\", zon: a}", "did you mean `zone`"),
    ] {
        let mistakes = load(&text(wrong)).unwrap_err().to_string();
        assert!(mistakes.contains(sentence), "{mistakes}");
    }
}

#[test]
fn one_cgroup_or_several_but_none_in_another() {
    let cgroups = |value: &str| {
        load(&format!(
            "policy: p.yaml\ntls: {{certificate: a.pem, key: k.pem, bundle: ca.pem}}\n\
             gateways: [\"gw.example.org:8443\"]\ncapture: {{cgroup: {value}}}\n"
        ))
        .map(|config| config.capture.cgroups)
    };
    assert_eq!(cgroups("/c").unwrap(), [Path::new("/c")]);
    assert_eq!(cgroups("[/a, /ab]").unwrap(), ["/a", "/ab"].map(Path::new));
    for (wrong, said) in [
        ("[]", "lists nothing"),
        ("[/a, /b, /a/c]", "the cgroup /a/c lies in /a"),
        ("[/a, /a]", "the cgroup /a lies in /a"),
    ] {
        let mistakes = cgroups(wrong).unwrap_err().to_string();
        assert_eq!(mistakes.matches(said).count(), 1, "{mistakes}");
    }
}

#[test]
fn raw_is_spoken_where_it_is_asked_for() {
    let text = |more: &str| {
        format!(
            "policy: p.yaml\ntls: {{certificate: a.pem, key: k.pem, bundle: ca.pem}}\n\
             gateways: [\"haproxy.example.org:8443\"]\ncapture: {{cgroup: /c}}\n{more}\n"
        )
    };
    assert_eq!(load(&text("")).unwrap().protocol, Protocol::Egress);
    let raw = load(&text("protocol: raw\nproxy_header: true\nalpn: x")).unwrap();
    let Protocol::Raw(raw) = raw.protocol else {
        panic!("raw");
    };
    assert!(raw.proxy_header && raw.alpn.is_some());
    for wrong in [
        "proxy_header: true",
        "alpn: x",
        "protocol: tcp",
        "protocol: raw\nalpn: egress/1",
    ] {
        assert!(load(&text(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn a_handover_takes_pins() {
    let text = "\
policy: p.yaml
tls: {certificate: a.pem, key: k.pem, bundle: ca.pem}
gateways: [\"10.0.0.2:8443\"]
capture:
  cgroup: /sys/fs/cgroup/kubepods
  handover: /run/egress/handover
";
    let mistakes = load(text).unwrap_err().to_string();
    assert!(mistakes.contains("`handover` takes `pin`"), "{mistakes}");
    let pinned = format!("{text}  pin: /sys/fs/bpf/egress\n");
    assert!(load(&pinned).unwrap().capture.handover.is_some());
}

#[test]
fn mistakes_come_together() {
    let mistakes = load(
        "\
polcy: p.yaml
gateways: [\"nohost\"]
capture: {ports: [0], other_ports: maybe}
",
    )
    .unwrap_err()
    .to_string();
    for part in ["did you mean `policy`", "nohost", "maybe"] {
        assert!(mistakes.contains(part), "{part}: {mistakes}");
    }
}

/// A rule that asks for a label would then decide at the agent and never at the gateway.
#[test]
fn labels_that_no_gateway_can_be_told_are_a_mistake() {
    let text = |count: u32| {
        let labels: Vec<_> = (0..count).map(|n| format!("l{n}: v")).collect();
        format!(
            "policy: p.yaml\ntls: {{certificate: a.pem, key: k.pem, bundle: ca.pem}}\n\
             gateways: [\"10.0.0.2:8443\"]\ncapture: {{cgroup: /c}}\n\
             workloads: [{{cgroup: /a, labels: {{{}}}}}]\n",
            labels.join(", ")
        )
    };
    assert_eq!(load(&text(64)).unwrap().workloads.iter().count(), 1);
    let mistakes = load(&text(65)).unwrap_err().to_string();
    assert!(mistakes.contains("at most 64"), "{mistakes}");
}
