extern crate std;

use super::*;
use crate::EXEMPT_CGROUPS;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;

const AGENT_CGROUP: u64 = 77;
const V4_LISTENER: u16 = 15001;
const V6_LISTENER: u16 = 15006;

fn settings(unregistered: Fallback) -> Settings {
    let mut exempt = [0; EXEMPT_CGROUPS];
    exempt[0] = AGENT_CGROUP;
    Settings::new(exempt, unregistered)
}

fn scope(other_ports: Fallback) -> ScopeConfig {
    ScopeConfig::new(Port::from_host(V4_LISTENER), Port::from_host(V6_LISTENER))
        .with_ports(&[443, 8443])
        .unwrap()
        .with_other_ports(other_ports)
}

/// An attempt by an ordinary process; the form follows from the text.
fn attempt(protocol: Protocol, dst: &str, port: u16) -> Attempt {
    let (form, ip) = match dst.parse().unwrap() {
        IpAddr::V4(ip) => (Form::V4, IpAddr::V4(ip)),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => (Form::V4Mapped, IpAddr::V6(ip)),
        IpAddr::V6(ip) => (Form::V6, IpAddr::V6(ip)),
    };
    Attempt {
        cgroup: 1,
        protocol,
        form,
        dst: ip.into(),
        port: Port::from_host(port),
        bound: false,
        now: 1_000_000,
    }
}

fn judge(attempt: &Attempt) -> Verdict {
    decide(
        &settings(Fallback::Refuse),
        Some(&scope(Fallback::Pass)),
        None,
        attempt,
    )
}

#[test]
fn tcp_to_a_captured_port_goes_to_the_listener_of_its_form() {
    let v4 = Port::from_host(V4_LISTENER);
    let v6 = Port::from_host(V6_LISTENER);
    for (dst, to) in [
        ("192.0.2.1", Redirect::V4(v4)),
        ("::ffff:192.0.2.1", Redirect::V4Mapped(v4)),
        ("2001:db8::1", Redirect::V6(v6)),
        ("169.254.169.254", Redirect::V4(v4)),
        ("fe80::1", Redirect::V6(v6)),
    ] {
        for port in [443, 8443] {
            assert_eq!(
                judge(&attempt(Protocol::Tcp, dst, port)),
                Verdict::Redirect(to),
                "{dst}:{port}"
            );
        }
    }
}

#[test]
fn without_a_v6_listener_the_v4_listener_serves() {
    let scope = ScopeConfig::new(Port::from_host(V4_LISTENER), Port::NONE)
        .with_ports(&[443])
        .unwrap();
    let verdict = decide(
        &settings(Fallback::Refuse),
        Some(&scope),
        None,
        &attempt(Protocol::Tcp, "2001:db8::1", 443),
    );
    assert_eq!(
        verdict,
        Verdict::Redirect(Redirect::V4Mapped(Port::from_host(V4_LISTENER)))
    );
}

#[test]
fn without_any_listener_nothing_passes() {
    let scope = ScopeConfig::new(Port::NONE, Port::NONE)
        .with_ports(&[443])
        .unwrap();
    for dst in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        let verdict = decide(
            &settings(Fallback::Pass),
            Some(&scope),
            None,
            &attempt(Protocol::Tcp, dst, 443),
        );
        assert_eq!(verdict, Verdict::Refuse(Refuse::NoListener));
    }
}

#[test]
fn nothing_is_redirected_to_an_agent_that_is_silent() {
    let attempt = attempt(Protocol::Tcp, "192.0.2.1", 443);
    let judge = |now, limit| {
        let settings = settings(Fallback::Refuse).with_heartbeat(now, limit);
        decide(&settings, Some(&scope(Fallback::Pass)), None, &attempt)
    };
    assert_eq!(judge(0, 999_999), Verdict::Refuse(Refuse::Stale));
    assert!(matches!(judge(0, 1_000_000), Verdict::Redirect(_)));
    assert!(matches!(judge(0, 0), Verdict::Redirect(_)));
}

