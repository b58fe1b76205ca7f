//! Who may import whom (ARCHITECTURE.md, "Rooms"). Reads the sources and fails when an import
//! breaks a rule.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// What may not be named in which rooms. A room is a path below `src`, without `.rs`; it covers
/// what lies below it.
struct Rule {
    /// A path as it begins in code.
    name: &'static str,
    /// Where it may be named; everywhere else it is a violation.
    only: &'static [&'static str],
}

/// Each outside crate has one room, so that an upgrade touches one place.
const CRATES: &[Rule] = &[
    Rule {
        name: "aya",
        only: &["agent/capture"],
    },
    Rule {
        name: "aya_log",
        only: &["agent/capture"],
    },
    Rule {
        name: "base64",
        only: &["gateway/upstream"],
    },
    Rule {
        name: "clap",
        only: &["cli", "main"],
    },
    Rule {
        name: "fastrand",
        only: &["agent/tunnels"],
    },
    Rule {
        name: "hashbrown",
        only: &["policy"],
    },
    Rule {
        name: "httparse",
        only: &["gateway/upstream"],
    },
    Rule {
        name: "hickory_resolver",
        only: &["dns"],
    },
    Rule {
        name: "http_body_util",
        only: &["admin"],
    },
    Rule {
        name: "hyper",
        only: &["admin", "workload_api"],
    },
    Rule {
        name: "hyper_util",
        only: &["admin", "workload_api"],
    },
    Rule {
        name: "io_uring",
        only: &["selftest/attempt"],
    },
    Rule {
        name: "nix",
        only: &["run"],
    },
    Rule {
        name: "prometheus_client",
        only: &["record/metrics"],
    },
    Rule {
        name: "prost",
        only: &["workload_api"],
    },
    Rule {
        name: "psl",
        only: &["policy"],
    },
    Rule {
        name: "rcgen",
        only: &["pki"],
    },
    Rule {
        name: "rustls_native_certs",
        only: &["dns"],
    },
    Rule {
        name: "saphyr_parser",
        only: &["document"],
    },
    Rule {
        name: "signal_hook",
        only: &["run"],
    },
    Rule {
        name: "webpki",
        only: &["tunnel/tls"],
    },
    Rule {
        name: "tls_parser",
        only: &["hello"],
    },
    Rule {
        name: "tokio_rustls",
        only: &["agent/tunnels", "gateway"],
    },
    Rule {
        name: "tonic",
        only: &["workload_api"],
    },
    Rule {
        name: "tonic_prost",
        only: &["workload_api"],
    },
    Rule {
        name: "tower",
        only: &["workload_api"],
    },
    Rule {
        name: "x509_parser",
        only: &["tunnel/identity"],
    },
];

/// The halves never use each other; what both use knows neither.
const ROOMS: &[Rule] = &[
    Rule {
        name: "crate::agent",
        only: &["agent", "cli/agent", "config/agent", "run", "selftest"],
    },
    Rule {
        name: "crate::gateway",
        only: &["gateway", "cli/gateway", "cli/run", "config/gateway", "run"],
    },
    Rule {
        name: "crate::dns",
        only: &["dns", "agent/tunnels", "cli", "config/gateway", "gateway"],
    },
    Rule {
        name: "crate::cli",
        only: &["cli", "main"],
    },
    Rule {
        name: "crate::run",
        only: &["run", "cli/run"],
    },
    Rule {
        name: "crate::config",
        only: &["config", "cli", "reload"],
    },
    Rule {
        name: "crate::pki",
        only: &["pki", "cli/pki", "run"],
    },
    Rule {
        name: "crate::admin",
        only: &["admin", "cli"],
    },
    Rule {
        name: "crate::compat",
        only: &["compat", "selftest"],
    },
    Rule {
        name: "crate::cgroup",
        only: &["cgroup", "agent", "cli/agent", "run", "selftest"],
    },
    Rule {
        name: "crate::workload_api",
        only: &["workload_api", "cli/common", "config", "renewal"],
    },
    Rule {
        name: "crate::resolvers",
        only: &["resolvers", "cli/agent", "run"],
    },
    Rule {
        name: "crate::netns",
        only: &["netns", "agent", "cli/agent", "run", "selftest"],
    },
];

