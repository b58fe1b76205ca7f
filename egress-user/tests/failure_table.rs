//! Every row of ARCHITECTURE.md's table of failures names the tests that show it, and they exist.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../ARCHITECTURE.md");

const HEAD: &str = "| what breaks |";

/// A row: what breaks, and its last cell.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let lines = page.lines().skip_while(|line| !line.starts_with(HEAD));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[what, _, _, _, shown_by] = cells.as_slice() else {
            panic!("not five cells: {row}");
        };
        (what, shown_by)
    });
    cells.collect()
}

/// What stands between backticks.
fn named(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Every test of the package by its path: the folders, the file and the function, such as
/// `root_end_to_end::refused::quic`. A file called `tests` counts as the one that it is about.
fn tests() -> Vec<String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for top in ["src", "tests"] {
        let top = package.join(top);
        let mut files = Vec::new();
        collect(&top, &mut files);
        for file in files {
            let module = file.strip_prefix(&top).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            let module = module.strip_suffix("::tests").unwrap_or(&module);
            let text = fs::read_to_string(&file).unwrap();
            found.extend(functions(&text).map(|name| format!("{module}::{name}")));
        }
    }
    found
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The names of the functions behind a test attribute.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let mut attributed = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[") {
            attributed |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            return None;
        }
        if !std::mem::take(&mut attributed) {
            return None;
        }
        let (_, function) = line.split_once("fn ")?;
        function.split_once('(').map(|(name, _)| name)
    })
}

fn is_there(tests: &[String], name: &str) -> bool {
    tests.iter().any(|test| {
        let before = test.strip_suffix(name);
        name.contains("::") && before.is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    })
}

#[test]
fn every_failure_is_shown_by_a_test() {
    let (rows, tests) = (rows(PAGE), tests());
    assert!(rows.len() > 50, "{} rows were found", rows.len());
    assert!(tests.len() > 400, "{} tests were found", tests.len());
    let mut missing = Vec::new();
    for (what, shown_by) in rows {
        let names = named(shown_by);
        if names.is_empty() {
            missing.push(format!("no test is named for: {what}"));
        }
        let gone = names.into_iter().filter(|name| !is_there(&tests, name));
        missing.extend(gone.map(|name| format!("there is no test `{name}`, named for: {what}")));
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn what_is_missing_is_found() {
    let page = "| what breaks | a | b | c | d |\n|---|---|---|---|---|\n\
                | x | — | — | — | `m::one`, `m::two` |\n| y | — | — | — | |\n\n| z |\n";
    assert_eq!(rows(page), [("x", "`m::one`, `m::two`"), ("y", "")]);
    assert_eq!(named("`m::one`, `m::two`"), ["m::one", "m::two"]);
    let text = "#[test]\nfn one() {}\nfn helper() {}\n    #[tokio::test(start_paused = true)]\n    \
                #[ignore]\n    async fn two() {}\n";
    assert_eq!(functions(text).collect::<Vec<_>>(), ["one", "two"]);
    let tests = ["a::m::one".to_owned()];
    assert!(is_there(&tests, "m::one") && is_there(&tests, "a::m::one"));
    for name in ["one", "m::two", "am::one", "b::m::one"] {
        assert!(!is_there(&tests, name), "{name}");
    }
}
