//! Paths whose last component may have one `*`.

use std::path::Path;

pub(super) fn is_pattern(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().contains(&b'*'))
}

/// Whether `path` is what the pattern's last component, with one `*`, describes.
pub(super) fn fits(pattern: &Path, path: &Path) -> bool {
    let text = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let (Some(pattern), Some(name)) = (text(pattern), text(path)) else {
        return false;
    };
    let Some((first, last)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(first)
        .is_some_and(|rest| rest.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_describe_the_last_component() {
        let fits = |pattern: &str, path: &str| fits(Path::new(pattern), Path::new(path));
        assert!(fits("/run/netns/*", "/run/netns/a"));
        assert!(fits("/run/netns/job-*-x", "/run/netns/job-1-x"));
        assert!(!fits("/run/netns/job-*", "/run/netns/other"));
        assert!(!fits("/run/netns/ab*ba", "/run/netns/aba"));
        assert!(is_pattern(Path::new("/run/netns/*")));
        assert!(!is_pattern(Path::new("/run/*/a")));
    }
}
