//! `egress policy` as a process: what it prints, and how it ends.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::io::Write as _;
use std::process::{Output, Stdio};

use egress_lab::process;
use serde_json::Value;

const POLICY: &str = "\
version: 1
rules:
  - name: wikipedia
    hosts: ['*.wikipedia.org']
  - name: pages
    from: [{namespace: web, serviceAccount: crawler}]
    hosts: ['*.github.io']
";

/// `egress policy …` in a directory with `policy.yaml`.
struct Egress {
    dir: tempfile::TempDir,
}

impl Egress {
    fn new() -> Egress {
        let egress = Egress {
            dir: tempfile::tempdir().unwrap(),
        };
        egress.write("policy.yaml", POLICY);
        egress
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, "")
    }

    fn run_with(&self, args: &[&str], stdin: &str) -> Ended {
        let mut child = process::command(env!("CARGO_BIN_EXE_egress"))
            .arg("policy")
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whoever does not read it may have closed it.
        drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
        child.wait_with_output().unwrap().into()
    }
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

#[test]
fn check_tells_mistakes_and_warnings() {
    let egress = Egress::new();
    let good = egress.run(&["check", "policy.yaml"]);
    assert_eq!((good.code, &*good.err), (0, ""));
    assert!(
        good.out
            .starts_with("warning: policy.yaml:7:13: `github.io` is shared hosting"),
        "{}",
        good.out
    );
    assert!(
        good.out
            .contains("policy.yaml: 2 rules, 1 warning, digest ")
    );
    assert_eq!(egress.run(&["check", "--strict", "policy.yaml"]).code, 1);

    let broken = "version: 1\nrules: [{name: a, hots: [a.org]}]\n";
    let bad = egress.run_with(&["check", "-"], broken);
    assert_eq!(bad.code, 1);
    assert!(
        bad.out
            .contains("standard input:2:19: unknown key `hots`, did you mean `hosts`?\n"),
        "{}",
        bad.out
    );
    egress.write("broken.yaml", broken);
    let both = egress.run(&["check", "--output", "json", "policy.yaml", "broken.yaml"]);
    assert_eq!(both.code, 1);
    let json = both.json();
    assert_eq!(json[0]["mistakes"], Value::Array(Vec::new()));
    assert_eq!(json[0]["warnings"][0]["line"], 7);
    assert_eq!(json[1]["mistakes"][0]["column"], 19);
    assert_eq!(json[1]["digest"], Value::Null);

    let missing = egress.run(&["check", "none.yaml"]);
    assert_eq!(missing.code, 1);
    assert!(missing.out.contains("none.yaml: cannot be read: "));
}

#[test]
fn explain_says_which_rule_and_where() {
    let egress = Egress::new();
    let allowed = egress.run(&["explain", "en.wikipedia.org"]);
    assert_eq!((allowed.code, &*allowed.err), (0, ""));
    assert!(
        allowed
            .out
            .starts_with("en.wikipedia.org:443 allowed (rule wikipedia)\n")
    );
    assert!(
        allowed.out.contains("\n4     wikipedia  allow"),
        "{}",
        allowed.out
    );

    let args = ["explain", "a.github.io", "--output", "json"];
    let nobody = egress.run(&args).json();
    assert_eq!(nobody["verdict"], "refused");
    assert_eq!(nobody["reason"], "not_for_this_workload");
    assert_eq!(nobody["rules"][0]["line"], 7);
    let crawler = egress.run(&[&args[..], &["--as", "web/crawler"]].concat());
    assert_eq!(crawler.json()["verdict"], "allowed");

    for wrong in [
        &["explain", "10.0.0.1"][..],
        &["explain", "a.org", "--as", "/x"],
        &["explain", "a.org", "--port", "0"],
        &["explain"],
        &["check"],
        &["learn"],
    ] {
        let ended = egress.run(wrong);
        assert_eq!((ended.code, &*ended.out), (2, ""), "{wrong:?}");
    }
    let missing = egress.run(&["explain", "a.org", "--file", "none.yaml"]);
    assert_eq!((missing.code, &*missing.out), (1, ""));
    assert!(missing.err.contains("none.yaml: cannot be read: "));
}

#[test]
fn diff_says_what_opens_and_closes() {
    let egress = Egress::new();
    let new = POLICY.replace("*.wikipedia.org", "*.wikimedia.org");
    egress.write("new.yaml", &new);
    let diff = egress.run(&["diff", "policy.yaml", "new.yaml"]);
    assert_eq!((diff.code, &*diff.err), (0, ""));
    assert_eq!(
        diff.out,
        "opens   *.wikimedia.org  443  everyone  no_rule → rule wikipedia\n\
         closes  *.wikipedia.org  443  everyone  rule wikipedia → no_rule\n"
    );
    let fails = ["diff", "--fail-on-widening", "--output", "json"];
    let opens = egress.run(&[&fails[..], &["policy.yaml", "new.yaml"]].concat());
    assert_eq!(opens.code, 1);
    assert_eq!(opens.json()["rows"][0]["change"], "opens");

    let narrow = POLICY.replace("'*.wikipedia.org'", "en.wikipedia.org");
    let closes = egress.run_with(&[&fails[..], &["policy.yaml", "-"]].concat(), &narrow);
    assert_eq!(closes.code, 0);
    assert_eq!(closes.json()["rows"][0]["name"], "*.wikipedia.org");
    let same = egress.run(&["diff", "--fail-on-widening", "policy.yaml", "policy.yaml"]);
    assert_eq!(same.code, 0);
    assert!(same.out.ends_with(" decide alike\n"));

    let broken = egress.run_with(&["diff", "-", "none.yaml"], "rules: []\n");
    assert_eq!((broken.code, &*broken.out), (1, ""));
    assert!(
        broken
            .err
            .contains("standard input:1:1: `version` is missing")
    );
    assert!(broken.err.contains("none.yaml: cannot be read: "));
}

