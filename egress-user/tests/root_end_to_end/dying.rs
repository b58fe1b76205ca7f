//! Agents that die while they start, at one call to the kernel after the other, and clients that
//! connect all the time.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use egress_lab::{BpfFs, lab, process, tools, wait};
use rustix::process::Signal;

use crate::clients::curl;
use crate::steady::Clients;
use crate::world::{EN, IBM, Wish, World, egress};

/// The system calls at which agents die, as strace knows them: those that load, attach and pin
/// programs, and those by which pins take the place of others.
const CALLS: [&str; 2] = ["bpf", "/^rename"];

/// At how many of each an agent dies in one test.
const DEATHS: usize = 8;

/// A death at a system call.
#[derive(Clone, Copy, Debug)]
struct Death {
    call: &'static str,
    /// Counted from 1.
    number: usize,
}

/// A program that is the agent under strace, which is told `what` to do.
fn traced(folder: &Path, what: &str) -> PathBuf {
    let strace = tools::locate("strace").unwrap();
    let library_path = strace.library_path.unwrap_or_default();
    let path = folder.join("traced");
    let script = format!(
        "#!/bin/sh\n\
         export LD_LIBRARY_PATH='{}'\n\
         exec '{}' -D -f -qq -e signal=none -e trace=bpf,/^rename {what} '{}' \"$@\"\n",
        library_path.display(),
        strace.path.display(),
        egress().display(),
    );
    process::write_program(&path, &script).unwrap();
    path
}

/// Starts an agent, which is the world's from now on, and gives the [`CALLS`] that the thread which
/// starts it makes until it is ready.
fn calls(world: &mut World, folder: &Path) -> Vec<String> {
    let calls = folder.join("calls");
    // It serves, and one that stopped at each and every call would be too slow for that.
    let what = format!("--seccomp-bpf -s 64 -o '{}'", calls.display());
    let program = traced(folder, &what);
    let mut before = start(world, &program);
    wait::until("the traced agent is ready", || {
        let agent = &world.deployment.agent;
        agent.output().contains("agent ready").then_some(())
    })
    .unwrap();
    before.ended().unwrap();
    let text = fs::read_to_string(&calls).unwrap();
    let first = text.split_whitespace().next().unwrap();
    // A call during which another thread makes one is told twice.
    let own = |line: &&str| line.starts_with(first) && !line.contains(" resumed>");
    let own = text.lines().filter(own);
    own.map(str::to_owned).collect()
}

/// Some deaths at each of [`CALLS`], of those that an agent makes.
fn deaths(calls: &[String]) -> Vec<Death> {
    let of_each = |call: &'static str| {
        let name = call.trim_start_matches("/^");
        let count = calls.iter().filter(|line| line.contains(name)).count();
        assert!(count > DEATHS, "{count} calls of {name}");
        some_of(count).map(move |number| Death { call, number })
    };
    CALLS.into_iter().flat_map(of_each).collect()
}

/// Some of the numbers from 1 to `count`, half of them the last ones: there links are pinned.
fn some_of(count: usize) -> impl Iterator<Item = usize> {
    let half = DEATHS / 2;
    let last = count - half + 1;
    let spread = (0..half).map(move |step| 1 + step * (last - 1) / half);
    spread.chain(last..=count)
}

/// Starts another agent, and gives the one before, which ends when that is dropped.
fn start(world: &mut World, program: &Path) -> egress_lab::Process {
    world.deployment.upgrade_agent(&world.lab, program).unwrap()
}

fn kill(agent: &mut egress_lab::Process) {
    agent.signal(Signal::KILL).unwrap();
    agent.ended().unwrap();
}

/// Starts an agent that dies.
fn die(world: &mut World, folder: &Path, death: Death) -> egress_lab::Process {
    let Death { call, number } = death;
    let what = format!("-o /dev/null -e 'inject={call}:signal=SIGKILL:when={number}'");
    let before = start(world, &traced(folder, &what));
    let ended = world.deployment.agent.ended().unwrap();
    let output = world.deployment.agent.output();
    assert_eq!(ended.signal(), Some(libc::SIGKILL), "{death:?}: {output}");
    before
}

