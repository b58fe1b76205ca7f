//! `--check`: what a configuration amounts to, without serving.

use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::config::{self, Base};
use crate::document::Mistakes;
use crate::policy::{Loaded, Policy};
use crate::record::Target;
use crate::renewal::Source;
use crate::tunnel::tls::Credentials;

/// The exit code for a configuration that cannot be served.
const WRONG: u8 = 1;

/// How long a Workload API is waited for: whoever checks wants to know how it is now.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Validates the configuration, loads its files, prints what is in effect, and ends without
    /// serving: with 0, or with 1 and everything that is wrong
    #[arg(long)]
    pub(super) check: bool,

    /// Form of what --check prints: text or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        requires = "check"
    )]
    pub(super) output: Output,
}

/// The form of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Output {
    Text,
    Json,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(word: &str) -> Result<Output, String> {
        match word {
            "text" => Ok(Output::Text),
            "json" => Ok(Output::Json),
            _ => Err(format!("`{word}` is neither text nor json")),
        }
    }
}

/// What is in effect, what should be known about it, and what keeps it from being served.
#[derive(Default)]
pub(super) struct Report {
    settings: Vec<(&'static str, Shown)>,
    warnings: Vec<String>,
    faults: Vec<String>,
}

enum Shown {
    One(String),
    Many(Vec<String>),
}

impl Report {
    /// The report on a configuration that cannot be put together.
    pub(super) fn of_mistakes(mistakes: &Mistakes) -> Report {
        let mut report = Report::default();
        report.fault(mistakes);
        report
    }

    /// A setting.
    pub(super) fn set(&mut self, key: &'static str, value: impl Display) {
        self.settings.push((key, Shown::One(value.to_string())));
    }

    /// A setting that is a list; `none` is what an empty one means.
    pub(super) fn list<T: Display>(
        &mut self,
        key: &'static str,
        values: impl IntoIterator<Item = T>,
        none: &str,
    ) {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        match values.is_empty() {
            true => self.set(key, none),
            false => self.settings.push((key, Shown::Many(values))),
        }
    }

    /// Something that does not keep it from being served and is probably not meant.
    pub(super) fn warn(&mut self, sentence: impl Display) {
        self.warnings.push(sentence.to_string());
    }

    /// Something that keeps it from being served; each line is a sentence of its own.
    pub(super) fn fault(&mut self, sentences: impl Display) {
        let sentences = sentences.to_string();
        self.faults.extend(sentences.lines().map(str::to_owned));
    }

    /// Reads the files that both halves need and says what is in them.
    pub(super) fn base(&mut self, base: &Base) -> Option<Credentials> {
        self.set("policy", base.policy.display());
        match read_policy(base) {
            Ok(loaded) => self.policy(&loaded),
            Err(mistakes) => self.fault(mistakes),
        }
        let credentials = self.credentials(base);
        self.set(
            "log",
            match &base.log {
                Target::File(path) => path.display().to_string(),
                Target::Stdout => "standard output".to_owned(),
                Target::Stderr => "standard error".to_owned(),
                Target::Nowhere => "none".to_owned(),
            },
        );
        self.set("log.format", base.log_format.as_str());
        let admin = base.admin.map(|addr| addr.to_string());
        self.set("admin", admin.as_deref().unwrap_or("none"));
        self.set("drain", format_args!("{:?}", base.drain));
        self.set("spread", format_args!("{:?}", base.spread));
        credentials
    }

    fn policy(&mut self, loaded: &Loaded) {
        let policy = &loaded.policy;
        self.set("policy.digest", policy.digest());
        self.set("policy.mode", policy.mode().as_str());
        self.set("policy.rules", policy.rule_count());
        for warning in &loaded.warnings {
            self.warn(warning);
        }
    }

    fn credentials(&mut self, base: &Base) -> Option<Credentials> {
        match &base.tls {
            Source::Files(files) => {
                self.set("certificate", files.certificate.display());
                self.set("key", files.key.display());
                self.set("bundle", files.bundle.display());
                let crl = files.crl.as_ref().map(|crl| crl.display().to_string());
                self.set("crl", crl.as_deref().unwrap_or("none"));
            }
            Source::WorkloadApi(socket) => self.set("workload_api", socket),
        }
        let loaded = base.tls.load(PATIENCE);
        let (credentials, _) = loaded.map_err(|error| self.fault(error)).ok()?;
        self.set("identity", credentials.id());
        let until = credentials.validity().until;
        self.set("certificate.valid_until", until);
        self.set("bundle.valid_until", credentials.bundle_valid_until());
        if let Some(until) = credentials.crl_valid_until() {
            self.set("crl.valid_until", until);
        }
        for warning in credentials.warnings() {
            self.warn(warning);
        }
        Some(credentials)
    }

    /// Prints the report and gives the exit code.
    pub(super) fn print(&self, output: Output) -> ExitCode {
        match output {
            Output::Text => super::say(self.text().trim_end()),
            Output::Json => super::say(format_args!("{:#}", self.json())),
        }
        match self.faults.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(WRONG),
        }
    }

    fn text(&self) -> String {
        let width = self.settings.iter().map(|(key, _)| key.len()).max();
        let width = width.unwrap_or_default() + 2;
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            text.push_str(&format!("{key:<width$}{value}\n"));
        };
        for (key, shown) in &self.settings {
            match shown {
                Shown::One(value) => line(key, value),
                Shown::Many(values) => {
                    for (index, value) in values.iter().enumerate() {
                        line(if index == 0 { key } else { "" }, value);
                    }
                }
            }
        }
        for (word, sentences) in [("warning", &self.warnings), ("wrong", &self.faults)] {
            for sentence in sentences {
                text.push_str(&format!("{word}: {sentence}\n"));
            }
        }
        text
    }

    fn json(&self) -> Value {
        let settings = self.settings.iter().map(|(key, shown)| {
            let value = match shown {
                Shown::One(value) => json!(value),
                Shown::Many(values) => json!(values),
            };
            ((*key).to_owned(), value)
        });
        json!({
            "ok": self.faults.is_empty(),
            "settings": settings.collect::<Map<_, _>>(),
            "warnings": self.warnings,
            "faults": self.faults,
        })
    }
}

fn read_policy(base: &Base) -> Result<Loaded, Mistakes> {
    let text = config::read_text(&base.policy)?;
    Policy::parse(&text, &base.policy.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.set("listen", "127.0.0.1:8443");
        report.list("dns", ["192.0.2.1", "192.0.2.2"], "the system's own");
        report.list("addresses.allow", Vec::<String>::new(), "none");
        report.warn("a word");
        report
    }

    #[test]
    fn values_stand_below_each_other() {
        assert_eq!(
            report().text(),
            "\
listen           127.0.0.1:8443
dns              192.0.2.1
                 192.0.2.2
addresses.allow  none
warning: a word
"
        );
    }

    #[test]
    fn json_has_the_same_in_it() {
        let mut report = report();
        report.fault("one\ntwo");
        let json = report.json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["settings"]["dns"][1], "192.0.2.2");
        assert_eq!(json["settings"]["addresses.allow"], "none");
        assert_eq!(json["warnings"][0], "a word");
        assert_eq!(json["faults"], json!(["one", "two"]));
    }
}
