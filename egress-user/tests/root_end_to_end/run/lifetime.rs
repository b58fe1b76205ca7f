//! The command itself: how it runs, as whom, how it ends, and what is left of it.

use std::fs;
use std::path::Path;

use egress_lab::deployment::read_records;
use egress_lab::{Process, cgroup, process, tools, wait};
use rustix::process::{Pid, Signal, kill_process};

use super::{Machine, allow_en, borrowed, stderr, stdout};
use crate::clients::CURL;
use crate::world::{EN, IBM, sent};

#[test]
fn the_exit_code_is_the_command_s() {
    let machine = Machine::new();
    for (script, code) in [
        ("true", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ] {
        let output = machine.run_shell(&[], script);
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
    let not_there = machine.run(&[]).arg("/no/such/command").output().unwrap();
    assert_eq!(not_there.status.code(), Some(127), "{not_there:?}");
    assert!(stderr(&not_there).contains("/no/such/command"));
    let no_program = machine.run(&[]).arg("/etc/passwd").output().unwrap();
    assert_eq!(no_program.status.code(), Some(126), "{no_program:?}");
    machine.assert_nothing_is_left();
}

#[test]
fn input_and_output_are_the_command_s() {
    let machine = Machine::new();
    let input = machine.lab.directory().join("input");
    fs::write(&input, "a line\n").unwrap();
    let mut cat = machine.run(&[]);
    cat.arg("cat").stdin(fs::File::open(&input).unwrap());
    assert_eq!(stdout(&cat.output().unwrap()), "a line\n");
}

/// Connects so often at once, and only then asks for a page in each.
const CROWD: &str = "
import socket, ssl, sys, threading
address, name, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
connected = [socket.create_connection((address, 443)) for _ in range(60)]
pages = []
def fetch(connection):
    with context.wrap_socket(connection, server_hostname=name) as session:
        session.sendall(f'GET / HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
        pages.append(b''.join(iter(lambda: session.recv(65536), b'')))
threads = [threading.Thread(target=fetch, args=[connection]) for connection in connected]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(name.encode() in page for page in pages))
";

#[test]
fn connections_without_descriptors_wait_for_those_before_them() {
    let machine = Machine::new();
    let python = tools::locate("python3").unwrap().path;
    let mut command = process::command("sh");
    // Room for 24 connections at four descriptors each, beside those that are no connection's.
    command.args(["-c", "ulimit -n 160; exec \"$@\"", "sh"]);
    command.arg(&machine.program).arg("run").args(allow_en());
    command.arg("--").arg(python).args(["-c", CROWD]);
    command.args([&EN.v4.to_string(), EN.name]);
    command.arg(machine.authority.certificate());
    machine.place(&mut command);
    let output = command.output().unwrap();
    assert_eq!(stdout(&output), "60\n", "{output:?}");
    let said = stderr(&output);
    assert!(!said.contains("cannot accept"), "{said}");
    machine.assert_nothing_is_left();
}

#[test]
fn limits_are_the_command_s_although_ours_are_higher() {
    let machine = Machine::new();
    let script = format!(
        "ulimit -Sn 1000; exec {} run -- sh -c 'ulimit -Sn; grep files /proc/$PPID/limits'",
        machine.program.display()
    );
    let mut command = process::command("sh");
    command.args(["-c", &script]);
    machine.place(&mut command);
    let output = stdout(&command.output().unwrap());
    let (ours, parent) = output.split_once('\n').unwrap();
    assert_eq!(ours, "1000");
    let limits: Vec<&str> = parent.split_whitespace().collect();
    let ["Max", "open", "files", soft, hard, "files"] = limits[..] else {
        panic!("{output}");
    };
    assert_eq!(soft, hard, "it may open as many files as it is allowed");
}

#[test]
fn signals_reach_the_command() {
    let machine = Machine::new();
    for (signal, name, code) in [
        (Signal::TERM, "TERM", 11),
        (Signal::INT, "INT", 12),
        (Signal::HUP, "HUP", 13),
        (Signal::USR1, "USR1", 14),
    ] {
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 0.05; done");
        let mut command = machine.run(&[]);
        command.args(["sh", "-c", &script]);
        let mut process = Process::start(command, name, machine.lab.directory()).unwrap();
        process.says("ready").unwrap();
        process.signal(signal).unwrap();
        assert_eq!(
            process.ended().unwrap().code(),
            Some(code),
            "{}",
            process.output()
        );
    }
    machine.assert_nothing_is_left();
}

#[test]
fn the_terminal_is_the_command_s_and_so_is_its_ctrl_c() {
    let machine = Machine::new();
    let script = machine.lab.directory().join("script");
    // Interrupted once by the terminal and once more by us, if we passed it on as well. Two signals
    // of a kind that wait together are one, so each is taken before the next.
    let text = r#"
import os, signal, sys
count = 0
def interrupted(*_):
    global count
    count += 1
    print("interrupted", flush=True)
signal.signal(signal.SIGINT, interrupted)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9 if count == 1 else 10 + count))
if os.isatty(0) and os.isatty(1):
    print("terminal")
print("ready", flush=True)
while True:
    signal.pause()
"#;
    fs::write(&script, text).unwrap();
    // Whatever `SHELL` is: one that stayed would be interrupted as well.
    let inner = format!(
        "exec {} run -- python3 {}",
        machine.program.display(),
        script.display()
    );
    let mut command = process::command("script");
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &inner,
        "/dev/null",
    ]);
    machine.place(&mut command);
    let mut process =
        Process::start_with_input(command, "script", machine.lab.directory()).unwrap();
    process.says("ready").unwrap();
    process.input(b"\x03").unwrap();
    process.says("interrupted").unwrap();
    // A second interrupt would be passed on before this.
    kill_process(parent_of_python(&machine, &script), Signal::USR1).unwrap();
    assert_eq!(
        process.ended().unwrap().code(),
        Some(9),
        "{}",
        process.output()
    );
    let output = process.output();
    assert!(output.contains("terminal"), "{output}");
    assert_eq!(output.matches("interrupted").count(), 1, "{output}");
}

