//! Clients that connect all the time, while something happens to the agent.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};

use crate::world::{IBM, World};

/// 200 threads that connect again and again. For each line of standard input, once every client has
/// had another answer (`answer`) or another end of whatever kind (`end`): what they have had since
/// the line before, as JSON; what was left at its end.
const CLIENTS: &str = r#"
import collections, errno, json, ssl, socket, sys, threading, time
address, name = sys.argv[1:3]
COUNT, lock, stop = 200, threading.Lock(), threading.Event()
kinds, ends, answers = collections.Counter(), [0] * COUNT, [0] * COUNT
context = ssl.create_default_context()

def attempt():
    try:
        with socket.create_connection((address, 443), timeout=60) as plain:
            context.wrap_socket(plain, server_hostname=name)
        return "let through"
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError): return "lost"
    except ssl.SSLError as error:
        return "answer" if "ACCESS_DENIED" in str(error) else str(error)
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))

def client(number):
    while not stop.is_set():
        kind = attempt()
        with lock:
            kinds[kind] += 1
            ends[number] += 1
            answers[number] += kind == "answer"
        if kind != "answer": time.sleep(0.01)

threads = [threading.Thread(target=client, args=(number,)) for number in range(COUNT)]
for thread in threads: thread.start()
for line in sys.stdin:
    counts = answers if line.strip() == "answer" else ends
    with lock: before = list(counts)
    patience = time.monotonic() + 60
    while True:
        with lock:
            if time.monotonic() > patience: kinds["no " + line.strip()] += 1
            if time.monotonic() > patience or all(now > then for now, then in zip(counts, before)):
                print(json.dumps(kinds), flush=True)
                kinds.clear()
                break
        time.sleep(0.01)
stop.set()
for thread in threads: thread.join()
print(json.dumps(kinds), flush=True)
"#;

/// The clients, which end when this is dropped.
pub(crate) struct Clients {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Clients {
    pub(crate) fn start(world: &World) -> Clients {
        let mut command = world.captured("python3");
        command.args(["-c", CLIENTS, &IBM.v4.to_string(), IBM.name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Clients { process, lines }
    }

    /// Waits until every client has had another `kind` of end, and gives how many answers there were
    /// since this was last asked; fails if there was anything but answers and `others`.
    pub(crate) fn another(&mut self, kind: &str, others: &[&str]) -> u64 {
        let stdin = self.process.stdin.as_mut().unwrap();
        writeln!(stdin, "{kind}").unwrap();
        self.answers(others)
    }

    /// Ends the clients, and gives how many answers there were since [`another`](Self::another).
    pub(crate) fn finish(mut self) -> u64 {
        drop(self.process.stdin.take());
        let answers = self.answers(&[]);
        assert!(self.process.wait().unwrap().success());
        answers
    }

    fn answers(&mut self, others: &[&str]) -> u64 {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let kinds: BTreeMap<String, u64> = serde_json::from_str(&line).unwrap();
        let strange = |kind: &&String| *kind != "answer" && !others.contains(&kind.as_str());
        assert_eq!(kinds.keys().find(strange), None, "{kinds:?}");
        kinds.get("answer").copied().unwrap_or_default()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
