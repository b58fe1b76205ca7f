use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

#[test]
fn ids_of_the_standard() {
    for text in [
        "spiffe://staging.example.com/payments/mysql",
        "spiffe://k8s-west.example.com/ns/staging/sa/default",
        "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453",
        "spiffe://example.com",
        "spiffe://1.2.3.4/a",
        "spiffe://trust_domain_name.example.com/A.b-c_D/...",
    ] {
        assert_eq!(id(text).to_string(), text);
    }
    let id = id("spiffe://example.com/a/b");
    assert_eq!(
        (id.trust_domain().as_str(), id.path()),
        ("example.com", "/a/b")
    );
}

#[test]
fn everything_else_is_refused() {
    let cases = [
        ("", SpiffeIdError::Scheme),
        ("https://example.com/a", SpiffeIdError::Scheme),
        ("spiffe:/example.com/a", SpiffeIdError::Scheme),
        ("SPIFFE://example.com/a", SpiffeIdError::Scheme),
        ("spiffe://", SpiffeIdError::NoTrustDomain),
        ("spiffe:///a", SpiffeIdError::NoTrustDomain),
        (
            "spiffe://Example.com/a",
            SpiffeIdError::TrustDomainChar('E'),
        ),
        (
            "spiffe://user@example.com/a",
            SpiffeIdError::TrustDomainChar('@'),
        ),
        (
            "spiffe://example.com:443/a",
            SpiffeIdError::TrustDomainChar(':'),
        ),
        ("spiffe://[::1]/a", SpiffeIdError::TrustDomainChar('[')),
        (
            "spiffe://exa%6dple.com/a",
            SpiffeIdError::TrustDomainChar('%'),
        ),
        (
            "spiffe://example.com?a",
            SpiffeIdError::TrustDomainChar('?'),
        ),
        (
            "spiffe://exämple.com/a",
            SpiffeIdError::TrustDomainChar('ä'),
        ),
        ("spiffe://example.com/", SpiffeIdError::EmptySegment),
        ("spiffe://example.com/a/", SpiffeIdError::EmptySegment),
        ("spiffe://example.com//a", SpiffeIdError::EmptySegment),
        ("spiffe://example.com/a//b", SpiffeIdError::EmptySegment),
        ("spiffe://example.com/.", SpiffeIdError::RelativeSegment),
        (
            "spiffe://example.com/a/../b",
            SpiffeIdError::RelativeSegment,
        ),
        ("spiffe://example.com/a%2fb", SpiffeIdError::PathChar('%')),
        ("spiffe://example.com/a?b", SpiffeIdError::PathChar('?')),
        ("spiffe://example.com/a#b", SpiffeIdError::PathChar('#')),
        ("spiffe://example.com/a b", SpiffeIdError::PathChar(' ')),
        ("spiffe://example.com/a\0", SpiffeIdError::PathChar('\0')),
        ("spiffe://example.com/*", SpiffeIdError::PathChar('*')),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text}");
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let name = "d".repeat(255);
    let longest: TrustDomain = name.parse().unwrap();
    let too_long = format!("{name}d").parse::<TrustDomain>();
    assert_eq!(too_long, Err(SpiffeIdError::TrustDomainTooLong));

    let room = MAX_ID - SCHEME.len() - name.len();
    let path = format!("/{}", "p".repeat(room - 1));
    assert_eq!(longest.id(&path).unwrap().to_string().len(), MAX_ID);
    assert_eq!(longest.id(&format!("{path}p")), Err(SpiffeIdError::TooLong));
}

#[test]
fn a_path_cannot_change_the_trust_domain() {
    let domain: TrustDomain = "example.com".parse().unwrap();
    assert!(domain.id(".evil.test/a").unwrap().trust_domain() != &domain);
    assert_eq!(
        domain.id("@evil.test/a"),
        Err(SpiffeIdError::TrustDomainChar('@'))
    );
}

#[test]
fn the_trial_domain_is_a_valid_one() {
    let trial = TrustDomain::trial();
    assert_eq!(trial.as_str().parse(), Ok(trial));
}

