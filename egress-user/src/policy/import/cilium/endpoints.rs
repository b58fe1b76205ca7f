//! The pods that a policy is for.

use std::collections::BTreeMap;

use super::super::super::text::{is_label_key, is_label_value};
use super::super::super::write::Subject;
use super::super::File;
use super::super::kubernetes::Object;
use crate::document::Value;

/// The labels by which Cilium selects what we know of a pod.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// How labels begin that Cilium itself makes, or does not look at unless it is told to: the pods that
/// have one of these are others here than there.
const NOT_OF_IDENTITY: [&str; 13] = [
    "io.cilium",
    "io.kubernetes",
    "k8s.io",
    "kubernetes.io",
    "annotation",
    "apps.kubernetes.io",
    "batch.kubernetes.io",
    "beta.kubernetes.io",
    "controller-revision-hash",
    "etcd_node",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io",
];

/// Whom a policy is for.
pub(super) struct Whom {
    /// Without labels.
    subject: Subject,
    /// Labels that a rule can ask for.
    labels: BTreeMap<String, String>,
    /// Conditions that have no counterpart.
    others: Vec<String>,
    /// Why it is for nobody that can be named.
    unknown: Option<&'static str>,
}

impl Whom {
    pub(super) fn of(object: Object<'_>, spec: Value<'_>) -> Whom {
        let mut whom = Whom {
            subject: Subject::default(),
            labels: BTreeMap::new(),
            others: Vec::new(),
            unknown: None,
        };
        let is_namespaced = object.kind == "CiliumNetworkPolicy";
        let selector = spec.get("endpointSelector");
        let labels = selector.and_then(|selector| selector.get("matchLabels"));
        for (key, value) in labels.into_iter().flat_map(Value::entries) {
            let value = value.word().unwrap_or_default();
            match name_of(key) {
                // A policy of a namespace is for that one alone, whatever it asks for.
                NAMESPACE if is_namespaced && value != object.namespace => {
                    whom.unknown = Some("it asks for pods of another namespace than its own");
                }
                NAMESPACE => whom.subject.namespace = Some(value.to_owned()),
                SERVICE_ACCOUNT => whom.subject.service_account = Some(value.to_owned()),
                name if is_of_identity(name) && is_label_key(name) && is_label_value(value) => {
                    let asked = whom.labels.insert(name.to_owned(), value.to_owned());
                    // Of two sources, which can differ there.
                    if asked.is_some_and(|asked| asked != value) {
                        whom.others.push(format!("{key}={value}"));
                    }
                }
                _ => whom.others.push(format!("{key}={value}")),
            }
        }
        if selector.is_some_and(|selector| selector.get("matchExpressions").is_some()) {
            whom.others.push("matchExpressions".to_owned());
        }
        if is_namespaced {
            whom.subject.namespace = Some(object.namespace.to_owned());
            if object.namespace.is_empty() {
                whom.unknown = Some("it is about its own namespace, and names none");
            }
        }
        whom
    }

    /// Whether a rule can allow something to these and no others.
    pub(super) fn may_be_allowed(&self, file: &mut File<'_>, object: Object<'_>) -> bool {
        if let Some(why) = self.unknown {
            file.leave_out(object.line, object.title(), why);
            return false;
        }
        if self.others.is_empty() {
            return true;
        }
        let what = format!(
            "{} for pods with {}",
            object.title(),
            self.others.join(", ")
        );
        file.widens(object.line, what, "a rule cannot ask for that")
    }

    /// The `from` of a rule that allows; empty for everyone.
    pub(super) fn allowed(&self) -> Vec<Subject> {
        entries(Subject {
            labels: self.labels.clone(),
            ..self.subject.clone()
        })
    }

    /// The `from` of a rule that denies, whatever the labels: the same label may come from elsewhere
    /// than Kubernetes there.
    pub(super) fn denied(&self) -> Vec<Subject> {
        match self.unknown {
            Some(_) => Vec::new(),
            None => entries(self.subject.clone()),
        }
    }
}

fn entries(subject: Subject) -> Vec<Subject> {
    match subject == Subject::default() {
        true => Vec::new(),
        false => vec![subject],
    }
}

/// The name of a label without its source, if that may be Kubernetes. `any:` stands for each.
fn name_of(key: &str) -> &str {
    let source = ["k8s:", "any:"]
        .iter()
        .find_map(|source| key.strip_prefix(source));
    source.unwrap_or(key)
}

/// Whether the label counts in Cilium, by its defaults, as it stands at the pod.
fn is_of_identity(name: &str) -> bool {
    let prefix = name.split_once('/').map_or(name, |(prefix, _)| prefix);
    let mut ignored = NOT_OF_IDENTITY.iter();
    !ignored.any(|start| name.starts_with(start)) && !prefix.ends_with("beta.kubernetes.io")
}