#[test]
fn udp_to_a_captured_port_is_refused() {
    for dst in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        assert_eq!(
            judge(&attempt(Protocol::Udp, dst, 443)),
            Verdict::Refuse(Refuse::Udp)
        );
    }
}

#[test]
fn other_ports_follow_the_scope_and_dns_passes_to_name_servers() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let server = IpAddr::from([192, 0, 2, 1]).into();
        let settings = settings(Fallback::Pass).with_resolvers(&[server]).unwrap();
        let closed = scope(Fallback::Refuse);
        let judge = |scope: &ScopeConfig, port| {
            let attempt = attempt(protocol, "192.0.2.1", port);
            decide(&settings, Some(scope), None, &attempt)
        };
        assert_eq!(
            judge(&scope(Fallback::Pass), 22),
            Verdict::Pass(Pass::OtherPort)
        );
        assert_eq!(judge(&closed, 22), Verdict::Refuse(Refuse::OtherPort));
        assert_eq!(judge(&closed, 0), Verdict::Refuse(Refuse::OtherPort));
        assert_eq!(judge(&closed, 53), Verdict::Pass(Pass::Dns));
        let elsewhere = attempt(protocol, "192.0.2.2", 53);
        assert_eq!(
            decide(&settings, Some(&closed), None, &elsewhere),
            Verdict::Refuse(Refuse::OtherPort)
        );
    }
}

#[test]
fn a_namespace_without_scope_follows_the_settings() {
    let attempt = attempt(Protocol::Tcp, "192.0.2.1", 22);
    for (fallback, verdict) in [
        (Fallback::Pass, Verdict::Pass(Pass::Unregistered)),
        (Fallback::Refuse, Verdict::Refuse(Refuse::Unregistered)),
    ] {
        assert_eq!(decide(&settings(fallback), None, None, &attempt), verdict);
    }
}

#[test]
fn prefixes_come_before_ports() {
    let judge = |prefix, port| {
        decide(
            &settings(Fallback::Refuse),
            Some(&scope(Fallback::Pass)),
            Some(prefix),
            &attempt(Protocol::Tcp, "10.1.2.3", port),
        )
    };
    for port in [443, 22] {
        assert_eq!(judge(PrefixAction::Pass, port), Verdict::Pass(Pass::Prefix));
        assert_eq!(
            judge(PrefixAction::Refuse, port),
            Verdict::Refuse(Refuse::Prefix)
        );
    }
    assert!(matches!(
        judge(PrefixAction::Judge, 443),
        Verdict::Redirect(_)
    ));
    for port in [443, 22] {
        let verdict = judge(PrefixAction::Redirect, port);
        assert!(matches!(verdict, Verdict::Redirect(_)), "{verdict:?}");
    }
}

#[test]
fn what_cannot_be_redirected_is_refused_where_a_prefix_redirects() {
    let judge = |protocol| {
        decide(
            &settings(Fallback::Pass),
            Some(&scope(Fallback::Refuse)),
            Some(PrefixAction::Redirect),
            &attempt(protocol, "10.1.2.3", 22),
        )
    };
    assert_eq!(judge(Protocol::Udp), Verdict::Refuse(Refuse::Udp));
    assert_eq!(judge(Protocol::Other), Verdict::Refuse(Refuse::Protocol));
}

#[test]
fn other_protocols_follow_other_ports() {
    for (fallback, verdict) in [
        (Fallback::Pass, Verdict::Pass(Pass::Protocol)),
        (Fallback::Refuse, Verdict::Refuse(Refuse::Protocol)),
    ] {
        for port in [443, 0] {
            let attempt = attempt(Protocol::Other, "192.0.2.1", port);
            let judged = decide(
                &settings(Fallback::Pass),
                Some(&scope(fallback)),
                None,
                &attempt,
            );
            assert_eq!(judged, verdict);
        }
    }
}

