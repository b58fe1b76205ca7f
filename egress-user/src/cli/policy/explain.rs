//! `egress policy explain`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CODES, Output, Stop, label, read_text, write};
use crate::hello::ServerName;
use crate::policy::{DEFAULT_PORT, Policy, Request};
use crate::workload::{Labels, Workload};

/// Says which rule decides about a connection, and why the others do not
///
/// What is not said of the workload is not known: deny rules then fit whoever may be meant, and
/// allow rules only who certainly is. Every rule and every near miss comes with its line.
#[derive(Args)]
#[command(after_help = format!("\
Examples:
  egress policy explain en.wikipedia.org
  egress policy explain wikipedia.org --file policy.yaml --as web/crawler
  egress policy explain wikipedia.org --as web --label app=crawler --label tier=batch
  egress policy explain api.example.org --port 8443 --uid 1000 --output json

{CODES}"))]
pub(super) struct ExplainArgs {
    /// Server name, as it stands in a ClientHello
    #[arg(value_parser = server_name)]
    name: ServerName,

    /// Port that the application connects to
    #[arg(long, default_value_t = DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Kubernetes namespace and service account of the workload
    #[arg(long = "as", value_name = "NAMESPACE[/ACCOUNT]", value_parser = account)]
    subject: Option<Account>,

    /// Label of the workload; those that are given are all that it has
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label_of)]
    labels: Vec<(String, String)>,

    /// Cgroup of the workload
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,

    /// User id of the workload
    #[arg(long, value_name = "N")]
    uid: Option<u32>,

    /// Policy document; - for standard input
    #[arg(
        long,
        // As the other commands have it.
        alias = "policy",
        env = "EGRESS_POLICY",
        default_value = "policy.yaml",
        value_name = "FILE"
    )]
    file: PathBuf,

    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<ExitCode, Stop> {
        let text = read_text(&self.file)?;
        let (namespace, service_account) = match self.subject {
            Some(Account { namespace, name }) => (Some(namespace), name),
            None => (None, None),
        };
        let workload = Workload {
            namespace,
            service_account,
            labels: match self.labels.is_empty() {
                true => None,
                false => Some(Labels::from_iter(self.labels)),
            },
            cgroup: self.cgroup,
            uid: self.uid,
            ..Workload::default()
        };
        let request = Request {
            name: &self.name,
            port: self.port,
            workload: &workload,
        };
        let explanation = Policy::explain(&text, &label(&self.file), &request)?;
        write(self.output, &explanation)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A service account, or a whole namespace.
#[derive(Clone)]
struct Account {
    namespace: String,
    name: Option<String>,
}

fn account(text: &str) -> Result<Account, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (namespace, Some(name)),
        None => (text, None),
    };
    if namespace.is_empty() || name.is_some_and(|name| name.is_empty() || name.contains('/')) {
        return Err("give a namespace, or a namespace, `/` and a service account".to_owned());
    }
    Ok(Account {
        namespace: namespace.to_owned(),
        name: name.map(str::to_owned),
    })
}

fn label_of(text: &str) -> Result<(String, String), String> {
    let label = text.split_once('=').filter(|(key, _)| !key.is_empty());
    label
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "give the key of a label, `=` and its value".to_owned())
}

fn server_name(text: &str) -> Result<ServerName, String> {
    ServerName::parse(text.as_bytes()).map_err(|error| error.to_string())
}
