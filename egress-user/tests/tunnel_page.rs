//! docs/tunnel.md: its examples decode, and its tables are those of the code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails by panicking, as the test does"
)]

use bytes::BytesMut;
use egress_user::hello::alert_for;
use egress_user::refusal::Class;
use egress_user::tunnel::frame::{
    FrameHeader, HEADER_LEN, Kind, Opened, Order, ResetCode, Role, decode_refused, put_refused,
};
use egress_user::tunnel::header::OpenHeader;

const PAGE: &str = include_str!("../../docs/tunnel.md");

/// A frame of an example.
struct Frame {
    from: Role,
    kind: Kind,
    payload: Vec<u8>,
}

fn examples() -> Vec<Vec<Frame>> {
    let blocks = PAGE.split("```frames\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    blocks
        .map(|block| block.lines().map(frame).collect())
        .collect()
}

fn frame(line: &str) -> Frame {
    let (bytes, name) = line.split_once(" ; ").unwrap();
    let (from, bytes) = bytes.split_once(' ').unwrap();
    let from = match from {
        "agent" => Role::Agent,
        "gateway" => Role::Gateway,
        _ => panic!("{line}"),
    };
    let bytes: Vec<u8> = bytes
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
    let header = FrameHeader::parse(header).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(
        format!("{:?}", header.kind()).eq_ignore_ascii_case(name),
        "{line}"
    );
    assert_eq!(header.payload_len(), payload.len(), "{line}");
    Frame {
        from,
        kind: header.kind(),
        payload: payload.to_vec(),
    }
}

#[test]
fn the_examples_are_in_order_at_both_ends() {
    let examples = examples();
    assert_eq!(examples.len(), 4);
    for frames in examples {
        let (mut agent, mut gateway) = (Order::new(Role::Agent), Order::new(Role::Gateway));
        for frame in frames {
            let (sender, receiver) = match frame.from {
                Role::Agent => (&mut agent, &mut gateway),
                Role::Gateway => (&mut gateway, &mut agent),
            };
            sender.sent(frame.kind).unwrap();
            let _ = receiver.received(frame.kind).unwrap();
        }
        assert!(agent.is_idle() && gateway.is_idle());
    }
}

/// Read, and written the same way again.
#[test]
fn the_examples_payloads_decode() {
    for frame in examples().into_iter().flatten() {
        let mut again = BytesMut::new();
        let payload = &frame.payload[..];
        match frame.kind {
            Kind::Open => {
                let header = OpenHeader::decode(payload).unwrap();
                header.encode(&mut again).unwrap();
                assert_eq!(again, payload);
            }
            Kind::Opened => {
                let opened = Opened::decode(payload).unwrap();
                opened.put(&mut again).unwrap();
                assert_eq!(&again[HEADER_LEN..], payload);
            }
            Kind::Refused => {
                let refusal = decode_refused(payload).unwrap();
                put_refused(&refusal, &mut again).unwrap();
                assert_eq!(&again[HEADER_LEN..], payload);
            }
            Kind::Reset => assert_eq!(ResetCode::decode(payload), Ok(ResetCode::Shutdown)),
            Kind::Data | Kind::Fin | Kind::Drain | Kind::Ready => {}
        }
    }
}

#[test]
fn the_first_example_says_what_the_page_says() {
    let frames = examples().remove(0);
    let header = OpenHeader::decode(&frames[1].payload).unwrap();
    assert_eq!(header.client.to_string(), "10.0.0.1:40000");
    assert_eq!(header.original.to_string(), "192.0.2.7:443");
    assert_eq!(header.server_name, "a.example");
    assert_eq!(header.workload.namespace.as_deref(), Some("web"));
    assert_eq!(header.workload.uid, Some(1000));
    let labels = header.workload.labels.unwrap();
    assert!(labels.iter().eq([("app", "crawler")]));
    let process = header.process.unwrap();
    assert_eq!((process.pid, &*process.comm), (4242, "curl"));
    let opened = Opened::decode(&frames[3].payload).unwrap();
    assert_eq!(opened.dialled.to_string(), "192.0.2.7:443");
    assert!(opened.original_resolved);
}

/// The rows of the table below a heading line.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = PAGE.split_once(&format!("\n{head}\n")).unwrap();
    let rows = rest
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn the_table_of_frames_is_that_of_the_code() {
    let rows = table("| type | name | from | payload, in bytes | meaning |");
    assert_eq!(rows.len(), Kind::ALL.len());
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        assert_eq!(row[0], kind.code().to_string());
        assert!(format!("{kind:?}").eq_ignore_ascii_case(row[1]), "{row:?}");
        let (least, most) = row[3].split_once(" to ").unwrap_or((row[3], row[3]));
        let (least, most): (usize, usize) = (least.parse().unwrap(), most.parse().unwrap());
        for len in [least, most] {
            assert!(FrameHeader::new(kind, len).is_ok(), "{row:?}");
        }
        assert!(FrameHeader::new(kind, most + 1).is_err(), "{row:?}");
        let less = least.checked_sub(1);
        assert!(less.is_none_or(|less| FrameHeader::new(kind, less).is_err()));
        for role in [Role::Agent, Role::Gateway] {
            let may = row[2] == "both" || row[2] == role.to_string();
            let mut order = Order::new(role);
            let refused = order
                .sent(kind)
                .is_err_and(|error| error.reason() == "frame_direction");
            assert_eq!(refused, !may, "{role}: {row:?}");
        }
    }
}

#[test]
fn the_tables_of_codes_are_those_of_the_code() {
    let head = "| class | name | may the agent ask another gateway | alert to the application |";
    let rows = table(head);
    assert_eq!(rows.len(), Class::ALL.len());
    for (row, class) in rows.iter().zip(Class::ALL) {
        assert_eq!(
            (row[0], row[1]),
            (&*class.code().to_string(), &*format!("{class:?}"))
        );
        // RFC 8446 §6.
        let alert = match row[3] {
            "`access_denied`" => 49,
            "`unrecognized_name`" => 112,
            "`decode_error`" => 50,
            "`internal_error`" => 80,
            other => panic!("{other}"),
        };
        assert_eq!(alert_for(class).last(), Some(&alert), "{row:?}");
    }
    let rows = table("| code | name |");
    assert_eq!(rows.len(), ResetCode::ALL.len());
    for (row, code) in rows.iter().zip(ResetCode::ALL) {
        assert_eq!(row[0], code.code().to_string());
        assert_eq!(row[1].split(':').next(), Some(&*format!("{code:?}")));
    }
}