#[test]
fn patterns() {
    let exact: IdPattern = "spiffe://e.test/gateway/a".parse().unwrap();
    assert!(exact.matches(&id("spiffe://e.test/gateway/a")));
    assert!(!exact.matches(&id("spiffe://e.test/gateway/a/b")));
    assert!(!exact.matches(&id("spiffe://f.test/gateway/a")));

    let below: IdPattern = "spiffe://e.test/gateway/*".parse().unwrap();
    for yes in ["spiffe://e.test/gateway/a", "spiffe://e.test/gateway/a/b"] {
        assert!(below.matches(&id(yes)), "{yes}");
    }
    for no in [
        "spiffe://e.test/gateway",
        "spiffe://e.test/gateway-b/a",
        "spiffe://e.test/agent/gateway/a",
        "spiffe://f.test/gateway/a",
        "spiffe://e.test.f/gateway/a",
    ] {
        assert!(!below.matches(&id(no)), "{no}");
    }

    let all: IdPattern = "spiffe://e.test/*".parse().unwrap();
    assert!(all.matches(&id("spiffe://e.test/a")));
    assert!(!all.matches(&id("spiffe://e.test")));

    for text in [
        "spiffe://e.test/gateway/*",
        "spiffe://e.test/*",
        "spiffe://e.test/a",
    ] {
        assert_eq!(text.parse::<IdPattern>().unwrap().to_string(), text);
    }
    for wrong in [
        "*",
        "spiffe://*",
        "spiffe://*/a",
        "spiffe://e.test/a*",
        "spiffe://e.test/*/a",
    ] {
        assert!(wrong.parse::<IdPattern>().is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn what_parses_displays_as_it_was(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,5}){0,4}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn any_text_is_refused_or_kept(text in "(spiffe://)?\\PC{0,40}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn random_bytes_are_no_certificate(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(spiffe_id_of(&bytes).is_err());
    }
}

fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://e.test/agent/a")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn a_leaf_with_one_uri_has_an_id() {
    let plain = certificate(|_| {});
    assert_eq!(spiffe_id_of(&plain), Ok(id("spiffe://e.test/agent/a")));
    let with_dns = certificate(|params| params.subject_alt_names.insert(0, dns("a.test")));
    assert_eq!(spiffe_id_of(&with_dns), Ok(id("spiffe://e.test/agent/a")));
    let without_constraints = certificate(|params| params.is_ca = IsCa::NoCa);
    assert!(spiffe_id_of(&without_constraints).is_ok());
}

#[test]
fn other_certificates_have_none() {
    type Change = fn(&mut CertificateParams);
    let cases: [(Change, IdentityError); 9] = [
        (|p| p.subject_alt_names.clear(), IdentityError::NoUri),
        (
            |p| p.subject_alt_names = vec![dns("a.test")],
            IdentityError::NoUri,
        ),
        (
            |p| p.subject_alt_names.push(uri("spiffe://e.test/b")),
            IdentityError::SeveralUris,
        ),
        (
            |p| p.subject_alt_names.push(uri("https://e.test/")),
            IdentityError::SeveralUris,
        ),
        (
            |p| p.subject_alt_names = vec![uri("https://e.test/a")],
            IdentityError::NotSpiffe(SpiffeIdError::Scheme),
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://e.test")],
            IdentityError::NoPath,
        ),
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            IdentityError::SigningCertificate,
        ),
        (
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            IdentityError::SigningCertificate,
        ),
        (
            |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
            IdentityError::SigningCertificate,
        ),
    ];
    for (change, error) in cases {
        assert_eq!(spiffe_id_of(&certificate(change)), Err(error));
    }
}

#[test]
fn a_second_extension_of_names_is_malformed() {
    // GeneralNames { uniformResourceIdentifier [6] "spiffe://e.test/b" }
    let mut content = vec![0x30, 0x13, 0x86, 0x11];
    content.extend(b"spiffe://e.test/b");
    let subject_alt_name = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
    let der = certificate(|params| params.custom_extensions.push(subject_alt_name));
    assert_eq!(spiffe_id_of(&der), Err(IdentityError::Malformed));
}

#[test]
fn every_truncation_and_any_trailing_byte_is_malformed() {
    let der = certificate(|_| {});
    for cut in 0..der.len() {
        assert_eq!(spiffe_id_of(&der[..cut]), Err(IdentityError::Malformed));
    }
    let trailing = [&der[..], &[0]].concat();
    assert_eq!(spiffe_id_of(&trailing), Err(IdentityError::Malformed));
}

#[test]
fn dates_are_those_of_the_certificate() {
    let der = certificate(|params| {
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
    });
    let certificate = Certificate::parse(&der).unwrap();
    assert_eq!(certificate.not_before().to_string(), "2024-02-29T00:00:00Z");
    assert_eq!(certificate.not_after().to_string(), "2051-01-01T00:00:00Z");
}
