mod cilium;
mod istio;
mod squid;

use super::*;
use crate::policy::Policy;

fn imported(origin: Origin, text: &str) -> Imported {
    with(origin, Options::default(), text)
}

fn with(origin: Origin, options: Options, text: &str) -> Imported {
    let mut importer = Importer::new(origin, options);
    importer.read(text, "file").unwrap();
    importer.finish()
}

/// The rules in short: name, what it does, whom for, hosts, ports.
fn rules(imported: &Imported) -> Vec<String> {
    let rules = imported.rules.iter().map(|rule| {
        let hosts: Vec<_> = rule.hosts.iter().map(|host| host.host.as_str()).collect();
        let from = rule.from.iter().map(|subject| {
            let names = [&subject.namespace, &subject.service_account];
            let names: Vec<_> = names.into_iter().flatten().map(String::as_str).collect();
            let labels = subject.labels.iter();
            let labels = labels.map(|(key, value)| format!(" {key}={value}"));
            names.join("/") + &labels.collect::<String>()
        });
        let from = from.collect::<Vec<_>>().join("+");
        let deny = if rule.deny { "deny " } else { "" };
        format!(
            "{} {deny}[{from}] {} {}",
            rule.name,
            hosts.join(","),
            rule.ports.join(",")
        )
    });
    // What is written can be read.
    let loaded = Policy::parse(&imported.to_string(), "p");
    assert!(loaded.is_ok(), "{imported}");
    rules.collect()
}

/// Line and reason of everything that is noted about some word.
fn notes(notes: &[Note], word: &str) -> Vec<(u32, String)> {
    let found = notes.iter().filter(|note| note.what.contains(word));
    found
        .map(|note| (note.place.line, note.why.clone()))
        .collect()
}
