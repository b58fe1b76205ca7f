//! The policy document as it is published: schema, reader, and what the documents of the project
//! show agree.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::collections::BTreeSet;
use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use egress_lab::process;
use egress_user::policy::Policy;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value, json};

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

struct Schema {
    json: Value,
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn published() -> Schema {
        let json: Value = serde_json::from_str(&file("docs/policy.schema.json")).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("policy.json", json.clone()).unwrap();
        let index = compiler.compile("policy.json", &mut schemas).unwrap();
        Schema {
            json,
            schemas,
            index,
        }
    }

    fn accepts(&self, text: &str) -> Result<(), String> {
        let value = json_of(text);
        let valid = self.schemas.validate(&value, self.index);
        valid.map_err(|error| format!("{error:#}\n{text}"))
    }

    /// The keys of a map that the schema describes.
    fn keys(&self, pointer: &str) -> BTreeSet<String> {
        let properties = self.json.pointer(pointer).unwrap().as_object().unwrap();
        properties.keys().cloned().collect()
    }
}

/// YAML as the core schema reads it (YAML 1.2.2 §10.3), as far as policies use it.
fn json_of(text: &str) -> Value {
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let done = match event.unwrap().0 {
            Event::SequenceStart(..) => {
                open.push((json!([]), None));
                continue;
            }
            Event::MappingStart(..) => {
                open.push((json!({}), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().unwrap().0,
            Event::Scalar(text, style, ..) => match text.parse::<u64>() {
                Ok(number) if style == ScalarStyle::Plain => json!(number),
                Err(_) if style == ScalarStyle::Plain && text.is_empty() => Value::Null,
                _ => json!(text),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => return done,
            Some((Value::Array(items), _)) => items.push(done),
            Some((Value::Object(map), key)) => match key.take() {
                None => *key = Some(done.as_str().unwrap().to_owned()),
                Some(key) => drop(map.insert(key, done)),
            },
            Some(_) => unreachable!(),
        }
    }
    Value::Object(Map::new())
}

/// The keys that the reader knows in a map, as it lists them when it meets another one.
fn known_keys(text: &str) -> BTreeSet<String> {
    let mistakes = Policy::parse(text, "p").unwrap_err();
    let mut sentences = mistakes.iter().map(|mistake| mistake.sentence.as_str());
    let known = sentences
        .find_map(|sentence| sentence.strip_prefix("unknown key `zzzzzzzz`; known here: "))
        .unwrap();
    let keys = known
        .split(", ")
        .map(|key| key.trim_matches('`').to_owned());
    keys.collect()
}

#[test]
fn reader_and_schema_know_the_same_keys() {
    let schema = Schema::published();
    for (text, pointer) in [
        ("version: 1\nrules: []\nzzzzzzzz: 1\n", "/properties"),
        (
            "version: 1\nrules: [{name: a, hosts: [a.org], zzzzzzzz: 1}]\n",
            "/$defs/rule/properties",
        ),
        (
            "version: 1\nrules: [{name: a, hosts: [a.org], from: [{uid: 1, zzzzzzzz: 1}]}]\n",
            "/$defs/workload/properties",
        ),
    ] {
        assert_eq!(known_keys(text), schema.keys(pointer));
        assert!(schema.accepts(text).is_err(), "{text}");
    }
}

#[test]
fn reader_and_schema_accept_the_same() {
    let schema = Schema::published();
    let rule = |rest: &str| format!("version: 1\nrules: [{{name: a, {rest}}}]\n");
    for text in [
        "version: 1\nrules: []\n".to_owned(),
        "version: 1\nmode: audit\nrules: []\n".to_owned(),
        rule("hosts: ['*', a.org, '*.b.org', Bücher.example, a_b.org., localhost]"),
        rule("hosts: [a.org], ports: [1, 65535, 8000-8100, '9000 - 9001', '443']"),
        rule("hosts: [a.org], action: deny, mode: audit"),
        rule("hosts: [a.org], action: allow"),
        rule("hosts: [a.org], from: [{namespace: web, serviceAccount: a.b-c}, {uid: 0}]"),
        rule("hosts: [a.org], from: [{cgroup: /a/*.service/}, {uid: 4294967294}]"),
        rule("hosts: [a.org], from: [{labels: {app: a, app.kubernetes.io/name: A_b.c-1, x: ''}}]"),
    ] {
        Policy::parse(&text, "p").unwrap();
        schema.accepts(&text).unwrap();
    }
    for text in [
        "version: 1\n".to_owned(),
        "rules: []\n".to_owned(),
        "version: 2\nrules: []\n".to_owned(),
        "version: 1\nmode: off\nrules: []\n".to_owned(),
        "version: 1\nrules: {}\n".to_owned(),
        "version: 1\nrules: [{hosts: [a.org]}]\n".to_owned(),
        "version: 1\nrules: [{name: A, hosts: [a.org]}]\n".to_owned(),
        rule("hosts: []"),
        rule("hosts: a.org"),
        rule("hosts: [a.*]"),
        rule("hosts: [.a.org]"),
        rule("hosts: ['https://a.org']"),
        rule("hosts: ['a.org:443']"),
        rule("hosts: [a.org], ports: []"),
        rule("hosts: [a.org], ports: [0]"),
        rule("hosts: [a.org], ports: [65536]"),
        rule("hosts: [a.org], ports: [https]"),
        rule("hosts: [a.org], action: block"),
        rule("hosts: [a.org], mode: audit"),
        rule("hosts: [a.org], mode: enforce, action: deny"),
        rule("hosts: [a.org], from: []"),
        rule("hosts: [a.org], from: [{}]"),
        rule("hosts: [a.org], from: [{namespace: 'web*'}]"),
        rule("hosts: [a.org], from: [{cgroup: a/b}]"),
        rule("hosts: [a.org], from: [{cgroup: /}]"),
        rule("hosts: [a.org], from: [{cgroup: /a//b}]"),
        rule("hosts: [a.org], from: [{labels: {}}]"),
        rule("hosts: [a.org], from: [{labels: [app]}]"),
        rule("hosts: [a.org], from: [{labels: {app: [a]}}]"),
        rule("hosts: [a.org], from: [{labels: {app: }}]"),
        rule("hosts: [a.org], from: [{labels: {app: 'a*'}}]"),
        rule("hosts: [a.org], from: [{labels: {app: '-a'}}]"),
        rule("hosts: [a.org], from: [{labels: {'app=': a}}]"),
        rule("hosts: [a.org], from: [{labels: {'/app': a}}]"),
        rule("hosts: [a.org], from: [{labels: {'X/app': a}}]"),
        rule("hosts: [a.org], from: [{uid: 4294967295}]"),
        rule("hosts: [a.org], from: [{uid: root}]"),
    ] {
        assert!(Policy::parse(&text, "p").is_err(), "{text}");
        assert!(schema.accepts(&text).is_err(), "{text}");
    }
}

/// A fenced block of a document, with what stands in a comment before it.
struct Block {
    language: String,
    /// `<!-- file: NAME -->` before the block.
    file: Option<String>,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    let mut file = None;
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("<!-- file: ") {
            file = Some(name.trim_end_matches(" -->").to_owned());
        }
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let text = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(Block {
            language: language.to_owned(),
            file: file.take(),
            text: text.flat_map(|line| [line, "\n"]).collect(),
        });
    }
    blocks
}

/// Every policy that the documents show is one.
#[test]
fn policies_in_the_documents_are_valid() {
    let schema = Schema::published();
    let mut policies = vec![file("deploy/policy.yaml")];
    for path in ["README.md", "docs/policy.md"] {
        let found = blocks(&file(path)).into_iter();
        let found = found.filter(|block| {
            let broken = block.file.as_deref() == Some("broken.yaml");
            block.text.starts_with("version: 1\n") && !broken
        });
        let before = policies.len();
        policies.extend(found.map(|block| block.text));
        assert!(policies.len() > before, "{path} shows no policy");
    }
    for text in policies {
        let loaded =
            Policy::check(&text, "policy").map_err(|mistakes| format!("{mistakes}\n{text}"));
        loaded.unwrap();
        schema.accepts(&text).unwrap();
    }
}

/// The sessions in `docs/policy.md` print what they show, with the files that it shows.
#[test]
fn sessions_in_the_documents_are_real() {
    let dir = tempfile::tempdir().unwrap();
    let mut sessions = 0;
    for block in blocks(&file("docs/policy.md")) {
        if let Some(name) = &block.file {
            std::fs::write(dir.path().join(name), &block.text).unwrap();
        }
        if block.language != "console" {
            continue;
        }
        for session in block.text.split("$ ").skip(1) {
            let (command, expected) = session.split_once('\n').unwrap();
            let words: Vec<_> = command.split_whitespace().collect();
            let ["egress", args @ ..] = words.as_slice() else {
                panic!("{command}");
            };
            let ended = process::command(env!("CARGO_BIN_EXE_egress"))
                .args(args)
                .current_dir(dir.path())
                .output()
                .unwrap();
            let printed = [ended.stdout, ended.stderr].concat();
            let printed = String::from_utf8(printed).unwrap();
            assert_eq!(printed.trim_end(), expected.trim_end(), "{command}");
            sessions += 1;
        }
    }
    assert!(sessions >= 5, "{sessions} sessions were found");
}