/// What clients may be told while no agent serves them.
const REFUSALS: [&str; 4] = ["ECONNREFUSED", "EPERM", "ECONNRESET", "lost"];

/// An agent was killed whose programs are pinned, and clients go on connecting.
// What is used is dropped before what it uses.
struct Scene {
    clients: Clients,
    world: World,
    /// What an agent calls from its start until it is ready.
    calls: Vec<String>,
    folder: tempfile::TempDir,
    _bpf_fs: BpfFs,
}

impl Scene {
    fn without_an_agent() -> Scene {
        let bpf_fs = BpfFs::mount().unwrap();
        let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
        let folder = lab::scratch().unwrap();
        let mut world = World::with(&Wish {
            capture: &[&pin],
            ..Wish::default()
        });
        let mut clients = Clients::start(&world);
        clients.another("answer", &[]);
        kill(&mut world.deployment.agent);
        let calls = calls(&mut world, folder.path());
        kill(&mut world.deployment.agent);
        clients.another("end", &REFUSALS);
        Scene {
            clients,
            world,
            calls,
            folder,
            _bpf_fs: bpf_fs,
        }
    }

    /// An agent serves the clients again, and nothing has reached the origin.
    fn ends_well(mut self) {
        start(&mut self.world, egress());
        self.clients.another("answer", &REFUSALS);
        self.clients.another("answer", &[]);
        drop(self.clients);
        curl(&self.world, EN.name, EN.v4.into()).assert_page_of(EN.name);
        self.world.assert_nothing_arrived(IBM);
        self.world.assert_application_sent_nothing_to(IBM);
    }
}

#[test]
fn nothing_opens_while_agents_die_one_after_the_other() {
    let mut scene = Scene::without_an_agent();
    for death in deaths(&scene.calls) {
        die(&mut scene.world, scene.folder.path(), death);
        scene.clients.another("end", &REFUSALS);
    }
    scene.ends_well();
}

/// A kernel that takes all programs but one: the agent says which and ends, and what an agent before
/// it pinned goes on refusing.
#[test]
fn nothing_opens_when_a_program_cannot_be_loaded() {
    let mut scene = Scene::without_an_agent();
    let calls = scene.calls.iter().filter(|call| call.contains("bpf("));
    let loads = |call: &String| call.contains("prog_name=\"egress_connect4");
    let number = 1 + calls.into_iter().position(loads).unwrap();
    // And from there on: the first failure is asked about.
    let what = format!("-o /dev/null -e inject=bpf:error=EACCES:when={number}+");
    let program = traced(scene.folder.path(), &what);
    start(&mut scene.world, &program);
    let agent = &mut scene.world.deployment.agent;
    let ended = agent.ended().unwrap();
    let output = agent.output();
    assert!(ended.code().is_some_and(|code| code != 0), "{output}");
    let said = output
        .lines()
        .filter(|line| line.contains("egress_connect4"));
    assert_eq!(said.count(), 1, "{output}");
    assert!(!output.contains("agent ready"), "{output}");
    scene.clients.another("end", &REFUSALS);
    scene.ends_well();
}

#[test]
fn a_successor_that_dies_leaves_the_agent_serving() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pin = format!("pin: {}", bpf_fs.path().join("egress").display());
    let folder = lab::scratch().unwrap();
    let handover = format!("handover: {}", folder.path().join("handover").display());
    let mut world = World::with(&Wish {
        capture: &[&pin, &handover],
        ..Wish::default()
    });
    let mut clients = Clients::start(&world);
    clients.another("answer", &[]);
    let calls = calls(&mut world, folder.path());
    clients.another("answer", &[]);
    for death in deaths(&calls) {
        let before = die(&mut world, folder.path(), death);
        world.deployment.agent = before;
        // What the successor had accepted dies with it, and until the other notices there may be
        // refusals.
        clients.another("answer", &["ECONNREFUSED", "ECONNRESET", "EPERM", "lost"]);
        clients.another("answer", &["EPERM"]);
        clients.another("answer", &[]);
    }
    drop(clients);
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.assert_nothing_arrived(IBM);
    world.assert_application_sent_nothing_to(IBM);
}
