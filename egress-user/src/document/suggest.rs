//! The key that was probably meant.

/// The word of `known` that differs least from `typed`, if it differs little.
pub(super) fn nearest<'k>(typed: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .filter(|word| typed.len() < 2 * word.len())
        .map(|&word| (distance(typed, word), word))
        .filter(|&(distance, word)| distance <= (word.len() / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// How many characters to insert, delete or replace turn `a` into `b` (Levenshtein), where
/// two characters in each other's place count once, and ASCII case, `-` and `_` not at all.
fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|word| {
        let letters = word.chars().filter(|c| !matches!(c, '-' | '_'));
        letters.map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>()
    });
    let different: Vec<_> = a.iter().zip(&b).filter(|(x, y)| x != y).collect();
    if let [(p, q), (r, s)] = different[..]
        && a.len() == b.len()
        && (p, q) == (s, r)
    {
        return 1;
    }
    let mut row: Vec<usize> = (1..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (above, y) in row.iter_mut().zip(&b) {
            let replaced = diagonal + usize::from(x != y);
            left = replaced.min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_meant() {
        let known = ["name", "hosts", "ports", "from", "serviceAccount"];
        for (typed, meant) in [
            ("hots", Some("hosts")),
            ("host", Some("hosts")),
            ("port", Some("ports")),
            ("form", Some("from")),
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("service_account", Some("serviceAccount")),
            ("service-acount", Some("serviceAccount")),
            ("timeout", None),
            ("", None),
            ("f", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("abcd", "badc", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
