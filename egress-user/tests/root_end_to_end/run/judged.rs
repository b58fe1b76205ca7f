//! What the command may reach, and what is told about it.

use std::fs;
use std::path::Path;

use egress_lab::deployment::{Record, read_records};
use egress_lab::wire::{TCP, Target};
use egress_lab::{Lab, Names, tools};

use super::{Machine, allow_en, borrowed, resolve_en, stderr, stdout};
use crate::clients::CURL;
use crate::world::{EN, IBM, WIKIPEDIA, sent};

#[test]
fn an_allowed_name_is_fetched_and_a_summary_follows() {
    let machine = Machine::new();
    let output = machine.run_curl(&borrowed(&allow_en()), EN.name, &EN.v4.to_string());
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("<title>en.wikipedia.org</title>"));
    let summary = stderr(&output);
    assert!(
        summary.contains(EN.name) && summary.contains("allowed"),
        "{summary}"
    );
    let arrived = machine.origins.arrived(&machine.lab, EN.name).unwrap();
    assert!(!arrived.is_empty());
    machine.assert_nothing_is_left();
}

#[test]
fn another_name_is_refused_and_the_client_s_exit_code_is_ours() {
    let machine = Machine::new();
    let options = allow_en();
    for address in IBM.addresses() {
        let output = machine.run_curl(&borrowed(&options), IBM.name, &address.to_string());
        // curl's own code for a failed TLS handshake.
        assert_eq!(output.status.code(), Some(35), "{output:?}");
        let said = stderr(&output);
        assert!(said.contains("alert access denied"), "{said}");
        assert!(
            said.contains(IBM.name) && said.contains("refused"),
            "{said}"
        );
    }
    assert_eq!(machine.origins.arrived(&machine.lab, IBM.name).unwrap(), []);
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);
    machine.assert_nothing_is_left();
}

#[test]
fn a_deny_pattern_wins_over_an_allow_pattern() {
    let machine = Machine::new();
    let mut options = allow_en();
    options.extend(["--deny".into(), EN.name.into()]);
    let output = machine.run_curl(&borrowed(&options), EN.name, &EN.v4.to_string());
    assert!(
        stderr(&output).contains("alert access denied"),
        "{output:?}"
    );
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);
}

#[test]
fn a_policy_file_serves_as_well_as_patterns() {
    let machine = Machine::new();
    let policy = machine.lab.directory().join("policy.yaml");
    fs::write(&policy, WIKIPEDIA).unwrap();
    let mut options = vec!["--policy".into(), policy.display().to_string()];
    options.extend(resolve_en());
    let output = machine.run_curl(&borrowed(&options), EN.name, &EN.v4.to_string());
    assert!(
        stdout(&output).contains("<title>en.wikipedia.org</title>"),
        "{output:?}"
    );
}

#[test]
fn the_name_server_given_is_asked_and_its_answer_is_checked() {
    let machine = Machine::new();
    let server = Names::ADDRESS.ip().to_string();
    let options = ["--allow", "*.wikipedia.org", "--dns", &server];
    let output = machine.run_curl(&options, EN.name, &EN.v4.to_string());
    // The lab's origins have documentation addresses, which no public name may lead to.
    assert!(stderr(&output).contains("unrecognized name"), "{output:?}");
    assert!(machine.names.queries().contains(&format!("A {}", EN.name)));
    assert_eq!(machine.origins.arrived(&machine.lab, EN.name).unwrap(), []);
}

#[test]
fn an_exception_lets_a_special_address_through() {
    let machine = Machine::new();
    let server = Names::ADDRESS.to_string();
    let options = [
        "--allow",
        "*.wikipedia.org",
        "--dns",
        &server,
        "--allow-addresses",
        Lab::ORIGINS_V4,
    ];
    let output = machine.run_curl(&options, EN.name, &EN.v4.to_string());
    assert!(
        stdout(&output).contains("<title>en.wikipedia.org</title>"),
        "{output:?}"
    );
}

#[test]
fn another_port_is_captured_when_told() {
    let machine = Machine::new();
    let output = machine
        .run(&["--allow", "*.wikipedia.org", "--port", "8443"])
        .arg(tools::locate("curl").unwrap().path)
        .args(CURL)
        .args(["--resolve", &format!("{}:8443:{}", IBM.name, IBM.v4)])
        .arg(format!("https://{}:8443/", IBM.name))
        .output()
        .unwrap();
    assert!(
        stderr(&output).contains("alert access denied"),
        "{output:?}"
    );
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);
}

