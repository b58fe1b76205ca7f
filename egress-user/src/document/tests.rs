use proptest::prelude::*;

use super::*;

/// The sentences alone, one a line.
pub(super) fn sentences(mistakes: &Mistakes) -> String {
    let lines: Vec<_> = mistakes.iter().map(|m| m.sentence.as_str()).collect();
    lines.join("\n")
}

/// The whole output for a document in which nothing but the key `key` is known.
fn output(text: &str) -> String {
    match read(text, "file", |map| map.required("key", Value::string)) {
        Ok(loaded) => format!("read {:?}", loaded.value),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[test]
fn a_misspelt_key_is_not_missing_too() {
    assert_eq!(
        output("kye: x\n"),
        "file:1:1: unknown key `kye`, did you mean `key`?\n  1 | kye: x\n    | ^^^"
    );
    assert_eq!(
        output("other: x\n"),
        "file:1:1: `key` is missing\n  1 | other: x\n    | ^\n\
         file:1:1: unknown key `other`; known here: `key`\n  1 | other: x\n    | ^^^^^"
    );
}

#[test]
fn a_key_given_twice_is_named_with_both_lines() {
    assert_eq!(
        output("key: 1\na: 1\nkey: 2\n\"key\": 3\n"),
        "file:2:1: unknown key `a`; known here: `key`\n  2 | a: 1\n    | ^\n\
         file:3:1: `key` stands on line 1 already\n  3 | key: 2\n    | ^^^\n\
         file:4:1: `key` stands on line 3 already\n  4 | \"key\": 3\n    | ^^^^^"
    );
}

#[test]
fn the_top_is_one_map() {
    for (text, expected) in [
        ("", "file:1:1: the document is empty\n  1 | \n    | ^"),
        (
            "# nothing\n",
            "file:1:1: the document is empty\n  1 | # nothing\n    | ^",
        ),
        (
            "- a\n",
            "file:1:1: the document should be a map of keys and values, found a list\n  \
             1 | - a\n    | ^",
        ),
        (
            "---\n",
            "file:2:1: the document should be a map of keys and values, found no value\n  \
             2 | \n    | ^",
        ),
        (
            "key: a\n---\nkey: b\n",
            "file:2:1: a second document begins here, and one is read\n  2 | ---\n    | ^^^",
        ),
        ("--- {key: a}\n...\n", "read \"a\""),
    ] {
        assert_eq!(output(text), expected, "{text:?}");
    }
}

#[test]
fn what_yaml_can_and_we_do_not() {
    for (text, expected) in [
        (
            "key: !!str 1",
            "file:1:6: a tag (`!…`) has no meaning here; remove it\n  \
             1 | key: !!str 1\n    |      ^^^^^^^",
        ),
        (
            "? [a]\n: b\nkey: a\n",
            "file:1:3: a key should be a word, on one line and without `?`, `&` or `*`\n  \
             1 | ? [a]\n    |   ^",
        ),
        (
            "key: *x",
            "file:1:6: a value that begins with `*` needs quotes, since a bare `*` makes it a \
             YAML alias\n  1 | key: *x\n    |      ^",
        ),
        (
            "key: &a [*a]",
            "file:1:10: this alias stands inside what it is an alias for\n  \
             1 | key: &a [*a]\n    |          ^^",
        ),
        (
            "key: 'a",
            "file:1:6: this is not YAML: while scanning a quoted scalar, found unexpected end \
             of stream\n  1 | key: 'a\n    |      ^",
        ),
    ] {
        assert_eq!(output(text), expected, "{text:?}");
    }
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let text = "a: &x [1, 2]\nb: *x\n";
    let ports = |value: Value<'_>| value.list(Value::port);
    let loaded = read(text, "file", |map| {
        let (a, b) = (map.required("a", ports), map.required("b", ports));
        Some((a?, b?))
    });
    assert_eq!(loaded.unwrap().value, (vec![1, 2], vec![1, 2]));

    let words = |value: Value<'_>| value.list(Value::boolean);
    let wrong = read("a: &x [1]\nb: *x\n", "file", |map| {
        let (a, b) = (map.required("a", words), map.required("b", words));
        Some((a?, b?))
    });
    let sentence = "an item of `a` should be `true` or `false`, found `1`\n\
                    an item of `b` should be `true` or `false`, found `1`";
    assert_eq!(sentences(&wrong.unwrap_err()), sentence);
}

#[test]
fn a_mistake_behind_an_anchor_is_told_once() {
    let wrong = read("key: [&x {a: 0}, *x, *x]\n", "file", |map| {
        map.required("key", |value| {
            value.list(|value| value.map(|map| map.required("a", Value::port)))
        })
    });
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "file:1:14: `a` should be a number from 1 to 65535, found `0`\n  \
         1 | key: [&x {a: 0}, *x, *x]\n    |              ^"
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        let list = vec![below; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let sentence = "the aliases up to here stand for more than 100000 values; \
                    write some of them out";
    assert!(output(&text).contains(sentence));
}

#[test]
fn depth_is_bounded_with_and_without_aliases() {
    // The map itself is the first level.
    let nested = |depth: usize| format!("{}x{}", "[".repeat(depth), "]".repeat(depth));
    let too_deep = "nested more than 32 levels deep";
    let found = "`key` should be a text, found a list";
    assert!(output(&format!("key: {}", nested(31))).contains(found));
    assert!(output(&format!("key: {}", nested(32))).contains(too_deep));
    assert!(output(&format!("key: {}", "- ".repeat(1 << 20))).contains("not YAML"));
    assert!(output(&format!("key:\n {}", "- ".repeat(1 << 20))).contains(too_deep));

    let aliased = |depth: usize| {
        format!("key: {}\n", nested(20).replace('x', "&a [y]"))
            + &format!("b: {}\n", nested(depth).replace('x', "*a"))
    };
    assert!(!output(&aliased(30)).contains(too_deep));
    assert!(output(&aliased(31)).contains(too_deep));
}

#[test]
fn a_file_that_is_too_long_is_refused_before_it_is_parsed() {
    let text = " ".repeat(MAX_BYTES + 1);
    assert_eq!(
        output(&text),
        "file: 67108865 bytes long, and at most 67108864 are read"
    );
}

#[test]
fn lines_and_columns_count_as_editors_do() {
    assert_eq!(
        output("\u{feff}key: [ü, 'ß'] # ü\r\na: b\r\n"),
        "file:1:6: `key` should be a text, found a list\n  \
         1 | key: [ü, 'ß'] # ü\n    |      ^\n\
         file:2:1: unknown key `a`; known here: `key`\n  2 | a: b\n    | ^"
    );
    assert_eq!(
        output("key: a\nb: \tc\n"),
        "file:2:1: unknown key `b`; known here: `key`\n  2 | b:  c\n    | ^"
    );
    let lines = "# x\n".repeat(99);
    assert_eq!(
        output(&format!("key: a\n{lines}ü: c\n")),
        "file:101:1: unknown key `ü`; known here: `key`\n  101 | ü: c\n      | ^"
    );
}

#[test]
fn an_excerpt_is_short_and_harmless() {
    let long = format!("key: [{}{{}}, {}]\n", "a, ".repeat(50), "b, ".repeat(50));
    let mistakes = read(&long, "file", |map| {
        map.required("key", |value| value.list(Value::string))
    });
    assert_eq!(
        mistakes.unwrap_err().to_string(),
        "file:1:157: an item of `key` should be a text, found a map\n  \
         1 | … a, a, a, a, a, a, a, a, a, a, a, a, a, {}, b, b, b, b, b, b, b, b, b, b, b, b, b, b, \
         b, b, b, b, b,…\n    |                                          ^"
    );
    assert_eq!(
        output("key: a\n\"\u{1b}[31m\u{202e}\": b\n"),
        "file:2:1: unknown key `\u{fffd}[31m\u{fffd}`; known here: `key`\n  \
         2 | \"\u{fffd}[31m\u{fffd}\": b\n    | ^^^^^^^^"
    );
}

#[test]
fn a_hundred_mistakes_are_shown() {
    let text = format!(
        "key: a\n{}",
        (0..130).fold(String::new(), |text, n| text + &format!("x{n}: a\n"))
    );
    let mistakes = read(&text, "file", |map| map.required("key", Value::string));
    let mistakes = mistakes.unwrap_err();
    assert_eq!(mistakes.iter().count(), 101);
    let last = mistakes.iter().last().unwrap();
    assert_eq!(last.to_string(), "file: and 30 more like these");
}

#[test]
fn warnings_do_not_stop() {
    let loaded = read("key: a\n", "file", |map| {
        map.warn("of the map");
        map.required("key", |value| {
            value.warn("of the value");
            value.string()
        })
    })
    .unwrap();
    assert_eq!(loaded.value, "a");
    let shown: Vec<_> = loaded.warnings.iter().map(Mistake::to_string).collect();
    assert_eq!(
        shown,
        [
            "file:1:1: of the map\n  1 | key: a\n    | ^",
            "file:1:6: of the value\n  1 | key: a\n    |      ^"
        ]
    );
}

#[test]
fn a_builder_that_says_nothing_is_not_taken_for_success() {
    let result = read("a: b\n", "file", |map| {
        map.optional("a", Value::string);
        None::<()>
    });
    assert_eq!(
        result.unwrap_err().to_string(),
        "file: says nothing that could be used"
    );
}

#[test]
fn mistakes_as_json() {
    let mistakes = read("key: []\n", "file", |map| {
        map.required("key", Value::string)
    });
    let mistakes = mistakes
        .unwrap_err()
        .and(Mistake::new("--flag", "no").into());
    assert_eq!(
        serde_json::to_string(&mistakes).unwrap(),
        r#"[{"label":"file","line":1,"column":6,"excerpt":"key: []","sentence":"`key` should be a text, found a list"},{"label":"--flag","sentence":"no"}]"#
    );
}

/// The texts under `name` of the items of `list`, and what is wrong: read in one go, and item by
/// item.
fn both_ways(text: &str) -> (String, String) {
    fn name(value: Value<'_>) -> Option<String> {
        value.map(|map| map.required("name", Value::string))
    }
    fn told(read: Result<Loaded<()>, Mistakes>, names: &[String]) -> String {
        match read {
            Ok(_) => names.join(" "),
            Err(mistakes) => mistakes.to_string(),
        }
    }
    let mut whole = Vec::new();
    let read_whole = read(text, "file", |map| {
        let names = map.required("list", |value| value.list(name));
        let other = map.required("other", Value::string);
        whole = names?;
        other.map(drop)
    });
    let mut items = Vec::new();
    let read_items = read_with_items(
        text,
        "file",
        "list",
        |value| items.extend(name(value)),
        |map| {
            let list = map.required("list", |value| value.list(Some));
            let other = map.required("other", Value::string);
            list?;
            other.map(drop)
        },
    );
    (told(read_whole, &whole), told(read_items, &items))
}

#[test]
fn items_that_are_read_one_by_one_are_the_same_items() {
    for (text, expected) in [
        ("list: [{name: a}, {name: b}]\nother: x\n", "a b"),
        (
            "other: x\nlist:\n- name: a\n- &b {name: b}\n- *b\n",
            "a b b",
        ),
        ("other: &x y\nlist: &l\n- {name: *x}\n", "y"),
        ("other: x\nlist: []\n", ""),
    ] {
        let both = both_ways(text);
        assert_eq!(both, (expected.to_owned(), expected.to_owned()), "{text}");
    }
    for text in [
        "list: [{name: a}, {nam: b}, 3]\nother: x\n",
        "list: [{name: a}]\n",
        "list: {name: a}\nother: x\n",
        "list: a\nother: x\n",
        "list:\nother: x\n",
        "other: x\n",
        "other: {list: [{name: a}]}\n",
        "list: [[{name: a}]]\nother: x\n",
        "list: [{name: a, list: [{name: b}]}]\nother: x\n",
        "list: [{name: a}]\nlist: [{name: b}]\nother: x\n",
        "list: [{name: a}\nother: x\n",
        "list: *a\nother: x\n",
        "",
    ] {
        let (whole, items) = both_ways(text);
        assert_eq!(whole, items, "{text}");
        assert!(whole.starts_with("file:"), "{text}: {whole}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever stands in a file, it is read or refused with places that exist.
    #[test]
    fn any_text_is_read_or_refused(
        text in "(key|a|b|: |:|- |\\[|\\]|\\{|\\}|, |&x |\\*x|!t |\\||>|'|\"|#| |\n|\n  |\t|\\?|%|@|`|~|\r|ü|\u{feff}|\u{85}|\u{2028}|\\\\|0|---|\\.\\.\\.){0,60}"
    ) {
        let result = read(&text, "file", |map| {
            map.optional("key", |value| {
                value.list(|value| value.map(|map| map.required("a", Value::port)))
            });
            map.optional("a", |value| value.map(|map| map.required("b", Value::boolean)));
            Some(())
        });
        for mistake in result.err().iter().flat_map(Mistakes::iter) {
            let position = mistake.position.as_ref().expect("every mistake has a place");
            let lines = text.split(['\n', '\r']).count();
            prop_assert!((1..=lines).contains(&(position.line as usize)));
            let end = position.caret + position.width;
            prop_assert!(end <= position.excerpt.chars().count() + 1);
        }
    }
}
