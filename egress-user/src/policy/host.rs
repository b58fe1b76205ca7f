//! The hosts of a rule: exact names and wildcards, in the form that names are compared in.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use idna::AsciiDenyList;

use super::rule::Effect;
use crate::hello::{NameError, ServerName};

/// A host as a rule lists it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Host {
    /// This name.
    Exact(Box<str>),
    /// `*.parent`: every name with one or more labels before the parent, which is kept here.
    Below(Box<str>),
    /// `*`: every name.
    Any,
}

impl Host {
    /// Reads a host. Unicode, upper case and one trailing dot are brought into the form of a
    /// [`ServerName`].
    ///
    /// Public suffixes are hosts like others here; what knows their list may warn of them.
    pub(super) fn parse(text: &str) -> Result<Host, HostError> {
        if text == "*" {
            return Ok(Host::Any);
        }
        match text.strip_prefix("*.") {
            Some(parent) => name(parent).map(Host::Below),
            None => name(text).map(Host::Exact),
        }
    }

    /// Whether every name that the other one lists is one that this lists. `*` is taken to list
    /// all.
    pub(super) fn covers(&self, other: &Host) -> bool {
        let is_below = |name: &str, parent: &str| {
            let rest = name.strip_suffix(parent);
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        match (self, other) {
            (Host::Any, _) => true,
            (_, Host::Any) | (Host::Exact(_), Host::Below(_)) => false,
            (Host::Exact(ours), Host::Exact(theirs)) => ours == theirs,
            (Host::Below(ours), Host::Exact(theirs)) => is_below(theirs, ours),
            (Host::Below(ours), Host::Below(theirs)) => ours == theirs || is_below(theirs, ours),
        }
    }

    /// What the author of a rule with this host should know.
    pub(super) fn warning(&self, effect: Effect) -> Option<&'static str> {
        match (self, effect) {
            (Host::Exact(_) | Host::Below(_), _) => None,
            (Host::Any, Effect::Allow) => Some(
                "`*` allows every name except those that only mean something inside a network, \
                 such as `localhost` and `*.local`",
            ),
            (Host::Any, Effect::Deny | Effect::TryDeny) => Some("`*` denies every name"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Exact(name) => f.write_str(name),
            Host::Below(parent) => write!(f, "*.{parent}"),
            Host::Any => f.write_str("*"),
        }
    }
}

/// What is wrong with a host. Completes a sentence that names the host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error(
        "`*` stands for one or more whole labels at the start, as in `*.example.org`, and for \
         nothing else"
    )]
    Wildcard,
    #[error("write `*{0}` for the names below `{1}`", .name, .name.trim_start_matches('.'))]
    LeadingDot { name: String },
    #[error("a host is a name alone, without scheme and path")]
    Url,
    #[error("the port stands apart from the host, under `ports` or in `--port`")]
    Port,
    #[error(
        "an address, or what can be read as one, is not a host: it is the name that is judged, \
         and a client that connects to an address sends none"
    )]
    Address,
    #[error("this cannot be written as an internationalised name (IDNA, UTS 46)")]
    Unicode,
    #[error(transparent)]
    Name(NameError),
}

/// A name without wildcard, canonical.
fn name(text: &str) -> Result<Box<str>, HostError> {
    let authority = text.split('/').next().unwrap_or(text);
    if authority.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(HostError::Address);
    }
    if text.contains('/') {
        return Err(HostError::Url);
    }
    if text.contains('*') {
        return Err(HostError::Wildcard);
    }
    if text.contains(':') {
        return Err(HostError::Port);
    }
    if text.len() > 1 && text.starts_with('.') {
        let name = text.to_owned();
        return Err(HostError::LeadingDot { name });
    }
    let name = ServerName::parse(to_ascii(text)?.as_bytes()).map_err(|error| match error {
        NameError::IpLiteral => HostError::Address,
        error => HostError::Name(error),
    })?;
    Ok(name.as_str().into())
}

/// U-labels become A-labels. What is ASCII stays: it is checked as a name later, and more
/// names are in use than IDNA allows (`_dmarc`, `r3---sn`).
fn to_ascii(text: &str) -> Result<Cow<'_, str>, HostError> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::STD3).map_err(|_| HostError::Unicode)
}

#[cfg(test)]
mod tests;
