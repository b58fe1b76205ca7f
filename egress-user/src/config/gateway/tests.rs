//! What a gateway's file says.

use super::*;
use crate::renewal::Source;

fn load(text: &str) -> Result<GatewayConfig, Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, text).unwrap();
    GatewayConfig::load(Some(&path), GatewayOptions::default())
}

const FULL: &str = "\
listen: 0.0.0.0:8443
policy: policy.yaml
tls: {certificate: gateway.pem, key: gateway-key.pem, bundle: /etc/ca.pem}
agents:
  - spiffe://egress.local/agent/*
  - id: spiffe://egress.local/node/web
    workloads: [{namespace: web}, {cgroup: /web.slice}]
limits:
  agent: {tunnels: 100, rate: 50}
  workload: {connections: 20, names: 30}
dns: {servers: [203.0.113.53, \"[2001:db8::53]:5353\", tls://1.1.1.1#one.one], ca: dns-ca.pem}
addresses: {allow: [203.0.113.0/24]}
resolve: [\"en.wikipedia.org:443:127.0.0.1\"]
upstream: {connect: \"http://proxy.example:3128\", credentials: proxy-user}
log: {file: \"-\", format: text}
admin: 127.0.0.1:9902
drain: 5s
";

#[test]
fn reads_everything() {
    let config = load(FULL).unwrap();
    assert!(config.base.policy.is_absolute() && config.base.policy.ends_with("policy.yaml"));
    let Source::Files(files) = config.base.tls else {
        panic!("files");
    };
    assert_eq!(files.bundle, Path::new("/etc/ca.pem"));
    let servers: Vec<String> = config.dns.iter().map(NameServer::to_string).collect();
    let wanted = [
        "203.0.113.53:53",
        "[2001:db8::53]:5353",
        "tls://1.1.1.1:853#one.one",
    ];
    assert_eq!(servers, wanted);
    let ca = config.dns_ca.unwrap();
    assert!(ca.is_absolute() && ca.ends_with("dns-ca.pem"));
    assert_eq!(config.pins.len(), 1);
    assert_eq!(config.base.drain.as_secs(), 5);
    let upstream = config.upstream.unwrap();
    assert_eq!(upstream.proxy.to_string(), "http://proxy.example:3128");
    let credentials = upstream.credentials.unwrap();
    assert!(credentials.is_absolute() && credentials.ends_with("proxy-user"));
    let [everybody, web] = &config.agents.unwrap()[..] else {
        panic!("two rules");
    };
    assert_eq!(everybody.workloads, None);
    assert_eq!(web.id.to_string(), "spiffe://egress.local/node/web");
    assert!(web.workloads.is_some());
    let (agent, workload) = (config.quotas.agent, config.quotas.workload);
    assert_eq!((config.quotas.tunnels, agent.rate), (100, Some(50)));
    assert_eq!((workload.connections, workload.names), (Some(20), Some(30)));
    assert_eq!((agent.connections, workload.rate), (None, None));
}

#[test]
fn raw_is_taken_where_it_is_asked_for() {
    let with = |raw: &str| load(&format!("{FULL}raw: {raw}\n"));
    assert_eq!(load(FULL).unwrap().raw, None);
    assert_eq!(with("{enabled: false, alpn: [x]}").unwrap().raw, None);
    let plain = with("{enabled: true}").unwrap().raw.unwrap();
    assert_eq!(plain, RawAccess::default());
    assert_eq!(plain.proxy_header, HeaderUse::No);
    let raw = with("{enabled: true, proxy_header: require, alpn: [x]}");
    let raw = raw.unwrap().raw.unwrap();
    assert_eq!(raw.proxy_header, HeaderUse::Require);
    assert!(raw.is_meant_by(None) && raw.is_meant_by(Some(b"x")));
    assert!(!raw.is_meant_by(Some(b"egress/1")));
    for wrong in [
        "{}",
        "true",
        "{proxy_header: no}",
        "{enabled: true, alpn: [egress/1]}",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn certificates_come_from_files_or_a_workload_api() {
    let files = "{certificate: gateway.pem, key: gateway-key.pem, bundle: /etc/ca.pem}";
    let api = "{workload_api: \"unix:///run/spire/agent.sock\"}";
    let text = |tls: &str| FULL.replace(files, tls);
    let socket = |path: &str| Source::WorkloadApi(format!("unix://{path}").parse().unwrap());
    let config = load(&text(api)).unwrap();
    assert_eq!(config.base.tls, socket("/run/spire/agent.sock"));

    let mistakes = load(&text("{workload_api: /run/agent.sock}")).unwrap_err();
    let place =
        ":3:21: `/run/agent.sock` in `workload_api`: a path without its scheme: write unix:///run";
    assert!(mistakes.to_string().contains(place), "{mistakes}");
    let both = "{workload_api: \"unix:///a\", crl: revoked.pem}";
    let mistakes = load(&text(both)).unwrap_err().to_string();
    let sentence = "`workload_api` gives what `crl` would: leave one of them away";
    assert!(mistakes.contains(sentence), "{mistakes}");

    let without = FULL.replace(&format!("tls: {files}\n"), "");
    let flags = |endpoint: &str| {
        let mut flags = GatewayOptions::default();
        flags.common.endpoint_socket = Some(endpoint.to_owned());
        flags
    };
    let load = |text: &str, flags| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, text).unwrap();
        GatewayConfig::load(Some(&path), flags)
    };
    // The variable counts where nothing else is said.
    let variable = "unix:///tmp/agent.sock";
    let config = load(&without, flags(variable)).unwrap();
    assert_eq!(config.base.tls, socket("/tmp/agent.sock"));
    let config = load(FULL, flags(variable)).unwrap();
    assert!(matches!(config.base.tls, Source::Files(_)));
    let mistakes = load(&without, flags("tcp://127.0.0.1:1")).unwrap_err();
    assert!(
        mistakes
            .to_string()
            .contains("in SPIFFE_ENDPOINT_SOCKET: not a Unix")
    );

    let mut flags = flags(variable);
    flags.common.key = Some("key.pem".into());
    let mistakes = load(&text(api), flags).unwrap_err().to_string();
    assert!(mistakes.contains("leave the files away"), "{mistakes}");
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.yaml");
    std::fs::write(&path, FULL).unwrap();
    let flags = GatewayOptions {
        listen: Some("127.0.0.1:1".parse().unwrap()),
        ..GatewayOptions::default()
    };
    let config = GatewayConfig::load(Some(&path), flags).unwrap();
    assert_eq!(config.listen.port(), 1);
}

#[test]
fn an_agent_that_was_to_be_restricted_is_not_let_speak_for_everybody() {
    let text =
        |workloads: &str| FULL.replace("[{namespace: web}, {cgroup: /web.slice}]", workloads);
    for wrong in ["[]", "[{}]", "[{namspace: web}]", "web", "~"] {
        assert!(load(&text(wrong)).is_err(), "{wrong}");
    }
    assert!(load(&FULL.replace("rate: 50", "rate: 0")).is_err());
}

#[test]
fn a_proxy_is_one_and_carries_no_password() {
    let text = |upstream: &str| {
        FULL.replace(
            "{connect: \"http://proxy.example:3128\", credentials: proxy-user}",
            upstream,
        )
    };
    for upstream in [
        "{socks5: \"[2001:db8::1]:1080\"}",
        "{connect: \"http://192.0.2.1:3128/\"}",
    ] {
        let config = load(&text(upstream)).unwrap();
        assert_eq!(config.upstream.unwrap().credentials, None, "{upstream}");
    }
    for wrong in [
        "{}",
        "{credentials: a}",
        "{connect: \"http://a:1\", socks5: \"a:1\"}",
        "{connect: \"https://a:1\"}",
        "{connect: \"http://a\"}",
        "{connect: \"http://a:1/path\"}",
        "{socks5: \"socks5://a:1\"}",
    ] {
        assert!(load(&text(wrong)).is_err(), "{wrong}");
    }
    for open in [
        "connect: \"http://ann:secret@a:1\"",
        "connect: \"https://ann:secret@a:1\"",
        "socks5: \"ann:secret@a:1\"",
    ] {
        let mistakes = load(&text(&format!("{{{open}}}"))).unwrap_err().to_string();
        assert!(
            !mistakes.contains("is not http") || !mistakes.contains("`ann"),
            "{mistakes}"
        );
    }
}

#[test]
fn says_everything_that_is_missing_at_once() {
    let mistakes = load("drain: 1s\n").unwrap_err().to_string();
    for key in [
        "policy",
        "tls.certificate",
        "tls.key",
        "tls.bundle",
        "listen",
    ] {
        assert!(
            mistakes.contains(&format!("`{key}` is missing")),
            "{mistakes}"
        );
    }
    assert!(
        mistakes.contains("--certificate or with EGRESS_CERTIFICATE"),
        "{mistakes}"
    );
}
