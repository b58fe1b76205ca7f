//! `egress run`: one command, captured, on one machine.

#[path = "run/judged.rs"]
mod judged;
#[path = "run/lifetime.rs"]
mod lifetime;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use egress_lab::{Authority, Cgroup, Lab, Names, Origins, Wire, process, tools};

use crate::clients::CURL;
use crate::world::{EN, IBM, egress};

/// Where pins are as a rule.
const BPF_FS: &str = "/sys/fs/bpf";

/// A host with origins in reach, on which commands are run.
struct Machine {
    origins: Origins,
    names: Names,
    /// Where `egress run` is started, so that what it leaves behind can be found.
    cgroup: Cgroup,
    wire: Wire,
    authority: Authority,
    program: PathBuf,
    /// What was pinned before, by whoever has programs of ours on this machine.
    pins: Vec<PathBuf>,
    lab: Lab,
}

impl Machine {
    fn new() -> Machine {
        let lab = Lab::new().unwrap();
        let authority = Authority::new(lab.directory()).unwrap();
        // A place that every user may read, wherever the workspace is.
        let program = lab.directory().join("egress");
        process::copy_program(egress(), &program).unwrap();
        Machine {
            origins: Origins::start(&lab, &authority, &[EN, IBM]).unwrap(),
            names: Names::start(&lab, &[(EN.name, EN.addresses())]).unwrap(),
            cgroup: Cgroup::new().unwrap(),
            wire: Wire::watch(&lab, &lab.app).unwrap(),
            authority,
            program,
            pins: pins(Path::new(BPF_FS)),
            lab,
        }
    }

    /// `egress run OPTIONS --`, which still lacks its command.
    fn run(&self, options: &[&str]) -> Command {
        let mut command = process::command(&self.program);
        command.arg("run").args(options).arg("--");
        self.place(&mut command);
        command
    }

    fn place(&self, command: &mut Command) {
        self.lab.app.namespace.enter(command).unwrap();
        self.cgroup.enter(command).unwrap();
        command.stdin(Stdio::null());
    }

    fn run_shell(&self, options: &[&str], script: &str) -> Output {
        self.run(options)
            .args(["sh", "-c", script])
            .output()
            .unwrap()
    }

    /// Runs curl for the page of `name`, which it takes to be at `address`.
    fn run_curl(&self, options: &[&str], name: &str, address: &str) -> Output {
        self.run(options)
            .arg(tools::locate("curl").unwrap().path)
            .args(CURL)
            .arg("--cacert")
            .arg(self.authority.certificate())
            .args(["--resolve", &format!("{name}:443:{address}")])
            .arg(format!("https://{name}/"))
            .output()
            .unwrap()
    }

    fn assert_nothing_is_left(&self) {
        let below = self.cgroup.below();
        assert!(below.is_empty(), "{below:?}");
        let mut pins = pins(Path::new(BPF_FS));
        pins.retain(|pin| !self.pins.contains(pin));
        assert!(pins.is_empty(), "{pins:?}");
        let processes = self.cgroup.processes();
        assert!(processes.is_empty(), "{processes:?}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn resolve_en() -> [String; 2] {
    ["--resolve".into(), format!("{}:443:{}", EN.name, EN.v4)]
}

/// Options that let wikipedia through, to the lab's address.
fn allow_en() -> Vec<String> {
    let mut options = vec!["--allow".into(), "*.wikipedia.org".into()];
    options.extend(resolve_en());
    options
}

fn borrowed(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

fn pins(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains("egress") {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(pins(&entry.path()));
        }
    }
    found
}