#[test]
fn other_ports_are_refused_unless_told_to_pass() {
    let machine = Machine::new();
    let script = format!(
        "import errno, socket\n\
         try: socket.create_connection(('{}', 8444))\n\
         except OSError as error: print(errno.errorcode[error.errno])",
        EN.v4
    );
    let knock = |options: &[&str]| {
        let mut command = machine.run(options);
        stdout(&command.args(["python3", "-c", &script]).output().unwrap())
    };
    assert_eq!(knock(&["--allow", "*.wikipedia.org"]), "EPERM\n");
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);

    // The origin has nothing there; what matters is who says so.
    let passing = ["--allow", "*.wikipedia.org", "--other-ports", "pass"];
    assert_eq!(knock(&passing), "ECONNREFUSED\n");
    let expected = Target {
        protocol: TCP,
        address: EN.v4.into(),
        port: 8444,
    };
    assert_eq!(sent(&machine.wire, &machine.lab.app), [expected]);
}

#[test]
fn the_log_has_a_record_of_each_hop() {
    let machine = Machine::new();
    let log = machine.lab.directory().join("records.jsonl");
    let mut options = allow_en();
    options.extend(["--log".into(), log.display().to_string()]);
    options.extend(["--log-format".into(), "json".into()]);
    machine.run_curl(&borrowed(&options), EN.name, &EN.v4.to_string());

    let [agent, gateway] = records_of(&log, EN.name);
    assert_eq!(agent.text("connection"), gateway.text("connection"));
}

/// The record of each hop of the connection to this name. There may be others, of tunnels that carried
/// nothing.
fn records_of(log: &Path, name: &str) -> [Record; 2] {
    let mut records = read_records(log).unwrap();
    records.retain(|record| record.text("sni") == name);
    records.sort_by(|one, other| one.text("hop").cmp(other.text("hop")));
    let hops: Vec<_> = records.iter().map(|record| record.text("hop")).collect();
    assert_eq!(hops, ["agent", "gateway"], "{records:?}");
    records.try_into().unwrap()
}

#[test]
fn the_log_can_be_read_by_people_too() {
    let machine = Machine::new();
    let log = machine.lab.directory().join("records.txt");
    let mut options = allow_en();
    options.extend(["--log".into(), log.display().to_string()]);
    options.extend(["--log-format".into(), "text".into()]);
    machine.run_curl(&borrowed(&options), EN.name, &EN.v4.to_string());
    let text = fs::read_to_string(&log).unwrap();
    let of_it = text
        .lines()
        .filter(|line| line.contains("en.wikipedia.org:443"));
    assert_eq!(of_it.count(), 2, "{text}");
}

#[test]
fn an_audit_lets_through_and_says_what_it_would_refuse() {
    let machine = Machine::new();
    let log = machine.lab.directory().join("records.jsonl");
    let resolve = format!("{}:443:{}", IBM.name, IBM.v4);
    let log_option = log.display().to_string();
    let options = [
        "--allow",
        "*.wikipedia.org",
        "--audit",
        "--resolve",
        &resolve,
        "--log",
        &log_option,
    ];
    let output = machine.run_curl(&options, IBM.name, &IBM.v4.to_string());
    assert!(
        stdout(&output).contains("<title>cloud.ibm.com</title>"),
        "{output:?}"
    );
    for record in records_of(&log, IBM.name) {
        assert_eq!(record.text("verdict"), "would_refuse", "{record}");
        assert_eq!(record.text("reason"), "no_rule");
    }
}

/// Nothing is let out that is not on record.
#[test]
fn a_log_that_cannot_be_written_lets_nothing_out() {
    let machine = Machine::new();
    let mut options = allow_en();
    options.extend(["--log".into(), "/dev/full".into()]);
    // The first ones meet a log of which nobody knows yet.
    let script = format!(
        "fetch() {{ {curl} --disable --silent --cacert {authority} \
         --resolve {name}:443:{address} https://{name}/ >/dev/null; code=$?; echo $code; }}\n\
         for n in $(seq 200); do fetch; [ $code = 0 ] || break; done\n\
         for n in 1 2 3; do fetch; done",
        curl = tools::locate("curl").unwrap().path.display(),
        authority = machine.authority.certificate().display(),
        name = EN.name,
        address = EN.v4,
    );
    let output = machine.run_shell(&borrowed(&options), &script);
    let codes = stdout(&output);
    assert!(codes.ends_with("35\n35\n35\n35\n"), "{output:?}");
    let carried = codes.lines().filter(|code| *code == "0").count();
    let arrived = machine.origins.arrived(&machine.lab, EN.name).unwrap();
    assert_eq!(arrived.len(), carried, "{arrived:?}");
}
