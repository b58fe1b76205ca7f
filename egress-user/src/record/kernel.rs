//! Records of what the kernel programs refused.

use std::borrow::Cow;
use std::time::Instant;

use super::{ClosedBy, Hop, Record, Recorder, Verdict};
use crate::addr::{ClientAddr, OriginalDst};
use crate::connection_id::ConnectionId;
use crate::workload::{Process, Workload};

/// Something that the kernel programs refused, as far as they know it.
#[derive(Clone, Debug)]
pub struct KernelRefusal {
    /// When.
    pub at: Instant,
    /// The word for it, which is that of the counter too.
    pub reason: &'static str,
    /// The transport protocol by number (`IPPROTO_`), 0 where there is none.
    pub protocol: u16,
    /// Where it was to go.
    pub original_dst: Option<OriginalDst>,
    /// The workload that tried.
    pub workload: Workload,
    /// The process that tried.
    pub process: Option<Process>,
    /// Cookie of the network namespace: all that is known of where a forwarded packet came from.
    pub netns: Option<u64>,
    /// How many refusals of the same cgroup, or without one of the same namespace, were not told since
    /// the last one that was.
    pub withheld: u32,
}

impl Recorder {
    /// Writes the record of a refusal by the kernel programs. It goes to no counter: the kernel
    /// counts for itself, also what it does not tell.
    pub fn refused_by_kernel(&self, refusal: KernelRefusal) {
        let mut record = Record::new(Hop::Kernel, ConnectionId::new(), refusal.at);
        record.verdict = Verdict::Refused;
        record.reason = Some(Cow::Borrowed(refusal.reason));
        record.protocol = protocol(refusal.protocol);
        record.original_dst = refusal.original_dst.map(|dst| dst.to_string());
        record.workload = refusal.workload;
        record.process = refusal.process;
        record.netns = refusal.netns;
        record.withheld = (refusal.withheld != 0).then_some(refusal.withheld);
        record.closed_by = Some(ClosedBy::Egress);
        self.hand_over(Box::new(record));
    }
}

/// A TCP connection that was there before the capture.
#[derive(Clone, Debug)]
pub struct ConnectedBefore {
    /// The application's end.
    pub client: ClientAddr,
    /// The other end.
    pub original_dst: OriginalDst,
    /// The workload that it belongs to.
    pub workload: Workload,
    /// Whether it was ended.
    pub ended: bool,
}

impl Recorder {
    /// Writes the record of a connection that no hop has seen or will see.
    pub fn connected_before(&self, before: ConnectedBefore) {
        let mut record = Record::new(Hop::Kernel, ConnectionId::new(), Instant::now());
        record.verdict = match before.ended {
            true => Verdict::Refused,
            false => Verdict::Allowed,
        };
        record.reason = Some(Cow::Borrowed("connected_before"));
        record.protocol = Some(Cow::Borrowed("tcp"));
        record.client = Some(before.client.to_string());
        record.original_dst = Some(before.original_dst.to_string());
        record.port = Some(before.original_dst.port());
        record.workload = before.workload;
        record.closed_by = before.ended.then_some(ClosedBy::Egress);
        self.hand_over(Box::new(record));
    }
}

fn protocol(number: u16) -> Option<Cow<'static, str>> {
    let name = match number {
        0 => return None,
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        58 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        255 => "raw",
        262 => "mptcp",
        other => return Some(Cow::Owned(other.to_string())),
    };
    Some(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::{LogFormat, Metrics, Target};

    #[test]
    fn a_refusal_is_a_line_and_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let metrics = Arc::new(Metrics::default());
        let target = Target::from_path(&path);
        let recorder = Recorder::open(&target, LogFormat::Json, metrics.clone()).unwrap();
        recorder.refused_by_kernel(KernelRefusal {
            at: Instant::now(),
            reason: "refuse_udp",
            protocol: 17,
            original_dst: Some(OriginalDst::new("192.0.2.1:443".parse().unwrap())),
            workload: Workload::default(),
            process: None,
            netns: Some(4711),
            withheld: 3,
        });
        recorder.close();
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (field, value) in [
            ("hop", "kernel"),
            ("verdict", "refused"),
            ("reason", "refuse_udp"),
            ("protocol", "udp"),
            ("original_dst", "192.0.2.1:443"),
        ] {
            assert_eq!(json[field], value, "{text}");
        }
        assert_eq!(
            (&json["netns"], &json["withheld"]),
            (&4711.into(), &3.into())
        );
        assert!(!metrics.encode().contains("hop=\"kernel\""));
    }

    #[test]
    fn protocols_by_name_or_number() {
        assert_eq!(protocol(0), None);
        assert_eq!(protocol(132).as_deref(), Some("sctp"));
        assert_eq!(protocol(115).as_deref(), Some("115"));
    }
}