/// The `egress run` that started the python which runs `script`.
fn parent_of_python(machine: &Machine, script: &Path) -> Pid {
    let python = |id: &u32| {
        let words = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        // Whatever the interpreter is called by whoever chose it.
        let words: Vec<&str> = words.split_terminator('\0').collect();
        matches!(words[..], [_, last] if Path::new(last) == script)
    };
    let python = machine.cgroup.processes().into_iter().find(python).unwrap();
    let status = fs::read_to_string(format!("/proc/{python}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Pid::from_raw(parent.unwrap().trim().parse().unwrap()).unwrap()
}

#[test]
fn under_sudo_the_command_runs_as_the_user_who_called() {
    let machine = Machine::new();
    // A user with supplementary groups, known only in a mount namespace of its own; and groups of
    // root's that the command must not inherit.
    let files = machine.lab.directory();
    for (file, more) in [
        ("passwd", "lab:x:4242:4242::/:/bin/sh\n"),
        ("group", "lab:x:4242:\nlabs:x:4343:lab\nnight:x:4444:lab\n"),
    ] {
        let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
        fs::write(files.join(file), text + more).unwrap();
    }
    let script = format!(
        "mount --bind {files}/passwd /etc/passwd && mount --bind {files}/group /etc/group && \
         exec setpriv --groups 4,24 {program} run -- \
         sh -c 'id -u; id -g; id -G; echo $USER $HOME; grep CapEff /proc/self/status'",
        files = files.display(),
        program = machine.program.display(),
    );
    let mut command = process::command("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    machine.place(&mut command);
    command.env("SUDO_UID", "4242").env("SUDO_GID", "4242");
    let output = command.output().unwrap();
    let expected = "4242\n4242\n4242 4343 4444\nlab /\nCapEff:\t0000000000000000\n";
    assert_eq!(stdout(&output), expected, "{output:?}");
    machine.assert_nothing_is_left();
}

#[test]
fn an_ordinary_user_s_command_is_captured_too() {
    let machine = Machine::new();
    let log = machine.lab.directory().join("records.jsonl");
    let mut options = allow_en();
    options.extend(["--log".into(), log.display().to_string()]);
    let mut command = machine.run(&borrowed(&options));
    command
        .arg(tools::locate("curl").unwrap().path)
        .args(CURL)
        .arg("--cacert")
        .arg(machine.authority.certificate())
        .args(["--resolve", &format!("{}:443:{}", IBM.name, IBM.v4)])
        .arg(format!("https://{}/", IBM.name))
        .env("SUDO_UID", "65534")
        .env("SUDO_GID", "65534");
    let output = command.output().unwrap();
    assert!(
        stderr(&output).contains("alert access denied"),
        "{output:?}"
    );
    let records = read_records(&log).unwrap();
    let mut agent = records
        .iter()
        .filter(|record| record.text("hop") == "agent");
    let uid = agent.next().unwrap().at("/process/uid");
    assert_eq!(uid, Some(&65534.into()));
}

/// Desktops and service managers give users cgroups of their own, and whoever may write to the
/// common ancestor of two cgroups may move between them.
#[test]
fn a_user_cannot_move_the_command_back_to_a_cgroup_of_their_own() {
    let machine = Machine::new();
    let procs = machine.cgroup.path().join("cgroup.procs");
    for path in [machine.cgroup.path(), &procs] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let mut command = machine.run(&borrowed(&allow_en()));
    let script = format!("echo $$ > {} && echo escaped; true", procs.display());
    command
        .args(["sh", "-c", &script])
        .env("SUDO_UID", "65534")
        .env("SUDO_GID", "65534");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{output:?}");
    assert!(
        !stderr(&output).is_empty(),
        "the kernel's refusal: {output:?}"
    );
}

#[test]
fn without_privilege_one_sentence_says_what_is_missing() {
    let machine = Machine::new();
    let mut command = process::command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&machine.program)
        .args(["run", "--allow", "*.wikipedia.org", "--", "true"]);
    machine.place(&mut command);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = stderr(&output);
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(
        said.contains("CAP_BPF") && said.contains("run it as root"),
        "{said}"
    );
    machine.assert_nothing_is_left();
}

#[test]
fn quic_is_refused_at_once() {
    let machine = Machine::new();
    let script = format!(
        "import socket\n\
         for family, address in [(socket.AF_INET, '{}'), (socket.AF_INET6, '{}')]:\n\
         \x20   try: socket.socket(family, socket.SOCK_DGRAM).sendto(b'initial', (address, 443))\n\
         \x20   except PermissionError: print('refused')",
        EN.v4, EN.v6
    );
    let output = machine
        .run(&[])
        .args(["python3", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "refused\nrefused\n", "{output:?}");
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);
}

#[test]
fn the_cgroup_is_gone_afterwards() {
    let machine = Machine::new();
    let output = machine.run_shell(&[], "grep ^0:: /proc/self/cgroup");
    let line = stdout(&output);
    let path = line.trim().strip_prefix("0::/").unwrap();
    let directory = cgroup::mount_point().unwrap().join(path);
    assert_ne!(directory, machine.cgroup.path(), "it has one of its own");
    assert!(!directory.exists(), "{}", directory.display());
    machine.assert_nothing_is_left();
}

#[test]
fn what_the_command_left_running_ends_with_it() {
    let machine = Machine::new();
    let output = machine.run_shell(&[], "sleep 600 >/dev/null 2>&1 & echo started");
    assert_eq!(stdout(&output), "started\n", "{output:?}");
    machine.assert_nothing_is_left();
}

#[test]
fn killed_it_takes_the_command_with_it_and_lets_nothing_through() {
    // Every process knocks without a pause, so that the slightest gap between the end of the
    // capture and the end of the command would be seen on the wire.
    const SCRIPT: &str = r#"
import os, socket, sys
for _ in range(7):
    if os.fork() == 0:
        break
print("knocking", flush=True)
while True:
    with socket.socket() as s:
        s.setblocking(False)
        s.connect_ex((sys.argv[1], 443))
"#;
    let machine = Machine::new();
    for _ in 0..5 {
        let mut command = machine.run(&["--allow", "*.wikipedia.org"]);
        command.args(["python3", "-c", SCRIPT, &IBM.v4.to_string()]);
        let mut process = Process::start(command, "knocking", machine.lab.directory()).unwrap();
        process.says("knocking").unwrap();
        process.signal(Signal::KILL).unwrap();
        process.ended().unwrap();
        wait::until("the command is gone too", || {
            machine.cgroup.processes().is_empty().then_some(())
        })
        .unwrap();
        let sent = machine.wire.sent_to(&machine.lab.app, IBM.v4.into());
        assert_eq!(sent.unwrap(), []);
    }
    assert_eq!(machine.origins.arrived(&machine.lab, IBM.name).unwrap(), []);

    // The next run tidies up.
    assert!(machine.run_shell(&[], "true").status.success());
    machine.assert_nothing_is_left();
}

/// Nobody is left to end the command, and it still reaches nothing.
#[test]
fn killed_together_with_its_keeper_it_lets_nothing_through() {
    const SCRIPT: &str = r#"
import os, socket, sys, time
parent = os.getppid()
print("ready", flush=True)
while os.getppid() == parent:
    time.sleep(0.01)
for _ in range(100):
    try:
        socket.create_connection((sys.argv[1], 443), timeout=60)
        sys.exit("connected")
    except ConnectionRefusedError:
        pass
print("refused", flush=True)
"#;
    let machine = Machine::new();
    let mut command = machine.run(&["--allow", "*.wikipedia.org"]);
    command.args(["python3", "-c", SCRIPT, &EN.v4.to_string()]);
    let mut process = Process::start(command, "alone", machine.lab.directory()).unwrap();
    process.says("ready").unwrap();
    let keeper = keeper(&machine);
    // It must not act when it sees the end of the other.
    kill_process(keeper, Signal::STOP).unwrap();
    process.signal(Signal::KILL).unwrap();
    kill_process(keeper, Signal::KILL).unwrap();
    process.ended().unwrap();
    wait::until("the command has tried", || {
        process.output().contains("refused").then_some(())
    })
    .unwrap();
    assert_eq!(sent(&machine.wire, &machine.lab.app), []);
    assert_eq!(machine.origins.arrived(&machine.lab, EN.name).unwrap(), []);

    // The next run tidies up.
    wait::until("the command is gone", || {
        machine.cgroup.processes().is_empty().then_some(())
    })
    .unwrap();
    assert!(machine.run_shell(&[], "true").status.success());
    machine.assert_nothing_is_left();
}

fn keeper(machine: &Machine) -> Pid {
    let is_keeper = |id: &u32| {
        let name = fs::read_to_string(format!("/proc/{id}/comm"));
        name.is_ok_and(|name| name.trim() == "egress-keeper")
    };
    let id = machine.cgroup.processes().into_iter().find(is_keeper);
    Pid::from_raw(id.unwrap().try_into().unwrap()).unwrap()
}

/// A summary that nobody reads is no reason to fail.
#[test]
fn a_closed_standard_error_changes_nothing() {
    let machine = Machine::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = machine.run(&[]);
    let curl = format!(
        "curl --disable --silent --max-time 5 https://{}/ --resolve {}:443:{}; exit 5",
        IBM.name, IBM.name, IBM.v4
    );
    command.args(["sh", "-c", &curl]).stderr(writer);
    assert_eq!(command.output().unwrap().status.code(), Some(5));
    let not_there = machine
        .run(&[])
        .arg("/no/such/command")
        .stderr({
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        })
        .output()
        .unwrap();
    assert_eq!(not_there.status.code(), Some(127));
}
