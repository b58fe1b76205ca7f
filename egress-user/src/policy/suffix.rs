//! Whose names stand below a name: the Public Suffix List, as it was when this was built.

use psl::Type;

/// Why the names below a name belong to many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Zone {
    /// A registry gives them out, as below `com` and `co.uk`.
    Registry,
    /// A service gives them to its customers, as below `github.io`.
    Hosting,
}

/// The zone whose apex this name is, if it is one.
pub(super) fn zone(name: &str) -> Option<Zone> {
    let suffix = psl::suffix(name.as_bytes())?;
    if suffix.as_bytes().len() != name.len() {
        return None;
    }
    suffix.typ().map(|kind| match kind {
        Type::Icann => Zone::Registry,
        Type::Private => Zone::Hosting,
    })
}

/// Whether a name belongs to one owner: it is a label, or more, longer than its suffix.
pub(super) fn has_owner(name: &str) -> bool {
    psl::domain(name.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_what_belongs_to_somebody() {
        for (name, expected) in [
            ("com", Some(Zone::Registry)),
            ("co.uk", Some(Zone::Registry)),
            ("github.io", Some(Zone::Hosting)),
            ("wikipedia.org", None),
            ("a.github.io", None),
            ("local", None),
        ] {
            assert_eq!(zone(name), expected, "{name}");
        }
        assert!(has_owner("wikipedia.org"));
        assert!(has_owner("en.wikipedia.org"));
        assert!(has_owner("a.github.io"));
        assert!(!has_owner("github.io"));
        assert!(!has_owner("org"));
    }
}
