//! What the application tries, and what must come of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use egress_lab::{Authority, Cgroup, Lab, Site};

/// One attempt of the captured application.
pub(crate) struct Attempt {
    /// As a person would put it.
    pub(crate) title: String,
    command: Command,
    expected: Expected,
}

/// What must come of an attempt.
pub(crate) enum Expected {
    /// The page of the site of this name.
    Page(&'static str),
    /// A TLS alert, in the client's words.
    Alert(&'static str),
    /// The kernel's refusal.
    NotPermitted,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) as_expected: bool,
    pub(crate) words: String,
}

/// The application's host, seen from the attempts.
pub(crate) struct Application<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) authority: &'a Authority,
}

impl Application<'_> {
    /// curl gets a site's page, at an address that it already knows.
    pub(crate) fn curl(&self, site: Site, expected: Expected) -> Result<Attempt> {
        let mut curl = self.captured_curl()?;
        let url = format!("https://{}/", site.name);
        curl.args(["--resolve", &format!("{}:443:{}", site.name, site.v4)])
            .arg(&url);
        Ok(Attempt {
            title: format!("curl {url}"),
            command: curl,
            expected,
        })
    }

    /// curl gets an address without a name.
    pub(crate) fn curl_address(&self, address: Ipv4Addr, alert: &'static str) -> Result<Attempt> {
        let mut curl = self.captured_curl()?;
        let url = format!("https://{address}/");
        curl.arg(&url);
        Ok(Attempt {
            title: format!("curl {url}"),
            command: curl,
            expected: Expected::Alert(alert),
        })
    }

    /// The first packet of a QUIC connection.
    pub(crate) fn quic(&self, address: Ipv4Addr) -> Result<Attempt> {
        let address = SocketAddr::from((address, 443));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "--quic", &address.to_string()]);
        self.capture(&mut command)?;
        Ok(Attempt {
            title: format!("QUIC to {address}"),
            command,
            expected: Expected::NotPermitted,
        })
    }

    fn captured_curl(&self) -> Result<Command> {
        let mut curl = egress_lab::tools::locate("curl")?.command();
        self.capture(&mut curl)?;
        curl.args([
            "--disable",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "30",
        ])
        .arg("--cacert")
        .arg(self.authority.certificate());
        Ok(curl)
    }

    fn capture(&self, command: &mut Command) -> Result<()> {
        self.lab.app.namespace.enter(command)?;
        self.cgroup.enter(command)?;
        Ok(())
    }
}

impl Attempt {
    /// Makes the attempt and judges what came of it.
    pub(crate) fn make(mut self) -> Result<Outcome> {
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.title))?;
        Ok(self.expected.judge(&output))
    }
}

impl Expected {
    fn judge(&self, output: &Output) -> Outcome {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let (as_expected, words) = match self {
            Expected::Page(name) => {
                let title = format!("<title>{name}</title>");
                let came = output.status.success() && stdout.contains(&title);
                (
                    came,
                    format!("the page \"{name}\", under the origin's own certificate"),
                )
            }
            Expected::Alert(alert) => {
                let refused = !output.status.success() && stderr.contains(alert);
                (refused, format!("refused: TLS {alert}"))
            }
            Expected::NotPermitted => {
                let text = "Operation not permitted";
                let refused = !output.status.success() && stderr.contains(text);
                (refused, format!("refused: {text}"))
            }
        };
        if as_expected {
            return Outcome { as_expected, words };
        }
        Outcome {
            as_expected,
            words: format!(
                "not \"{words}\" but {}: {}{}",
                output.status,
                stdout.trim(),
                stderr.trim()
            ),
        }
    }
}

/// Sends what looks like a QUIC Initial packet of 1200 bytes (RFC 9000, sections 14.1 and 17.2.2).
///
/// # Errors
///
/// Fails with the kernel's reason for refusing it; that is what the demo wants to see.
pub(crate) fn quic(address: SocketAddr) -> Result<()> {
    let mut packet = vec![0; 1200];
    for (byte, value) in packet.iter_mut().zip([0xc3, 0, 0, 0, 1, 8]) {
        *byte = value;
    }
    let send = || -> io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(&packet, address)
    };
    send().with_context(|| format!("cannot send to {address}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn output(code: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn a_page_must_be_the_right_one() {
        let page = Expected::Page("en.wikipedia.org");
        let judge = |name: &str| {
            let page_of = output(0, &format!("<title>{name}</title>"), "");
            page.judge(&page_of).as_expected
        };
        assert!(judge("en.wikipedia.org"));
        assert!(!judge("de.wikipedia.org"));
    }

    #[test]
    fn a_failure_of_another_kind_is_no_refusal() {
        let alert = Expected::Alert("alert access denied");
        let refused = output(35, "", "curl: (35) error:…:tlsv1 alert access denied");
        assert!(alert.judge(&refused).as_expected);
        assert!(
            !alert
                .judge(&output(7, "", "curl: (7) Failed to connect"))
                .as_expected
        );
        assert!(
            !alert
                .judge(&output(0, "alert access denied", ""))
                .as_expected
        );
    }
}
