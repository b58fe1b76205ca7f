//! Rules on their way into a document: what is learnt or imported, as YAML to paste.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::Serialize;

use super::DEFAULT_PORT;
use super::selector::CgroupPattern;
use super::text::{MAX_NAME, MAX_UID, is_kubernetes_name, is_label_key, is_label_value};

/// A rule to be written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NewRule {
    /// Its name.
    pub name: String,
    /// Whether it denies.
    pub deny: bool,
    /// Whom it is for; empty is everyone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Subject>,
    /// Its hosts.
    pub hosts: Vec<NewHost>,
    /// Its ports and ranges, as the document spells them.
    pub ports: Vec<String>,
}

/// A host of a rule to be written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct NewHost {
    /// The host, exact or a wildcard.
    pub host: String,
    /// What a reader should know; becomes a comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One entry of `from`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Kubernetes service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Labels; none is no condition.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Cgroup path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl Subject {
    /// Whether a document may say so.
    pub(super) fn is_sound(&self) -> bool {
        let names = [&self.namespace, &self.service_account];
        let mut names = names.into_iter().flatten();
        let mut labels = self.labels.iter();
        let cgroup = self.cgroup.as_deref();
        labels.all(|(key, value)| is_label_key(key) && is_label_value(value))
            && names.all(|name| is_kubernetes_name(name))
            && cgroup.is_none_or(|path| CgroupPattern::exact(path).is_some())
            && self.uid.is_none_or(|uid| uid <= MAX_UID)
    }
}

/// The rules of a document, as its text.
pub(super) struct Document<'r>(pub(super) &'r [NewRule]);

impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("version: 1\nrules:")?;
        if self.0.is_empty() {
            return f.write_str(" []\n");
        }
        f.write_str("\n")?;
        self.0.iter().try_for_each(|rule| write_rule(f, rule))
    }
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &NewRule) -> fmt::Result {
    writeln!(f, "  - name: {}", rule.name)?;
    if rule.deny {
        writeln!(f, "    action: deny")?;
    }
    if !rule.from.is_empty() {
        writeln!(f, "    from:")?;
    }
    for subject in &rule.from {
        writeln!(f, "      - {}", subject.flow())?;
    }
    writeln!(f, "    hosts:")?;
    let quoted: Vec<_> = rule.hosts.iter().map(|host| quoted(&host.host)).collect();
    let noted = rule.hosts.iter().zip(&quoted);
    let width = noted
        .filter(|(host, _)| host.note.is_some())
        .map(|(_, quoted)| quoted.chars().count())
        .max()
        .unwrap_or_default();
    for (host, quoted) in rule.hosts.iter().zip(&quoted) {
        match &host.note {
            Some(note) => writeln!(f, "      - {quoted:width$}  # {}", on_one_line(note))?,
            None => writeln!(f, "      - {quoted}")?,
        }
    }
    if rule.ports != [DEFAULT_PORT.to_string()] {
        writeln!(f, "    ports: [{}]", rule.ports.join(", "))?;
    }
    Ok(())
}

impl Subject {
    fn flow(&self) -> String {
        let text = |key: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            Some(format!("{key}: {}", quoted(value)))
        };
        let labels = self.labels.iter();
        let labels = labels.map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)));
        let labels: Vec<_> = labels.collect();
        let fields = [
            text("namespace", &self.namespace),
            text("serviceAccount", &self.service_account),
            (!labels.is_empty()).then(|| format!("labels: {{{}}}", labels.join(", "))),
            text("cgroup", &self.cgroup),
            self.uid.map(|uid| format!("uid: {uid}")),
        ];
        let fields: Vec<_> = fields.into_iter().flatten().collect();
        format!("{{{}}}", fields.join(", "))
    }
}

/// A text in double quotes. JSON's escapes are YAML's, too (YAML 1.2.2 §1.3).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text as a comment may hold it: without what ends a line, to YAML or to an editor.
pub(super) fn on_one_line(text: &str) -> String {
    let ends = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.chars()
        .map(|c| if ends(c) { ' ' } else { c })
        .collect()
}

/// Names of rules that are not taken yet.
#[derive(Debug, Default)]
pub(super) struct RuleNames(HashSet<String>);

impl RuleNames {
    /// A name like the wanted one that is a good one and new.
    pub(super) fn claim(&mut self, wanted: &str) -> String {
        let mut name = String::new();
        for c in wanted.chars().map(|c| c.to_ascii_lowercase()) {
            match c {
                'a'..='z' | '0'..='9' => name.push(c),
                _ if name.is_empty() || name.ends_with('-') => {}
                _ => name.push('-'),
            }
        }
        // Room for a number behind it.
        name.truncate(MAX_NAME - 8);
        let stem = match name.trim_end_matches('-') {
            "" => "rule",
            stem => stem,
        };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let mut candidates = std::iter::once(stem.to_owned()).chain(numbered);
        let name = candidates.find(|name| !self.0.contains(name));
        let name = name.unwrap_or_default();
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rules_are_good_and_new() {
        let mut names = RuleNames::default();
        assert_eq!(names.claim("Web/Crawler_1"), "web-crawler-1");
        assert_eq!(names.claim("web crawler 1"), "web-crawler-1-2");
        assert_eq!(names.claim("…"), "rule");
        assert!(names.claim(&"x".repeat(200)).len() <= MAX_NAME);
    }
}
