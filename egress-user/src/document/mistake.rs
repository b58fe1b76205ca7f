//! Mistakes as people read them: where, what, and the line itself with a caret.

use std::fmt;

use serde::Serialize;

/// One mistake, or one warning, in a file or on the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mistake {
    /// The file, or the flag as it was typed.
    pub label: String,
    /// Where in the file; absent for flags and for what concerns a file as a whole.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What is wrong and, where it helps, what would be right.
    pub sentence: String,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Position {
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
    /// The line itself, or the part of it around the column.
    pub excerpt: String,
    /// How many characters of the excerpt stand before the column.
    #[serde(skip)]
    pub(super) caret: usize,
    /// How many characters the caret underlines.
    #[serde(skip)]
    pub(super) width: usize,
}

impl Mistake {
    /// A mistake without a line: in a flag, or about a file that cannot be read at all.
    pub fn new(label: impl Into<String>, sentence: impl Into<String>) -> Mistake {
        Mistake {
            label: label.into(),
            position: None,
            sentence: sentence.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake {
            label, sentence, ..
        } = self;
        let Some(at) = &self.position else {
            return write!(f, "{label}: {sentence}");
        };
        let Position { line, column, .. } = at;
        writeln!(f, "{label}:{line}:{column}: {sentence}")?;
        let number = line.to_string();
        writeln!(f, "  {number} | {}", at.excerpt)?;
        let (gutter, before) = (number.len(), at.caret);
        write!(f, "  {:gutter$} | {:before$}", "", "")?;
        f.write_str(&"^".repeat(at.width))
    }
}

/// Everything that is wrong, in the order of the text. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Fails if there is a mistake in the list.
    ///
    /// # Errors
    ///
    /// All of them.
    pub fn check(list: Vec<Mistake>) -> Result<(), Mistakes> {
        if list.is_empty() {
            Ok(())
        } else {
            Err(Mistakes(list))
        }
    }

    /// One by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// These, then the mistakes of another source.
    #[must_use]
    pub fn and(mut self, mut other: Mistakes) -> Mistakes {
        self.0.append(&mut other.0);
        self
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Mistakes {
        Mistakes(vec![mistake])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
