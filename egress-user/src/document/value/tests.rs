use std::net::Ipv4Addr;

use super::*;
use crate::document::read;
use crate::document::tests::sentences;

/// What reading one value under the key `key` gives: the value, or the sentences.
macro_rules! value {
    ($text:expr, $read:expr) => {
        read(&format!("key: {}\n", $text), "file", |map| {
            map.required("key", $read)
        })
        .map(|loaded| loaded.value)
        .map_err(|mistakes| sentences(&mistakes))
    };
}

#[test]
fn texts() {
    assert_eq!(value!("no", Value::string), Ok("no".to_owned()));
    assert_eq!(value!("8080", Value::string), Ok("8080".to_owned()));
    assert_eq!(value!("'a b'", Value::string), Ok("a b".to_owned()));
    assert_eq!(value!("/run/x", Value::path), Ok(PathBuf::from("/run/x")));
    for nothing in ["", "~", "null"] {
        let wrong = "`key` should be a text, found no value".to_owned();
        assert_eq!(value!(nothing, Value::string), Err(wrong));
    }
    assert_eq!(
        value!("''", Value::string),
        Err("`key` is empty".to_owned())
    );
    assert_eq!(
        value!("[a]", Value::string),
        Err("`key` should be a text, found a list".to_owned())
    );
}

#[test]
fn booleans() {
    assert_eq!(value!("true", Value::boolean), Ok(true));
    assert_eq!(value!("false", Value::boolean), Ok(false));
    for (typed, found) in [
        ("yes", "`yes`"),
        ("'true'", "the text \"true\""),
        ("1", "`1`"),
        ("{a: b}", "a map"),
    ] {
        assert_eq!(
            value!(typed, Value::boolean),
            Err(format!("`key` should be `true` or `false`, found {found}"))
        );
    }
}

#[test]
fn numbers() {
    assert_eq!(value!("0", |v| v.number(0..=9u8)), Ok(0));
    assert_eq!(value!("9", |v| v.number(0..=9u8)), Ok(9));
    assert_eq!(
        value!("18446744073709551615", |v| v.number(0..=u64::MAX)),
        Ok(u64::MAX)
    );
    for typed in ["10", "256", "-1", "+1", "1.0", "0x1", "007", "1_0", "ten"] {
        assert_eq!(
            value!(typed, |v| v.number(0..=9u8)),
            Err(format!(
                "`key` should be a number from 0 to 9, found `{typed}`"
            ))
        );
    }
    assert_eq!(
        value!("'9'", |v| v.number(0..=9u8)),
        Err("`key` should be a number from 0 to 9, found the text \"9\"".to_owned())
    );
    assert_eq!(value!("65535", Value::port), Ok(65535));
    assert!(value!("0", Value::port).is_err());
    assert!(value!("65536", Value::port).is_err());
}

#[test]
fn durations() {
    let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
    for (typed, expected) in [
        ("250ms", Duration::from_millis(250)),
        ("5s", Duration::from_secs(5)),
        ("'5s'", Duration::from_secs(5)),
        ("2m", Duration::from_secs(120)),
        ("24h", Duration::from_secs(86_400)),
    ] {
        assert_eq!(value!(typed, |v| v.duration(range.clone())), Ok(expected));
    }
    for typed in ["5", "0s", "25h", "1.5s", "-5s", "5 s", "5d", "s", "5S", "ü"] {
        assert_eq!(
            value!(typed, |v| v.duration(range.clone())),
            Err(format!(
                "`key` should be a duration from 1ms to 86400s such as 5s, 250ms or 2m, \
                 found `{typed}`"
            ))
        );
    }
    let typed = format!("{}h", u64::MAX);
    assert!(value!(&typed, |v| v.duration(Duration::ZERO..=Duration::MAX)).is_err());
}

