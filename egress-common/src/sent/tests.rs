use super::*;
use crate::{Addr, EXEMPT_CGROUPS, Fallback, Port};
use core::net::IpAddr;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// What is above IP, and its port.
#[derive(Clone, Copy)]
struct Above(Transport, Port);

impl From<Transport> for Above {
    fn from(transport: Transport) -> Above {
        Above(transport, Port::NONE)
    }
}

fn to(port: u16, opens: bool) -> Above {
    let transport = match opens {
        true => Transport::Opens,
        false => Transport::Segment,
    };
    Above(transport, Port::from_host(port))
}

fn datagram(port: u16) -> Above {
    Above(Transport::Ports, Port::from_host(port))
}

fn scope() -> ScopeConfig {
    ScopeConfig::new(Port::from_host(15001), Port::from_host(15001))
        .with_ports(&[443])
        .unwrap()
        .with_other_ports(Fallback::Pass)
}

fn settings(unregistered: Fallback) -> Settings {
    let mut exempt = [0; EXEMPT_CGROUPS];
    exempt[0] = 77;
    Settings::new(exempt, unregistered)
}

fn sent(sender: Sender, dst: &str, above: impl Into<Above>) -> Sent {
    let Above(transport, port) = above.into();
    let packet = Packet {
        dst: addr(dst),
        protocol: 0,
        transport,
        port,
        steered: false,
    };
    Sent {
        sender,
        packet,
        cgroup: 1,
        course: Course::of(&packet, false),
    }
}

const SENDERS: [(Sender, Bypass); 6] = [
    (Sender::Socket, Bypass::Socket),
    (Sender::Nobody, Bypass::Socket),
    (Sender::Kernel, Bypass::Raw),
    (Sender::Raw, Bypass::Raw),
    (Sender::Unjudged, Bypass::Protocol),
    (Sender::Frame, Bypass::Frame),
];

fn judge(scope: &ScopeConfig, sent: &Sent) -> Result<(), Bypass> {
    decide_packet(&settings(Fallback::Refuse), Some(scope), None, sent)
}

#[test]
fn captured_ports_are_closed_to_every_sender() {
    for dst in ["192.0.2.1", "2001:db8::1"] {
        for (sender, bypass) in SENDERS {
            for transport in [to(443, true), datagram(443)] {
                assert_eq!(judge(&scope(), &sent(sender, dst, transport)), Err(bypass));
            }
        }
    }
}

#[test]
fn what_stands_goes_on_but_raw_packets_never_stood() {
    for (sender, bypass) in SENDERS {
        let expected = match sender {
            Sender::Socket | Sender::Nobody | Sender::Kernel => Ok(()),
            Sender::Raw | Sender::Unjudged | Sender::Frame => Err(bypass),
        };
        for scope in [scope(), closed()] {
            let sent = sent(sender, "192.0.2.1", to(443, false));
            assert_eq!(judge(&scope, &sent), expected, "{sent:?}");
        }
    }
}

/// The kernel makes fragments of what judged sockets send. Whoever sent the others, their first
/// was judged if it had its ports where they belong.
#[test]
fn fragments_pass_with_their_first() {
    for (sender, bypass) in SENDERS {
        let judge =
            |scope: &ScopeConfig, transport| judge(scope, &sent(sender, "192.0.2.1", transport));
        let of_the_kernel = matches!(sender, Sender::Socket | Sender::Unjudged);
        let expected = |passes: bool| if passes { Ok(()) } else { Err(bypass) };
        assert_eq!(
            judge(&scope(), Transport::Hidden),
            expected(of_the_kernel),
            "{sender:?}"
        );
        assert_eq!(
            judge(&scope(), Transport::Fragment),
            expected(of_the_kernel || sender == Sender::Nobody),
            "{sender:?}"
        );
        for transport in [Transport::Hidden, Transport::Fragment] {
            let expected = expected(sender == Sender::Socket);
            assert_eq!(judge(&closed(), transport), expected, "{sender:?}");
        }
    }
}

fn closed() -> ScopeConfig {
    scope().with_other_ports(Fallback::Refuse)
}

#[test]
fn the_rest_follows_the_scope() {
    let other = [to(22, true), datagram(5353)];
    let strict = scope().with_strict(true);
    for (sender, bypass) in SENDERS {
        for transport in other {
            let sent = sent(sender, "192.0.2.1", transport);
            assert_eq!(judge(&scope(), &sent), Ok(()));
            assert_eq!(judge(&closed(), &sent), Err(bypass));
        }
        let ping = sent(sender, "192.0.2.1", Transport::Portless);
        assert_eq!(judge(&scope(), &ping), Ok(()));
        let expected = match sender {
            Sender::Socket => Ok(()),
            _ => Err(bypass),
        };
        assert_eq!(judge(&closed(), &ping), expected, "{sender:?}");
        let expected = match sender {
            Sender::Socket | Sender::Nobody | Sender::Unjudged => Ok(()),
            Sender::Kernel | Sender::Raw | Sender::Frame => Err(bypass),
        };
        assert_eq!(judge(&strict, &ping), expected, "{sender:?}");
    }
}

/// Without it no namespace could be reached, in however closed a scope.
#[test]
fn what_the_kernel_sends_by_itself_leaves() {
    for scope in [scope(), closed(), closed().with_strict(true)] {
        for (sender, bypass) in SENDERS {
            let judge = |transport| judge(&scope, &sent(sender, "fe80::1", transport));
            let open = scope.other_ports() == Fallback::Pass;
            let expected = |passes: bool| if passes || open { Ok(()) } else { Err(bypass) };
            let kernel = matches!(sender, Sender::Socket | Sender::Kernel);
            let links = kernel || sender == Sender::Nobody;
            assert_eq!(judge(Transport::Link), expected(links), "{sender:?}");
            assert_eq!(judge(Transport::Answer), expected(kernel), "{sender:?}");
        }
    }
}

