//! From a place in the text to what people see of it.

use std::str::Chars;

use super::ledger::{Finding, Place};
use super::mistake::{Mistake, Position};

/// The most characters of a line that an excerpt shows. A flow list may hold a million hosts
/// on one line.
const SHOWN: usize = 100;

/// How many of them stand before the place if the line is cut there.
const LEAD: usize = 40;

/// Finds the line of every finding. The findings are in the order of the text, so that it is
/// walked through once.
pub(super) fn locate(text: &str, label: &str, findings: Vec<Finding>) -> Vec<Mistake> {
    let mut cursor = Cursor::new(text);
    findings
        .into_iter()
        .map(|Finding { place, sentence }| Mistake {
            label: label.to_owned(),
            position: Some(cursor.position(place)),
            sentence: sentence.chars().map(printable).collect(),
        })
        .collect()
}

/// A way through the text that counts lines and columns.
struct Cursor<'t> {
    text: &'t str,
    rest: Chars<'t>,
    index: usize,
    line: u32,
    column: u32,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str) -> Cursor<'t> {
        Cursor {
            text,
            rest: text.chars(),
            index: 0,
            line: 1,
            column: 1,
        }
    }

    fn position(&mut self, place: Place) -> Position {
        self.advance_to(place.index as usize);
        let after = self.rest.as_str();
        let before = self.text.strip_suffix(after).unwrap_or(self.text);
        let distance = self.column.saturating_sub(1) as usize;
        let shown_before = if distance < SHOWN - LEAD {
            distance
        } else {
            LEAD
        };
        let lead = before.chars().rev().take(shown_before);
        let lead = lead.collect::<Vec<_>>().into_iter().rev();
        let mut tail = after.chars().take_while(|c| !matches!(c, '\n' | '\r'));
        let shown_after: Vec<char> = tail.by_ref().take(SHOWN - shown_before).collect();

        let mut excerpt = String::new();
        if shown_before < distance {
            excerpt.push('…');
        }
        excerpt.extend(lead.map(printable));
        let caret = excerpt.chars().count();
        excerpt.extend(shown_after.iter().copied().map(printable));
        if tail.next().is_some() {
            excerpt.push('…');
        }
        Position {
            line: self.line,
            column: self.column,
            excerpt,
            caret,
            width: (place.width as usize).min(shown_after.len()).max(1),
        }
    }

    fn advance_to(&mut self, index: usize) {
        while self.index < index
            && let Some(c) = self.rest.next()
        {
            self.index += 1;
            let line_ends = c == '\n' || c == '\r' && !self.rest.as_str().starts_with('\n');
            (self.line, self.column) = match line_ends {
                true => (self.line + 1, 1),
                false => (self.line, self.column + 1),
            };
        }
    }
}

/// A character of a file as a terminal may show it: unable to move the cursor or to turn the
/// direction of the text (CVE-2021-42574).
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}