#[test]
fn protocol_numbers() {
    for (number, protocol) in [
        (6, Protocol::Tcp),
        (262, Protocol::Tcp),
        (17, Protocol::Udp),
        (136, Protocol::Udp),
        (1, Protocol::Other),
        (58, Protocol::Other),
        (132, Protocol::Other),
    ] {
        assert_eq!(Protocol::from_number(number), protocol, "{number}");
    }
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        4 => Just(Protocol::Tcp),
        2 => Just(Protocol::Udp),
        1 => Just(Protocol::Other),
    ]
}

fn any_fallback() -> impl Strategy<Value = Fallback> {
    prop_oneof![Just(Fallback::Pass), Just(Fallback::Refuse)]
}

fn any_prefix() -> impl Strategy<Value = Option<PrefixAction>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(PrefixAction::Judge)),
        1 => Just(Some(PrefixAction::Pass)),
        1 => Just(Some(PrefixAction::Refuse)),
        1 => Just(Some(PrefixAction::Redirect)),
    ]
}

/// Addresses of every form, with those near the borders of loopback more often.
fn any_destination() -> impl Strategy<Value = (Form, Addr)> {
    let v4 = prop_oneof![
        any::<u32>(),
        0x7f00_0000_u32..=0x8000_0000,
        0u32..=2,
        Just(0xa9fe_a9fe),
    ];
    let mapped = v4
        .clone()
        .prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped());
    let v6 = prop_oneof![any::<u128>(), 0u128..=3].prop_map(Ipv6Addr::from_bits);
    prop_oneof![
        v4.prop_map(|bits| (Form::V4, IpAddr::from(Ipv4Addr::from_bits(bits)).into())),
        mapped.prop_map(|ip| (Form::V4Mapped, ip.into())),
        v6.prop_filter("not v4-mapped", |ip| ip.to_ipv4_mapped().is_none())
            .prop_map(|ip| (Form::V6, ip.into())),
    ]
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let port = prop_oneof![any::<u16>(), Just(443), Just(53), Just(0)];
    let cgroup = prop_oneof![4 => any::<u64>(), 1 => Just(AGENT_CGROUP)];
    (
        cgroup,
        any_protocol(),
        any_destination(),
        port,
        any::<bool>(),
    )
        .prop_map(|(cgroup, protocol, (form, dst), port, bound)| Attempt {
            cgroup,
            protocol,
            form,
            dst,
            port: Port::from_host(port),
            bound,
            now: 1_000_000,
        })
}

fn any_scope() -> impl Strategy<Value = ScopeConfig> {
    (
        prop_oneof![4 => 1u16.., 1 => Just(0)],
        prop_oneof![2 => 1u16.., 1 => Just(0)],
        proptest::collection::vec(prop_oneof![any::<u16>(), Just(443)], 0..=crate::MAX_PORTS),
        any_fallback(),
    )
        .prop_map(|(v4, v6, ports, other_ports)| {
            ScopeConfig::new(Port::from_host(v4), Port::from_host(v6))
                .with_ports(&ports)
                .unwrap()
                .with_other_ports(other_ports)
        })
}

/// A scope, and an attempt of an ordinary process to leave the namespace by one of its ports.
fn captured() -> impl Strategy<Value = (ScopeConfig, Attempt)> {
    let outside = any_destination().prop_filter("outside", |(_, dst)| !dst.is_local());
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let ports = proptest::collection::vec(1u16.., 1..=crate::MAX_PORTS);
    (
        any_scope(),
        ports,
        any::<prop::sample::Index>(),
        protocol,
        outside,
    )
        .prop_map(|(scope, ports, index, protocol, (form, dst))| {
            let attempt = Attempt {
                cgroup: 1,
                protocol,
                form,
                dst,
                port: Port::from_host(*index.get(&ports)),
                bound: false,
                now: 1_000_000,
            };
            (scope.with_ports(&ports).unwrap(), attempt)
        })
}

