//! What is known of the processes in a cgroup, in the words of `from`.

use std::fmt;
use std::sync::Arc;

use super::selector::CgroupPattern;
use super::text;
use crate::document::{Map, Value};
use crate::workload::{Labels, Workload};

/// Cgroups with what their processes are. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KnownWorkloads(Arc<[KnownWorkload]>);

/// What the processes in some cgroups are; what is absent is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownWorkload {
    cgroup: CgroupPattern,
    namespace: Option<Box<str>>,
    service_account: Option<Box<str>>,
    labels: Option<Labels>,
}

impl KnownWorkloads {
    /// Reads a list of entries with `cgroup`, and at least one of `namespace`, `serviceAccount` and
    /// `labels`. An entry that is never reached, since one above it covers its cgroups, is a mistake.
    pub fn read(value: Value<'_>) -> Option<KnownWorkloads> {
        let mut known: Vec<KnownWorkload> = Vec::new();
        value.non_empty_list(|value| {
            let entry = value.map(entry)?;
            let mut above = known.iter();
            if let Some(above) = above.find(|above| above.cgroup.includes(&entry.cgroup)) {
                return value.mistake(format!(
                    "`{}` above covers `{}`, and the first entry that fits stands",
                    above.cgroup, entry.cgroup
                ));
            }
            known.push(entry);
            Some(())
        })?;
        Some(KnownWorkloads(known.into()))
    }

    /// Adds to what is known of a workload what the first entry says that covers its cgroup.
    pub fn describe(&self, workload: &mut Workload) {
        let Some(path) = &workload.cgroup else {
            return;
        };
        let known = self.iter().find(|known| known.cgroup.covers(path));
        if let Some(known) = known {
            let owned = |name: &Option<Box<str>>| name.as_deref().map(str::to_owned);
            workload.namespace = owned(&known.namespace);
            workload.service_account = owned(&known.service_account);
            workload.labels.clone_from(&known.labels);
        }
    }

    /// The entries, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &KnownWorkload> {
        self.0.iter()
    }
}

impl KnownWorkload {
    /// The labels, if they are known.
    pub fn labels(&self) -> Option<&Labels> {
        self.labels.as_ref()
    }
}

fn entry(map: &Map<'_>) -> Option<KnownWorkload> {
    let cgroup = map.required("cgroup", |value| value.parse(CgroupPattern::parse));
    let entry = KnownWorkload {
        namespace: map.optional("namespace", text::kubernetes_name),
        service_account: map.optional("serviceAccount", text::kubernetes_name),
        labels: map.optional("labels", text::labels),
        cgroup: cgroup?,
    };
    let said = ["namespace", "serviceAccount", "labels"];
    if !said.iter().any(|key| map.has(key)) {
        return map.mistake(
            "the entry says nothing of its cgroup: give `namespace`, `serviceAccount` or `labels`",
        );
    }
    Some(entry)
}

impl fmt::Display for KnownWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is", self.cgroup)?;
        let names = [
            ("namespace", &self.namespace),
            ("serviceAccount", &self.service_account),
        ];
        let mut separator = " ";
        for (key, name) in names {
            if let Some(name) = name {
                write!(f, "{separator}{key} {name}")?;
                separator = ", ";
            }
        }
        match &self.labels {
            Some(labels) if labels.iter().len() == 0 => write!(f, "{separator}without labels"),
            Some(labels) => labels.iter().try_for_each(|(key, value)| {
                write!(
                    f,
                    "{}label {key}={value}",
                    std::mem::replace(&mut separator, ", ")
                )
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