/// Rooms that judge or decode are pure: bytes and values in, values out.
const PURE: &[&str] = &[
    "agent/tunnels/balancer",
    "document",
    "hello",
    "policy",
    "refusal",
    "rule_name",
    "tunnel/frame",
    "tunnel/header",
    "tunnel/reader",
    "workload",
];

/// What a pure room does not know.
const IMPURE: &[&str] = &[
    "tokio",
    "socket2",
    "rustix",
    "libc",
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::env",
];

#[test]
fn imports_obey_the_rooms() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(
        files.len() > 40,
        "the sources were not found below {}",
        src.display()
    );
    let mut found = Vec::new();
    for file in files {
        let room = file.strip_prefix(&src).unwrap().with_extension("");
        let text = fs::read_to_string(&file).unwrap();
        found.extend(violations(room.to_str().unwrap(), &text));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn violations_are_found() {
    let bad = [
        ("gateway/dial", "use crate::agent::tunnels::Tunnels;"),
        ("agent", "    let x = crate::gateway::Gateway::bind();"),
        ("policy/verdict", "use tokio::net::TcpStream;"),
        ("hello", "use std::time::{Duration, Instant};"),
        ("relay", "use crate::{agent::Agent, drain::Drain};"),
        ("gateway/resolve", "use hickory_resolver::Name;"),
        ("record", "use clap::Parser;"),
        ("agent/connection", "fn f(e: aya::EbpfError) {}"),
    ];
    for (room, text) in bad {
        assert_eq!(violations(room, text).len(), 1, "{room}: {text}");
    }
    let good = [
        ("agent/connection", "use crate::agent::capture::Flows;"),
        ("dns", "use hickory_resolver::Name;"),
        ("policy", "//! Knows no tokio::net.\nuse std::sync::Arc;"),
        ("hello", "#[cfg(test)]\nmod tests {\n use std::fs;\n}"),
        ("config", "let nonclap::x = 1; // clap::Parser"),
    ];
    for (room, text) in good {
        assert_eq!(
            violations(room, text),
            Vec::<String>::new(),
            "{room}: {text}"
        );
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            files.push(path);
        }
    }
}

fn violations(room: &str, text: &str) -> Vec<String> {
    let code = flat(text);
    let within = |rooms: &[&str]| {
        rooms
            .iter()
            .any(|allowed| room == *allowed || room.starts_with(&format!("{allowed}/")))
    };
    let mut names: Vec<&str> = CRATES
        .iter()
        .chain(ROOMS)
        .filter(|rule| !within(rule.only))
        .map(|rule| rule.name)
        .collect();
    if within(PURE) {
        names.extend(IMPURE);
    }
    names
        .into_iter()
        .filter(|name| code.iter().any(|path| begins(path, name)))
        .map(|name| format!("src/{room}.rs may not use `{name}`"))
        .collect()
}

/// Whether `path` is `name` or goes on below it.
fn begins(path: &str, name: &str) -> bool {
    path.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that the code names, with braces of `use` spelt out. Comments and the tests at the
/// end of a file do not count.
fn flat(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let mut paths = Vec::new();
    for statement in code.split([';', '=', '(', '<', '&', ',']) {
        if let Some((_, tree)) = statement.rsplit_once("use ") {
            if !tree.contains('{') {
                paths.push(tree.trim().to_owned());
            }
        } else {
            paths.extend(words(statement));
        }
    }
    for statement in code.split(';') {
        if let Some((_, tree)) = statement.rsplit_once("use ") {
            spell_out("", tree.trim(), &mut paths);
        }
    }
    paths
}

fn words(statement: &str) -> impl Iterator<Item = String> {
    statement
        .split(|char: char| !char.is_alphanumeric() && char != '_' && char != ':')
        .filter(|word| word.contains("::"))
        .map(str::to_owned)
}

/// `a::{b, c::{d}}` → `a::b`, `a::c::d`.
fn spell_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{}", tree.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut depth = 0;
    let mut start = 0;
    for (at, char) in inner.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spell_out(&prefix, inner.get(start..at).unwrap_or_default(), paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    spell_out(&prefix, inner.get(start..).unwrap_or_default(), paths);
}