#[test]
fn addresses() {
    let socket = "127.0.0.1:443".parse().unwrap();
    assert_eq!(value!("127.0.0.1:443", Value::socket_addr), Ok(socket));
    let socket = "[::1]:443".parse().unwrap();
    assert_eq!(value!("'[::1]:443'", Value::socket_addr), Ok(socket));
    assert_eq!(
        value!("localhost:443", Value::socket_addr),
        Err(
            "`key` should be an IP address with a port such as 127.0.0.1:443 or [::1]:443, \
             found `localhost:443`"
                .to_owned()
        )
    );
    let ip = Ipv4Addr::new(192, 0, 2, 7).into();
    assert_eq!(value!("192.0.2.7", Value::ip_addr), Ok(ip));
    assert!(value!("192.0.2.007", Value::ip_addr).is_err());
    let net = "10.0.0.0/8".parse().unwrap();
    assert_eq!(value!("10.0.0.0/8", Value::ip_net), Ok(net));
    let net = "2001:db8::1/128".parse().unwrap();
    assert_eq!(value!("2001:db8::1", Value::ip_net), Ok(net));
    assert_eq!(
        value!("10.0.0.1/8", Value::ip_net),
        Err("`key` should be 10.0.0.0/8 or a longer prefix, found `10.0.0.1/8`".to_owned())
    );
    assert_eq!(
        value!("[]", Value::ip_net),
        Err(
            "`key` should be an IP prefix such as 10.0.0.0/8 or 2001:db8::/32, found a list"
                .to_owned()
        )
    );
}

#[test]
fn words() {
    let table = [("allow", 1), ("deny", 2)];
    assert_eq!(value!("deny", |v| v.one_of(&table)), Ok(2));
    assert_eq!(
        value!("Deny", |v| v.one_of(&table)),
        Err("`key` should be one of `allow`, `deny`, found `Deny`".to_owned())
    );
    assert_eq!(
        value!("x", |v| v.one_of(&[("audit", 1)])),
        Err("`key` should be `audit`, found `x`".to_owned())
    );
}

#[test]
fn parsed_texts() {
    let upper = |text: &str| match text.to_uppercase() {
        upper if upper == text => Ok(upper),
        _ => Err("shout"),
    };
    assert_eq!(value!("ABC", |v| v.parse(upper)), Ok("ABC".to_owned()));
    assert_eq!(
        value!("abc", |v| v.parse(upper)),
        Err("`abc` in `key`: shout".to_owned())
    );
    let long = "ü".repeat(61);
    let shown = "ü".repeat(60);
    assert_eq!(
        value!(&long, |v| v.parse(upper)),
        Err(format!("`{shown}…` in `key`: shout"))
    );
}

#[test]
fn lists_are_read_to_the_end() {
    assert_eq!(value!("[1, 2]", |v| v.list(Value::port)), Ok(vec![1, 2]));
    assert_eq!(value!("[]", |v| v.list(Value::port)), Ok(vec![]));
    assert_eq!(
        value!("[]", |v| v.non_empty_list(Value::port)),
        Err("`key` lists nothing".to_owned())
    );
    assert_eq!(
        value!("80", |v| v.non_empty_list(Value::port)),
        Err("`key` should be a list, found `80`".to_owned())
    );
    assert_eq!(
        value!("[0, 1, x]", |v| v.list(Value::port)),
        Err(
            "an item of `key` should be a number from 1 to 65535, found `0`\n\
             an item of `key` should be a number from 1 to 65535, found `x`"
                .to_owned()
        )
    );
}

#[test]
fn maps_within_lists() {
    let read = |value: Value<'_>| {
        value.list(|value| {
            value.map(|map| {
                let name = map.required("name", Value::string);
                let port = map.or("port", 443, Value::port);
                Some((name?, port))
            })
        })
    };
    assert_eq!(
        value!("[{name: a}, {port: 1, name: b}]", read),
        Ok(vec![("a".to_owned(), 443), ("b".to_owned(), 1)])
    );
    assert_eq!(
        value!("[{prot: 1}, x, {name: a, port: 0}]", read),
        Err("`name` is missing\n\
             unknown key `prot`, did you mean `port`?\n\
             an item of `key` should be a map of keys and values, found `x`\n\
             `port` should be a number from 1 to 65535, found `0`"
            .to_owned())
    );
}
