//! Colour for a terminal, and for nothing else.

use std::io::IsTerminal as _;

/// How things are emphasised.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// Colour when standard output is a terminal and `NO_COLOR` is not set.
    pub(crate) fn new() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint {
            colour: wanted && std::io::stdout().is_terminal(),
        }
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// What went as it should.
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What was turned away, or went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
