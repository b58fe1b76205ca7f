//! How tests start other programs: with an environment that is the same for whoever runs them, and
//! never from a file that this process has had open for writing.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// What would take the whole environment along, and what `egress_lab::process` has instead.
const WAYS: [(&str, &str); 3] = [
    (concat!("Command", "::new("), "process::command"),
    (concat!("fs::", "copy("), "process::copy_program"),
    (concat!("from_mode(0o", "7"), "process::write_program"),
];

/// Where they are allowed: in that module, where packages are unpacked before any test, and on a
/// directory.
const ALLOWED: [&str; 6] = [
    "egress-lab/src/process.rs",
    "egress-lab/src/debian.rs",
    "egress-lab/src/debian/apt.rs",
    "egress-lab/src/wheel.rs",
    "egress-lab/src/lab.rs",
    "egress-user/tests/children.rs",
];

#[test]
fn children_are_started_by_the_lab() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = Vec::new();
    for place in ["egress-lab/src", "egress-lab/tests", "egress-user/tests"] {
        collect(&workspace.join(place), &mut sources);
    }
    assert!(sources.len() > 50, "{sources:?}");
    for source in sources {
        let name = source.strip_prefix(workspace).unwrap();
        if ALLOWED.iter().any(|allowed| name == Path::new(allowed)) {
            continue;
        }
        let text = fs::read_to_string(&source).unwrap();
        for (way, instead) in WAYS {
            let found = text.lines().position(|line| line.contains(way));
            let line = found.map(|line| line + 1);
            assert_eq!(line, None, "{}: {way}, not {instead}", name.display());
        }
    }
}

fn collect(place: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
