//! Reading a YAML document whole: every mistake at once, each with its line and column.
//!
//! The code that asks is the schema. It asks a [`Map`] for keys and tells each [`Value`] what
//! it should be; whatever is missing, unknown, given twice or of the wrong kind is collected
//! on the way, and the caller gets either the finished value or all the mistakes.
//!
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use egress_user::document::{self, Map, Value};
//!
//! struct Config { listen: SocketAddr, idle: Duration, names: Vec<String> }
//!
//! fn config(map: &Map<'_>) -> Option<Config> {
//!     // Ask for everything first, so that every mistake is found, and use `?` only then.
//!     let listen = map.required("listen", Value::socket_addr);
//!     let idle = map.or("idle", Duration::from_secs(60), |value| {
//!         value.duration(Duration::from_secs(1)..=Duration::from_secs(3600))
//!     });
//!     let names = map.optional("names", |value| value.list(Value::string));
//!     Some(Config { listen: listen?, idle, names: names.unwrap_or_default() })
//! }
//!
//! let loaded = document::read("listen: 127.0.0.1:15001\nidle: 5s\n", "agent.yaml", config)?;
//! assert_eq!(loaded.value.idle, Duration::from_secs(5));
//!
//! let mistakes = document::read("listne: 1\nidle: 5\n", "agent.yaml", config).err().unwrap();
//! assert_eq!(mistakes.to_string(), "\
//! agent.yaml:1:1: unknown key `listne`, did you mean `listen`?
//!   1 | listne: 1
//!     | ^^^^^^
//! agent.yaml:2:7: `idle` should be a duration from 1s to 3600s such as 5s, 250ms or 2m, found `5`
//!   2 | idle: 5
//!     |       ^");
//! # Ok::<(), document::Mistakes>(())
//! ```
//!
//! Where YAML leaves a choice, the document is read strictly: no tags, no second document, no
//! key without a value, and a number is a number only without quotes. What a plain word means
//! is decided by the key it stands under, so that no host called `no` turns into `false`.

mod excerpt;
mod ledger;
mod map;
mod mistake;
mod suggest;
mod tree;
mod value;

pub use map::Map;
pub use mistake::{Mistake, Mistakes, Position};
pub use value::Value;

use ledger::Ledger;

/// The longest document that is read, in bytes.
///
/// A policy of a million hosts at the 33 bytes a line that block style with long names takes
/// is half of this. The limit is here to fail with a sentence where a wrong path (a log, a
/// disk image) would fail for lack of memory.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a document says, and what its author should know about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded<T> {
    /// The value that was built.
    pub value: T,
    /// Things that are allowed and probably not meant.
    pub warnings: Vec<Mistake>,
}

/// Reads the text of one YAML document whose top is a map. `label` names the text in
/// mistakes, usually the path of the file.
///
/// # Errors
///
/// Every mistake that was found, at most a hundred of them in full.
pub fn read<T>(
    text: &str,
    label: &str,
    build: impl FnOnce(&Map<'_>) -> Option<T>,
) -> Result<Loaded<T>, Mistakes> {
    if text.len() > MAX_BYTES {
        let sentence = format!(
            "{} bytes long, and at most {MAX_BYTES} are read",
            text.len()
        );
        return Err(Mistake::new(label, sentence).into());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let ledger = Ledger::default();
    let value =
        tree::parse(text, &ledger).and_then(|root| Value::document(&root, &ledger).map(build));
    let (mistakes, warnings) = ledger.close(text, label);
    Mistakes::check(mistakes)?;
    match value {
        Some(value) => Ok(Loaded { value, warnings }),
        None => Err(Mistake::new(label, "says nothing that could be used").into()),
    }
}

#[cfg(test)]
mod tests;