#[test]
fn sockets_that_nobody_remembers() {
    for (kind, protocol, sender) in [
        (1, 6, Sender::Socket),
        (1, 262, Sender::Socket),
        (2, 17, Sender::Socket),
        (2, 136, Sender::Socket),
        (3, 1, Sender::Kernel),
        (3, 6, Sender::Kernel),
        (3, 58, Sender::Kernel),
        (3, 4, Sender::Raw),
        (3, 17, Sender::Raw),
        (3, 255, Sender::Raw),
        (2, 1, Sender::Unjudged),
        (2, 58, Sender::Unjudged),
        (1, 132, Sender::Unjudged),
        (6, 33, Sender::Unjudged),
    ] {
        assert_eq!(Sender::unknown(kind, protocol), sender, "{kind} {protocol}");
    }
}

#[test]
fn loopback_exemption_prefix_and_unregistered_hold_for_packets_too() {
    for (sender, bypass) in SENDERS {
        let mut neighbour = sent(sender, "fe80::1", Transport::Link);
        neighbour.cgroup = 0;
        let expected = match sender {
            Sender::Socket | Sender::Nobody | Sender::Kernel => Ok(()),
            Sender::Raw | Sender::Unjudged | Sender::Frame => Err(bypass),
        };
        assert_eq!(
            decide_packet(&settings(Fallback::Refuse), None, None, &neighbour),
            expected
        );
        let mut packet = sent(sender, "127.0.0.1", to(443, true));
        packet.course = Course::of(&packet.packet, true);
        assert_eq!(judge(&scope(), &packet), Ok(()));
        packet.packet.dst = addr("192.0.2.1");
        packet.course = Course::of(&packet.packet, true);
        for (fallback, expected) in [(Fallback::Pass, Ok(())), (Fallback::Refuse, Err(bypass))] {
            assert_eq!(
                decide_packet(&settings(fallback), None, None, &packet),
                expected
            );
        }
        let prefix = Some(PrefixAction::Pass);
        assert_eq!(
            decide_packet(&settings(Fallback::Refuse), Some(&scope()), prefix, &packet),
            Ok(())
        );
        packet.cgroup = 77;
        assert_eq!(judge(&scope(), &packet), Ok(()));
    }
}

#[test]
fn a_prefix_that_passes_opens_no_strict_scope_and_hides_nothing() {
    let settings = settings(Fallback::Refuse);
    let strict = scope().with_strict(true);
    for (sender, bypass) in SENDERS {
        let judge = |scope: &ScopeConfig, transport: Above| {
            let packet = sent(sender, "192.0.2.1", transport);
            decide_packet(&settings, Some(scope), Some(PrefixAction::Pass), &packet)
        };
        let in_strict = match sender {
            Sender::Raw | Sender::Kernel | Sender::Frame => Err(bypass),
            Sender::Socket | Sender::Nobody | Sender::Unjudged => Ok(()),
        };
        assert_eq!(judge(&strict, to(443, true)), in_strict, "{sender:?}");
        assert_eq!(judge(&scope(), to(443, true)), Ok(()), "{sender:?}");
        let hidden = match sender {
            Sender::Socket | Sender::Unjudged => Ok(()),
            _ => Err(bypass),
        };
        let packet = judge(&scope(), Transport::Hidden.into());
        assert_eq!(packet, hidden, "{sender:?}");
    }
}

#[test]
fn loopback_does_not_leave_by_another_device() {
    let settings = settings(Fallback::Pass);
    for dst in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
        for (sender, _) in SENDERS {
            for transport in [to(443, true), to(8080, false), Transport::Portless.into()] {
                let mut sent = sent(sender, dst, transport);
                for scope in [Some(scope()), None] {
                    let prefix = Some(PrefixAction::Pass);
                    let judge =
                        |sent: &Sent| decide_packet(&settings, scope.as_ref(), prefix, sent);
                    assert_eq!(judge(&sent), Err(Bypass::Route), "{sent:?}");
                    sent.cgroup = 77;
                    assert_eq!(judge(&sent), Ok(()), "{sent:?}");
                    sent.cgroup = 1;
                    sent.course = Course::of(&sent.packet, true);
                    assert_eq!(judge(&sent), Ok(()), "{sent:?}");
                    sent.course = Course::of(&sent.packet, false);
                }
            }
        }
    }
}

#[test]
fn what_is_steered_does_not_leave() {
    let settings = settings(Fallback::Pass);
    for dst in ["192.0.2.1", "2001:db8::1", "::1"] {
        for (sender, _) in SENDERS {
            for transport in [to(443, true), to(443, false), Transport::Portless.into()] {
                let mut steered = sent(sender, dst, transport);
                steered.packet.steered = true;
                steered.course = Course::of(&steered.packet, dst == "::1");
                let mut exempt = steered;
                exempt.cgroup = 77;
                for scope in [Some(scope()), None] {
                    let prefix = Some(PrefixAction::Pass);
                    let judge =
                        |sent: &Sent| decide_packet(&settings, scope.as_ref(), prefix, sent);
                    assert_eq!(judge(&steered), Err(Bypass::Route), "{steered:?}");
                    assert_eq!(judge(&exempt), Ok(()), "{exempt:?}");
                }
            }
        }
    }
}
