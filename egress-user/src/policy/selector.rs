//! Whom a rule is for.

use std::collections::BTreeMap;
use std::fmt;

use crate::workload::Workload;

/// One entry of `from`: everything it names must be so.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Selector {
    pub(super) namespace: Option<Box<str>>,
    pub(super) service_account: Option<Box<str>>,
    /// Each must be there with this value; empty asks for none.
    pub(super) labels: BTreeMap<Box<str>, Box<str>>,
    pub(super) cgroup: Option<CgroupPattern>,
    pub(super) uid: Option<u32>,
}

/// How a workload compares with what is wanted. In this order: of several answers the least
/// one stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fit {
    /// Something is known to be different.
    No,
    /// Nothing is known to be different, and something is not known.
    Unknown,
    /// Everything is known to be so.
    Yes,
}

impl Selector {
    /// Whether the workload is one of those that are meant.
    pub(super) fn fit(&self, workload: &Workload) -> Fit {
        let name = |wanted: &Option<Box<str>>, known: &Option<String>| {
            Fit::of(wanted.as_deref(), known.as_deref(), |wanted, known| {
                wanted == known
            })
        };
        let cgroup = Fit::of(
            self.cgroup.as_ref(),
            workload.cgroup.as_deref(),
            |pattern, path| pattern.covers(path),
        );
        let labels = Fit::of(
            Some(&self.labels).filter(|wanted| !wanted.is_empty()),
            workload.labels.as_ref(),
            |wanted, known| {
                let mut wanted = wanted.iter();
                wanted.all(|(key, value)| known.get(key) == Some(&**value))
            },
        );
        name(&self.namespace, &workload.namespace)
            .min(name(&self.service_account, &workload.service_account))
            .min(labels)
            .min(cgroup)
            .min(Fit::of(self.uid, workload.uid, |wanted, known| {
                wanted == known
            }))
    }
}

impl Fit {
    fn of<W, K>(wanted: Option<W>, known: Option<K>, fits: impl FnOnce(W, K) -> bool) -> Fit {
        match (wanted, known) {
            (None, _) => Fit::Yes,
            (Some(_), None) => Fit::Unknown,
            (Some(wanted), Some(known)) => match fits(wanted, known) {
                true => Fit::Yes,
                false => Fit::No,
            },
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str, value: &Option<Box<str>>| {
            let value = value.as_ref()?;
            Some(format!("{key} {value}"))
        };
        let names = [
            text("namespace", &self.namespace),
            text("serviceAccount", &self.service_account),
        ];
        let labels = self.labels.iter();
        let labels = labels.map(|(key, value)| format!("label {key}={value}"));
        let others = [
            self.cgroup
                .as_ref()
                .map(|path| format!("cgroup {}", path.0)),
            self.uid.map(|uid| format!("uid {uid}")),
        ];
        let names = names.into_iter().flatten().chain(labels);
        let fields: Vec<_> = names.chain(others.into_iter().flatten()).collect();
        f.write_str(&fields.join(", "))
    }
}

/// A cgroup and everything below it: a path in which `*` stands for any characters of one
/// component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct CgroupPattern(Box<str>);

/// What is wrong with a cgroup pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CgroupError {
    #[error("a cgroup is a path below the cgroup mount point, and starts with `/`")]
    Relative,
    #[error("the root holds every cgroup; leave `cgroup` out instead")]
    Root,
    #[error("the path has an empty component, `.` or `..`")]
    Component,
    #[error("a cgroup covers all that are below it anyway, so `**` is not known")]
    DoubleStar,
}

impl CgroupPattern {
    /// Reads a pattern such as `/system.slice/crawler-*.service`; one slash at the end is
    /// left out.
    pub(super) fn parse(text: &str) -> Result<CgroupPattern, CgroupError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if !text.starts_with('/') {
            return Err(CgroupError::Relative);
        }
        if path.is_empty() {
            return Err(CgroupError::Root);
        }
        if path.contains("**") {
            return Err(CgroupError::DoubleStar);
        }
        if path
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(CgroupError::Component);
        }
        Ok(CgroupPattern(path.into()))
    }

    /// Reads a path that exists, which stands for itself and what is below it. `None` if it
    /// cannot be written without meaning another one, too.
    pub(super) fn exact(path: &str) -> Option<CgroupPattern> {
        let whole = !path.contains('*') && !path.contains(char::REPLACEMENT_CHARACTER);
        CgroupPattern::parse(path).ok().filter(|_| whole)
    }

    /// Whether every path that the other pattern covers is one that this covers: a star of the
    /// other one is met by a star alone, as any character that no pattern spells out.
    pub(super) fn includes(&self, other: &CgroupPattern) -> bool {
        self.covers(&other.0)
    }

    /// A pattern for cgroups that both cover, if there are any. Together with the patterns that
    /// it is made of it stands for all of them.
    pub(super) fn meet(&self, other: &CgroupPattern) -> Option<CgroupPattern> {
        let (mut ours, mut theirs) = (self.0.split('/'), other.0.split('/'));
        let mut met = Vec::new();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                (Some(one), None) | (None, Some(one)) => met.push(one.to_owned()),
                (Some(ours), Some(theirs)) => met.push(meet(ours, theirs)?),
            }
        }
        Some(CgroupPattern(met.join("/").into()))
    }

    /// A path that it covers, with `filler` in the place of stars.
    pub(super) fn example(&self, filler: &str) -> String {
        self.0.replace('*', filler)
    }

    pub(super) fn covers(&self, path: &str) -> bool {
        let mut components = path.split('/');
        self.0.split('/').all(|pattern| {
            let component = components.next();
            component.is_some_and(|component| matches(pattern, component))
        })
    }
}

