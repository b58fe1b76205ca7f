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
use tree::Stream;

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
    let text = within_bounds(text, label)?;
    let ledger = Ledger::default();
    let root = tree::parse(text, &ledger, None);
    let value = root.and_then(|root| Value::document(&root, &ledger).map(build));
    finish(value, ledger, text, label)
}

/// As [`read`], for a document with one long list: the items of the list under `key` in the
/// top map are given to `item` one by one while the text is read, and `build` is called
/// behind them. It asks for the key as for others, and finds an empty list there.
///
/// # Errors
///
/// As [`read`].
pub fn read_with_items<T>(
    text: &str,
    label: &str,
    key: &'static str,
    mut item: impl FnMut(Value<'_>),
    build: impl FnOnce(&Map<'_>) -> Option<T>,
) -> Result<Loaded<T>, Mistakes> {
    let text = within_bounds(text, label)?;
    let ledger = Ledger::default();
    let stream = Stream {
        key,
        item: &mut item,
    };
    let root = tree::parse(text, &ledger, Some(stream));
    let value = root.and_then(|root| {
        let document = Value::document(&root, &ledger);
        // A list with an anchor is kept for its aliases, and not empty.
        for value in document.get(key).into_iter().flat_map(Value::items) {
            item(value);
        }
        document.map(build)
    });
    finish(value, ledger, text, label)
}

/// Reads the text of any number of YAML documents that others define: nothing is demanded of
/// them but YAML, and [`Value::get`] and its like find what is there.
///
/// # Errors
///
/// What is no YAML, and the mistakes that `build` notes.
pub fn read_foreign<T>(
    text: &str,
    label: &str,
    build: impl FnOnce(&[Value<'_>]) -> Option<T>,
) -> Result<Loaded<T>, Mistakes> {
    let text = within_bounds(text, label)?;
    let ledger = Ledger::default();
    let roots = tree::parse_all(text, &ledger);
    let value = roots.and_then(|roots| {
        let documents = roots.iter().map(|root| Value::document(root, &ledger));
        build(&documents.collect::<Vec<_>>())
    });
    finish(value, ledger, text, label)
}

/// The text without its byte order mark, if it is not too long.
fn within_bounds<'t>(text: &'t str, label: &str) -> Result<&'t str, Mistakes> {
    if text.len() > MAX_BYTES {
        let sentence = format!(
            "{} bytes long, and at most {MAX_BYTES} are read",
            text.len()
        );
        return Err(Mistake::new(label, sentence).into());
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn finish<T>(
    value: Option<T>,
    ledger: Ledger,
    text: &str,
    label: &str,
) -> Result<Loaded<T>, Mistakes> {
    let (mistakes, warnings) = ledger.close(text, label);
    Mistakes::check(mistakes)?;
    match value {
        Some(value) => Ok(Loaded { value, warnings }),
        None => Err(Mistake::new(label, "says nothing that could be used").into()),
    }
}

#[cfg(test)]
mod tests;
