//! Sets of workloads, as a rule's `from` describes them, for others than policy rules.

use std::fmt;

use super::selector::{Fit, Selector};
use super::text;
use crate::document::Value;
use crate::workload::Workload;

/// Some workloads: those that fit one of the entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workloads(Box<[Selector]>);

impl Workloads {
    /// Reads a list of entries, each of which is written as one of a rule's `from`.
    pub fn read(value: Value<'_>) -> Option<Workloads> {
        let entries = value.non_empty_list(|value| value.map(text::selector))?;
        Some(Workloads(entries.into()))
    }

    /// Whether the workload is certainly one of them: what an entry asks for and is not known of
    /// the workload is held against it.
    pub fn include(&self, workload: &Workload) -> bool {
        self.0
            .iter()
            .any(|selector| selector.fit(workload) == Fit::Yes)
    }
}

impl fmt::Display for Workloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, selector) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " or " };
            write!(f, "{separator}{selector}")?;
        }
        Ok(())
    }
}