impl fmt::Display for CgroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What both patterns describe. Between a beginning and an end that suit both there is room for
/// everything that either asks for.
fn meet(ours: &str, theirs: &str) -> Option<String> {
    let (Some((our_head, our_rest)), Some((their_head, their_rest))) =
        (ours.split_once('*'), theirs.split_once('*'))
    else {
        let equal = matches(ours, theirs) || matches(theirs, ours);
        let literal = if ours.contains('*') { theirs } else { ours };
        return equal.then(|| literal.to_owned());
    };
    let (our_middle, our_tail) = our_rest.rsplit_once('*').unwrap_or(("", our_rest));
    let (their_middle, their_tail) = their_rest.rsplit_once('*').unwrap_or(("", their_rest));
    let head = longer(our_head, their_head);
    let tail = longer(our_tail, their_tail);
    let fits = [our_head, their_head]
        .iter()
        .all(|part| head.starts_with(part))
        && [our_tail, their_tail]
            .iter()
            .all(|part| tail.ends_with(part));
    let middles = [head, our_middle, their_middle, tail].join("*");
    let mut parts: Vec<_> = middles.split('*').collect();
    let (last, first) = (parts.pop()?, parts.first().copied()?);
    let inner = parts.get(1..)?.iter().filter(|part| !part.is_empty());
    let inner: String = inner.flat_map(|part| ["*", part]).collect();
    fits.then(|| format!("{first}{inner}*{last}"))
}

fn longer<'t>(a: &'t str, b: &'t str) -> &'t str {
    if a.len() < b.len() { b } else { a }
}

/// Whether a component is what a pattern describes. Each part between two stars is looked
/// for from the left, and the last is held to the end first.
fn matches(pattern: &str, component: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == component;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = component
        .strip_prefix(first)
        .and_then(|tail| tail.strip_suffix(last));
    let Some(inner) = inner else {
        return false;
    };
    middle
        .split('*')
        .try_fold(inner, |tail, part| {
            tail.split_once(part).map(|(_, tail)| tail)
        })
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_a_component() {
        for (pattern, component, expected) in [
            ("web", "web", true),
            ("web", "webx", false),
            ("*", "", true),
            ("*", "web", true),
            ("web-*", "web-", true),
            ("web-*.service", "web-1.service", true),
            ("web-*.service", "web-.servic", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*", "abc", true),
            ("*b*c*", "acb", false),
            ("a*b*c", "abxbc", true),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
        ] {
            assert_eq!(
                matches(pattern, component),
                expected,
                "{pattern} {component}"
            );
        }
    }

    #[test]
    fn what_two_patterns_have_in_common() {
        for (a, b, expected) in [
            ("/a/*", "/*/b", Some("/a/b")),
            ("/a", "/a/b", Some("/a/b")),
            ("/a", "/b", None),
            ("/web-*", "/*.service", Some("/web-*.service")),
            ("/web-*", "/we*", Some("/web-*")),
            ("/web-*", "/db-*", None),
            ("/a*b*c", "/a*x*c", Some("/a*b*x*c")),
            ("/*", "/a*", Some("/a*")),
            ("/*", "/*", Some("/*")),
            ("/*b", "/a", None),
        ] {
            let pattern = |text| CgroupPattern::parse(text).unwrap();
            for (a, b) in [(a, b), (b, a)] {
                let met = pattern(a).meet(&pattern(b));
                let Some(expected) = expected else {
                    assert_eq!(met, None, "{a} {b}");
                    continue;
                };
                let met = met.unwrap();
                if a < b {
                    assert_eq!(met.to_string(), expected, "{a} {b}");
                }
                assert!(pattern(a).includes(&met) && pattern(b).includes(&met));
                assert!(
                    pattern(a).covers(&met.example("~")) && pattern(b).covers(&met.example("~"))
                );
            }
        }
    }

    #[test]
    fn a_cgroup_covers_what_is_below_it() {
        let pattern = CgroupPattern::parse("/kubepods.slice/*/pod-*/").unwrap();
        assert!(pattern.covers("/kubepods.slice/burstable/pod-7"));
        assert!(pattern.covers("/kubepods.slice/burstable/pod-7/container/child"));
        assert!(!pattern.covers("/kubepods.slice/pod-7"));
        assert!(!pattern.covers("/kubepods.slice/burstable"));
        assert!(!pattern.covers("/kubepods.slice/a/b/pod-7"));
        assert!(!pattern.covers("/other/burstable/pod-7"));
        let slice = CgroupPattern::parse("/a").unwrap();
        assert!(!slice.covers("/ab"));
        assert!(!slice.covers("/"));
    }

    #[test]
    fn patterns_that_could_never_mean_what_they_say() {
        for (text, error) in [
            ("a/b", CgroupError::Relative),
            ("", CgroupError::Relative),
            ("/", CgroupError::Root),
            ("/a//b", CgroupError::Component),
            ("//", CgroupError::Component),
            ("/a/../b", CgroupError::Component),
            ("/a/**", CgroupError::DoubleStar),
        ] {
            assert_eq!(CgroupPattern::parse(text), Err(error), "{text}");
        }
    }
}
