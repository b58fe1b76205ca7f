//! Real TLS clients, and what they say.

use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use crate::world::World;

/// Alerts (RFC 8446, section 6.2) as OpenSSL puts them into words; curl, Python and Node pass
/// these on.
pub(crate) const ACCESS_DENIED: &str = "alert access denied";
pub(crate) const UNRECOGNIZED_NAME: &str = "unrecognized name";
pub(crate) const INTERNAL_ERROR: &str = "alert internal error";

/// How a client ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// The page of this site came, over a session with its own certificate.
    pub(crate) fn assert_page_of(&self, name: &str) {
        let title = format!("<title>{name}</title>");
        assert!(self.success && self.stdout.contains(&title), "{self:#?}");
    }

    /// The client failed, with this alert as its reason.
    pub(crate) fn assert_alert(&self, alert: &str) {
        assert!(!self.success, "{self:#?}");
        assert!(self.stderr.contains(alert), "not \"{alert}\": {self:#?}");
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Answer {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Answer {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// A client that gets `/` of `name`, connecting to `address`.
pub(crate) type Client = fn(&World, &str, IpAddr) -> Answer;

pub(crate) fn curl(world: &World, name: &str, address: IpAddr) -> Answer {
    let mut curl = curl_command(world, name, address);
    curl.arg(format!("https://{name}/"));
    run(&mut curl)
}

/// A curl that reads no configuration of whoever runs the tests, and says what is wrong.
pub(crate) const CURL: [&str; 3] = ["--disable", "--silent", "--show-error"];

/// A curl that verifies the lab's origins and knows one address; the URL is still missing.
pub(crate) fn curl_command(world: &World, name: &str, address: IpAddr) -> Command {
    let mut curl = world.captured("curl");
    curl.args(CURL)
        .arg("--cacert")
        .arg(world.authority.certificate())
        .args(["--resolve", &format!("{name}:443:{address}")]);
    curl
}

pub(crate) fn openssl(world: &World, name: &str, address: IpAddr) -> Answer {
    let mut openssl = openssl_command(world, address);
    openssl.args(["-servername", name, "-verify_hostname", name]);
    openssl_get(openssl, name)
}

/// An `s_client` that verifies the lab's origins; which name it asks for is still missing.
pub(crate) fn openssl_command(world: &World, address: IpAddr) -> Command {
    let mut openssl = world.captured("openssl");
    openssl
        .args([
            "s_client",
            "-quiet",
            "-verify_quiet",
            "-verify_return_error",
            "-CAfile",
        ])
        .arg(world.authority.certificate())
        .arg("-connect")
        .arg(std::net::SocketAddr::from((address, 443)).to_string());
    openssl
}

pub(crate) fn openssl_get(mut openssl: Command, name: &str) -> Answer {
    use std::io::Write as _;
    let mut child = openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A client that was refused has gone without reading.
    let mut stdin = child.stdin.take().unwrap();
    let _ = write!(stdin, "GET / HTTP/1.0\r\nHost: {name}\r\n\r\n");
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

pub(crate) fn python(world: &World, name: &str, address: IpAddr) -> Answer {
    const SCRIPT: &str = r#"
import socket, ssl, sys
name, address, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with socket.create_connection((address, 443)) as plain:
    print("peer", plain.getpeername()[0])
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
        while part := tls.recv(65536):
            print(part.decode())
"#;
    python_script(world, SCRIPT, &[name, &address.to_string()])
}

/// Runs a script with `arguments` and the origins' authority as the last one.
pub(crate) fn python_script(world: &World, script: &str, arguments: &[&str]) -> Answer {
    let mut python = world.captured("python3");
    python
        .args(["-c", script])
        .args(arguments)
        .arg(world.authority.certificate());
    run(&mut python)
}

pub(crate) fn node(world: &World, name: &str, address: IpAddr) -> Answer {
    const SCRIPT: &str = r#"
const tls = require("tls"), fs = require("fs");
const [name, address, authority] = process.argv.slice(1);
const options = { host: address, port: 443, servername: name, ca: fs.readFileSync(authority) };
const socket = tls.connect(options, () => socket.write(`GET / HTTP/1.0\r\nHost: ${name}\r\n\r\n`));
socket.on("data", (part) => process.stdout.write(part));
socket.on("error", (error) => { console.error(error.message); process.exitCode = 1; });
"#;
    let mut node = world.captured("node");
    node.args(["-e", SCRIPT, name, &address.to_string()])
        .arg(world.authority.certificate());
    run(&mut node)
}

pub(crate) fn run(command: &mut Command) -> Answer {
    let output = command.stdin(Stdio::null()).output();
    output
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
        .into()
}