#[test]
fn learn_makes_a_policy_that_check_accepts() {
    let egress = Egress::new();
    egress.write(
        "records.jsonl",
        r#"{"connection":"1","hop":"agent","verdict":"would_refuse","reason":"no_rule","sni":"a.org","port":443,"workload":{"uid":7}}
{"connection":"2","hop":"agent","verdict":"refused","reason":"no_rule","sni":"b.org","port":443,"workload":{"uid":7}}
"#,
    );
    let learnt = egress.run(&["learn", "records.jsonl"]);
    assert_eq!((learnt.code, &*learnt.err), (0, ""));
    egress.write("learnt.yaml", &learnt.out);
    assert_eq!(egress.run(&["check", "--strict", "learnt.yaml"]).code, 0);
    let explain = [
        "explain",
        "a.org",
        "--file",
        "learnt.yaml",
        "--output",
        "json",
    ];
    assert_eq!(egress.run(&explain).json()["verdict"], "refused");
    let known = egress.run(&[&explain[..], &["--uid", "7"]].concat());
    assert_eq!(known.json()["verdict"], "allowed");
    let json = egress.run(&["learn", "--everyone", "--output", "json", "records.jsonl"]);
    assert_eq!(json.json()["rules"][0]["hosts"][0]["host"], "a.org");
    assert_eq!(json.json()["left_out"][0]["records"], 1);

    let broken = egress.run_with(&["learn", "-"], "\n{\"verdict\": 1}\nnothing\n");
    assert_eq!((broken.code, &*broken.out), (1, ""));
    assert!(broken.err.contains("standard input:2: this is no record: "));
    assert!(broken.err.contains("standard input:3: this is no record: "));
}

#[test]
fn import_makes_a_policy_that_check_accepts() {
    let egress = Egress::new();
    let yaml = include_str!("policy/wildcard_gateway.yaml");
    let imported = egress.run_with(&["import", "istio", "-"], yaml);
    assert_eq!((imported.code, &*imported.err), (0, ""));
    egress.write("imported.yaml", &imported.out);
    assert_eq!(egress.run(&["check", "--strict", "imported.yaml"]).code, 0);
    let diff = ["diff", "imported.yaml", "-"];
    let same = egress.run_with(
        &diff,
        "version: 1\nrules: [{name: a, hosts: ['*.wikipedia.org']}]\n",
    );
    assert!(same.out.ends_with(" decide alike\n"), "{}", same.out);
    assert!(
        imported
            .out
            .contains("#   standard input:171: Telemetry mesh-default: "),
        "{}",
        imported.out
    );

    let json = egress.run_with(
        &["import", "squid", "--output", "json", "-"],
        "10.0.0.1\na.org\n",
    );
    let json = json.json();
    assert_eq!(json["rules"][0]["hosts"][0]["host"], "a.org");
    assert_eq!(json["not_carried_over"][0]["line"], 1);
    assert_eq!(json["not_carried_over"][0]["file"], "standard input");

    let broken = egress.run_with(&["import", "cilium", "-"], "kind: [\n");
    assert_eq!((broken.code, &*broken.out), (1, ""));
    assert!(
        broken.err.contains("standard input:2:1: this is not YAML"),
        "{}",
        broken.err
    );
}

#[test]
fn schema_is_the_published_one() {
    let schema = Egress::new().run(&["schema"]);
    assert_eq!((schema.code, &*schema.err), (0, ""));
    assert_eq!(schema.out, include_str!("../../docs/policy.schema.json"));
}

/// A reader that has seen enough is no failure.
#[test]
fn a_closed_output_is_no_failure() {
    let egress = Egress::new();
    let mut child = process::command(env!("CARGO_BIN_EXE_egress"))
        .args(["policy", "check", "policy.yaml"])
        .current_dir(egress.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The examples in `--help` are commands that there are.
#[test]
fn every_example_is_understood() {
    let egress = Egress::new();
    for command in ["check", "explain", "diff", "learn", "import", "schema"] {
        let help = egress.run(&[command, "--help"]);
        assert_eq!(help.code, 0);
        assert!(
            command == "schema" || help.out.contains("Exit codes:"),
            "{}",
            help.out
        );
        let (_, examples) = help.out.split_once("Examples:\n").unwrap();
        let examples = examples.lines().take_while(|line| !line.is_empty());
        let mut tried = 0;
        for part in examples.flat_map(|line| line.split(" | ")) {
            let words: Vec<_> = part.split_whitespace().collect();
            let ["egress", "policy", args @ ..] = words.as_slice() else {
                continue;
            };
            let redirected = args.iter().take_while(|word| **word != ">");
            let args: Vec<&str> = redirected.copied().collect();
            let ended = egress.run(&args);
            assert_ne!(ended.code, 2, "{part}: {}", ended.err);
            tried += 1;
        }
        assert!(tried >= 2, "{}", help.out);
    }
}
