//! One value of a document, and the kinds it can be asked to be.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::ledger::Ledger;
use super::map::{Map, listed};
use super::tree::{Kind, Node};

/// The most characters of a value that a sentence repeats.
const SHOWN: usize = 60;

/// A value of the document.
///
/// Each method reads it as one kind of thing and answers `None` after noting a mistake if it
/// is not.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    node: &'d Node<'d>,
    subject: Subject<'d>,
    ledger: &'d Ledger,
}

/// What a sentence calls the value.
#[derive(Clone, Copy)]
pub(super) enum Subject<'d> {
    Document,
    Key(&'d str),
    Item(&'d str),
}

impl<'d> Value<'d> {
    pub(super) fn new(node: &'d Node<'d>, subject: Subject<'d>, ledger: &'d Ledger) -> Value<'d> {
        Value {
            node,
            subject,
            ledger,
        }
    }

    /// The top of a document.
    pub(super) fn document(root: &'d Node<'d>, ledger: &'d Ledger) -> Value<'d> {
        Value::new(root, Subject::Document, ledger)
    }

    /// Whether it is a map of keys and values; notes no mistake.
    pub fn is_map(self) -> bool {
        matches!(self.node.kind(), Kind::Map(_))
    }

    /// A word or a text, not empty.
    pub fn text(self) -> Option<&'d str> {
        match self.scalar() {
            Some(("", _)) => self.mistake(format!("{} is empty", self.subject)),
            Some((text, _)) => Some(text),
            None => self.expected("a text"),
        }
    }

    /// A word or a text; an empty one stands in quotes.
    pub fn any_text(self) -> Option<&'d str> {
        let text = self.scalar().map(|(text, _)| text);
        text.or_else(|| self.expected("a text"))
    }

    /// As [`Value::text`], owned.
    pub fn string(self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    /// A text that `parse` understands; its error is the mistake.
    pub fn parse<T, E: fmt::Display>(self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let (text, key) = (shown(text), self.subject.key());
                self.mistake(format!("`{text}` in `{key}`: {error}"))
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(self) -> Option<bool> {
        match self.scalar() {
            Some(("true", true)) => Some(true),
            Some(("false", true)) => Some(false),
            _ => self.expected("`true` or `false`"),
        }
    }

    /// A decimal number within a range.
    pub fn number<N>(self, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<u64> + PartialOrd + fmt::Display,
    {
        let number = self
            .scalar()
            .filter(|&(_, plain)| plain)
            .and_then(|(text, _)| decimal(text))
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number));
        let (first, last) = (range.start(), range.end());
        number.or_else(|| self.expected(format_args!("a number from {first} to {last}")))
    }

    /// A TCP or UDP port, not 0.
    pub fn port(self) -> Option<u16> {
        self.number(1..=u16::MAX)
    }

    /// A duration within a range: a whole number with the unit `ms`, `s`, `m` or `h`.
    pub fn duration(self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self
            .scalar()
            .and_then(|(text, _)| duration(text))
            .filter(|duration| range.contains(duration));
        let (first, last) = (range.start(), range.end());
        duration.or_else(|| {
            self.expected(format_args!(
                "a duration from {first:?} to {last:?} such as 5s, 250ms or 2m"
            ))
        })
    }

    /// An IP address with a port.
    pub fn socket_addr(self) -> Option<SocketAddr> {
        self.parsed("an IP address with a port such as 127.0.0.1:443 or [::1]:443")
    }

    /// An IP address.
    pub fn ip_addr(self) -> Option<IpAddr> {
        self.parsed("an IP address such as 192.0.2.7 or 2001:db8::7")
    }

    /// An IP prefix, or one address. Bits behind the prefix are a mistake, since they hint at
    /// another prefix than the one that is written.
    pub fn ip_net(self) -> Option<IpNet> {
        let expected = "an IP prefix such as 10.0.0.0/8 or 2001:db8::/32";
        let (text, _) = self.scalar().or_else(|| self.expected(expected))?;
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match net {
            Ok(net) if net == net.trunc() => Some(net),
            Ok(net) => self.expected(format_args!("{} or a longer prefix", net.trunc())),
            Err(_) => self.expected(expected),
        }
    }

    /// The path of a file or directory.
    pub fn path(self) -> Option<PathBuf> {
        self.text().map(PathBuf::from)
    }

    /// One of a few words, each standing for a value.
    pub fn one_of<T: Copy>(self, table: &[(&str, T)]) -> Option<T> {
        let found = self
            .scalar()
            .and_then(|(text, _)| table.iter().find(|(word, _)| *word == text));
        found.map(|&(_, value)| value).or_else(|| {
            let words: Vec<_> = table.iter().map(|&(word, _)| word).collect();
            match words.as_slice() {
                [word] => self.expected(format_args!("`{word}`")),
                words => self.expected(format_args!("one of {}", listed(words))),
            }
        })
    }

    /// A list of values of one kind. Every item is read, also behind a mistake.
    pub fn list<T>(self, mut read: impl FnMut(Value<'d>) -> Option<T>) -> Option<Vec<T>> {
        let Kind::List(nodes) = self.node.kind() else {
            return self.expected("a list");
        };
        let mut items = Vec::with_capacity(nodes.len());
        for node in nodes {
            let subject = Subject::Item(self.subject.key());
            items.extend(read(Value::new(node, subject, self.ledger)));
        }
        (items.len() == nodes.len()).then_some(items)
    }

    /// As [`Value::list`], with at least one item.
    pub fn non_empty_list<T>(self, read: impl FnMut(Value<'d>) -> Option<T>) -> Option<Vec<T>> {
        match self.node.kind() {
            Kind::List(nodes) if nodes.is_empty() => {
                self.mistake(format!("{} lists nothing", self.subject))
            }
            _ => self.list(read),
        }
    }

    /// One item, or a list of them.
    pub fn one_or_more<T>(self, read: impl Fn(Value<'d>) -> Option<T>) -> Option<Vec<T>> {
        match self.node.kind() {
            Kind::List(_) => self.non_empty_list(read),
            _ => Some(vec![read(self)?]),
        }
    }

    /// A map, read by a function that asks for all the keys it knows.
    pub fn map<T>(self, build: impl FnOnce(&Map<'d>) -> Option<T>) -> Option<T> {
        let Kind::Map(entries) = self.node.kind() else {
            return self.expected("a map of keys and values");
        };
        let map = Map::new(entries, self.node.place, self.ledger);
        let value = build(&map);
        map.finish();
        value
    }

    /// The value under a key, if this is a map that has it. Demands nothing, as
    /// [`Value::items`] and [`Value::word`]: for documents that others define.
    pub fn get(self, key: &str) -> Option<Value<'d>> {
        let Kind::Map(entries) = self.node.kind() else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(Value::new(
            &entry.value,
            Subject::Key(&entry.key),
            self.ledger,
        ))
    }

    /// The keys of a map with their values; none if it is no map.
    pub fn entries(self) -> impl Iterator<Item = (&'d str, Value<'d>)> {
        let entries = match self.node.kind() {
            Kind::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(move |entry| {
            let subject = Subject::Key(&entry.key);
            (&*entry.key, Value::new(&entry.value, subject, self.ledger))
        })
    }

    /// The items of a list; none if it is no list.
    pub fn items(self) -> impl Iterator<Item = Value<'d>> {
        let nodes = match self.node.kind() {
            Kind::List(nodes) => nodes.as_slice(),
            _ => &[],
        };
        let subject = Subject::Item(self.subject.key());
        nodes
            .iter()
            .map(move |node| Value::new(node, subject, self.ledger))
    }

    /// The text of a scalar, if it is one and says something.
    pub fn word(self) -> Option<&'d str> {
        let (text, _) = self.scalar()?;
        Some(text).filter(|text| !text.is_empty())
    }

    /// The line it stands on, counted from 1.
    pub fn line(self) -> u32 {
        self.node.place.line
    }

    /// Notes a mistake at this value. Always `None`, to be returned.
    pub fn mistake<T>(self, sentence: impl Into<String>) -> Option<T> {
        self.ledger.mistake(self.node.place, sentence.into());
        None
    }

    /// Notes a mistake of the usual form: what the value should be, and what it is.
    pub fn expected<T>(self, what: impl fmt::Display) -> Option<T> {
        let (subject, found) = (self.subject, Found(self.node));
        self.mistake(format!("{subject} should be {what}, found {found}"))
    }

    /// Notes something that is allowed and probably not meant.
    pub fn warn(self, sentence: impl Into<String>) {
        self.ledger.warning(self.node.place, sentence.into());
    }

    fn parsed<T: FromStr>(self, expected: &str) -> Option<T> {
        self.scalar()
            .and_then(|(text, _)| text.parse().ok())
            .or_else(|| self.expected(expected))
    }

    /// The text of a scalar that is not null, and whether it stands without quotes.
    fn scalar(self) -> Option<(&'d str, bool)> {
        match self.node.kind() {
            Kind::Scalar { text, plain } if !is_null(text, *plain) => Some((text, *plain)),
            _ => None,
        }
    }
}

impl<'d> Subject<'d> {
    fn key(self) -> &'d str {
        match self {
            Subject::Document => "the document",
            Subject::Key(key) | Subject::Item(key) => key,
        }
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Document => f.write_str("the document"),
            Subject::Key(key) => write!(f, "`{key}`"),
            Subject::Item(key) => write!(f, "an item of `{key}`"),
        }
    }
}

/// A node as the end of a sentence.
struct Found<'d>(&'d Node<'d>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            Kind::Scalar { text, plain } if is_null(text, *plain) => f.write_str("no value"),
            Kind::Scalar { text, plain: true } => write!(f, "`{}`", shown(text)),
            Kind::Scalar { text, plain: false } => write!(f, "the text \"{}\"", shown(text)),
            Kind::List(_) => f.write_str("a list"),
            Kind::Map(_) => f.write_str("a map"),
            Kind::Shared(_) => f.write_str("an alias"),
        }
    }
}

/// The null of the core schema (YAML 1.2.2 §10.2.1.1), which a forgotten value is too.
fn is_null(text: &str, plain: bool) -> bool {
    plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A decimal number. Not with leading zeros, which YAML 1.1 reads as octal.
fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| digits && !octal)
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = decimal(text.strip_suffix(unit)?)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// A value as a sentence repeats it.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests;