proptest! {
    /// The promise of the product: what is captured never goes where it meant to go.
    #[test]
    fn captured_never_passes(
        (scope, attempt) in captured(),
        unregistered in any_fallback(),
    ) {
        let prefixes = [PrefixAction::Judge, PrefixAction::Refuse, PrefixAction::Redirect];
        for prefix in prefixes.map(Some).into_iter().chain([None]) {
            let verdict = decide(&settings(unregistered), Some(&scope), prefix, &attempt);
            prop_assert!(!matches!(verdict, Verdict::Pass(_)), "{verdict:?}");
        }
    }

    /// A redirect ends at one of the scope's listeners, in a form that the socket can take.
    #[test]
    fn redirects_end_at_the_listener(
        scope in any_scope(),
        attempt in any_attempt(),
        prefix in any_prefix(),
    ) {
        let verdict = decide(&settings(Fallback::Refuse), Some(&scope), prefix, &attempt);
        if let Verdict::Redirect(to) = verdict {
            prop_assert_eq!(attempt.protocol, Protocol::Tcp);
            prop_assert!(scope.listens_at(to.addr(), to.port()));
            prop_assert!(matches!(
                (attempt.form, to),
                (Form::V4, Redirect::V4(_))
                    | (Form::V4Mapped, Redirect::V4Mapped(_))
                    | (Form::V6, Redirect::V6(_) | Redirect::V4Mapped(_))
            ));
        }
    }

    /// `::ffff:a.b.c.d` is no way round a rule about `a.b.c.d`.
    #[test]
    fn v4_mapped_is_judged_as_v4(
        scope in proptest::option::of(any_scope()),
        attempt in any_attempt(),
        v4 in any::<u32>(),
        unregistered in any_fallback(),
        prefix in any_prefix(),
    ) {
        let attempt = Attempt { form: Form::V4, dst: Addr::from_be_v4(v4), ..attempt };
        let mapped = Attempt { form: Form::V4Mapped, ..attempt };
        let settings = settings(unregistered);
        let plain = decide(&settings, scope.as_ref(), prefix, &attempt);
        match (plain, decide(&settings, scope.as_ref(), prefix, &mapped)) {
            (Verdict::Redirect(a), Verdict::Redirect(b)) => {
                prop_assert_eq!((a.addr(), a.port()), (b.addr(), b.port()));
            }
            (a, b) => prop_assert_eq!(a, b),
        }
    }

    /// Loopback and the agent itself are never touched; but what is bound to another device leaves by
    /// it, and only the agent's may, whatever else is said.
    #[test]
    fn local_and_exempt_always_pass(
        scope in proptest::option::of(any_scope()),
        attempt in any_attempt(),
        unregistered in any_fallback(),
        prefix in any_prefix(),
    ) {
        let agent = Attempt { cgroup: AGENT_CGROUP, ..attempt };
        let local = Attempt { dst: Addr::LOOPBACK_V4, bound: false, ..attempt };
        for attempt in [agent, local] {
            let verdict = decide(&settings(unregistered), scope.as_ref(), prefix, &attempt);
            prop_assert!(matches!(verdict, Verdict::Pass(_)), "{verdict:?}");
        }
        let bound = Attempt { bound: true, cgroup: 1, ..local };
        let verdict = decide(&settings(unregistered), scope.as_ref(), prefix, &bound);
        prop_assert_eq!(verdict, Verdict::Refuse(Refuse::BoundDevice));
        let agent = Attempt { cgroup: AGENT_CGROUP, ..bound };
        let verdict = decide(&settings(unregistered), scope.as_ref(), prefix, &agent);
        prop_assert_eq!(verdict, Verdict::Pass(Pass::Exempt));
    }
}
