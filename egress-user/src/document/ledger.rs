//! Where mistakes are collected while a document is read.

use std::cell::{Cell, RefCell};

use super::excerpt::locate;
use super::mistake::Mistake;

/// The most mistakes, and the most warnings, that are kept: more than anybody corrects in one
/// go, and a file of a million broken lines does not become a million excerpts.
const KEPT: usize = 100;

/// Where a node stands in the text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// Characters before it.
    pub(super) index: u32,
    /// Line, counted from 1.
    pub(super) line: u32,
    /// Characters it takes on its line; 0 for a collection in block style.
    pub(super) width: u32,
}

impl Place {
    /// The start of the text.
    pub(super) const START: Place = Place {
        index: 0,
        line: 1,
        width: 0,
    };
}

/// A mistake or a warning, before its line is looked up.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) place: Place,
    pub(super) sentence: String,
}

/// Mistakes and warnings. Shared by all that read one document, hence the cells.
#[derive(Default)]
pub(super) struct Ledger {
    mistakes: Page,
    warnings: Page,
}

impl Ledger {
    /// Notes a mistake.
    pub(super) fn mistake(&self, place: Place, sentence: String) {
        self.mistakes.note(Finding { place, sentence });
    }

    /// Notes a warning.
    pub(super) fn warning(&self, place: Place, sentence: String) {
        self.warnings.note(Finding { place, sentence });
    }

    /// Mistakes and warnings in the order of the text, each with its line.
    pub(super) fn close(self, text: &str, label: &str) -> (Vec<Mistake>, Vec<Mistake>) {
        (
            self.mistakes.close(text, label),
            self.warnings.close(text, label),
        )
    }
}

#[derive(Default)]
struct Page {
    kept: RefCell<Vec<Finding>>,
    dropped: Cell<usize>,
}

impl Page {
    fn note(&self, finding: Finding) {
        let mut kept = self.kept.borrow_mut();
        // What stands behind an anchor is read again for every alias.
        if kept.contains(&finding) {
            return;
        }
        if kept.len() < KEPT {
            kept.push(finding);
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    fn close(self, text: &str, label: &str) -> Vec<Mistake> {
        let mut kept = self.kept.into_inner();
        kept.sort_by_key(|finding| finding.place);
        let mut mistakes = locate(text, label, kept);
        let dropped = self.dropped.get();
        if dropped > 0 {
            mistakes.push(Mistake::new(
                label,
                format!("and {dropped} more like these"),
            ));
        }
        mistakes
    }
}
