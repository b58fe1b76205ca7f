use super::*;

#[test]
fn sockets_are_unix_sockets() {
    for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"] {
        let socket: Socket = text.parse().unwrap();
        assert_eq!(socket.path(), Path::new("/run/spire/agent.sock"));
        assert_eq!(socket.to_string(), "unix:///run/spire/agent.sock");
    }
    for text in [
        "/run/spire/agent.sock",
        "unix:agent.sock",
        "unix://host/agent.sock",
        "unix:///run/",
        "unix://",
        "tcp://127.0.0.1:8081",
        "",
    ] {
        let error = text.parse::<Socket>().unwrap_err();
        assert!(error.contains("unix:///"), "{text}: {error}");
    }
}

#[cfg(not(feature = "spiffe"))]
#[test]
fn a_program_without_it_says_so() {
    let socket: Socket = "unix:///agent.sock".parse().unwrap();
    let error = Subscription::open(socket, Duration::ZERO).err().unwrap();
    assert!(error.to_string().contains("without the feature `spiffe`"));
}

#[cfg(feature = "spiffe")]
pub(crate) mod served {
    //! Against a server that speaks the real gRPC.

    use std::os::unix::net::UnixListener;

    use egress_lab::workload_api::{Answer, WorkloadApi, X509Svid, X509SvidResponse};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};

    use super::super::*;
    use crate::tunnel::tls::{CredentialDer, CredentialPem};

    /// Longer than anything takes that succeeds.
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    /// The answer of a server that gives these credentials.
    pub(crate) fn answer(pem: &CredentialPem) -> Answer {
        let certificates = |pem: &str| -> Vec<u8> {
            let found = CertificateDer::pem_slice_iter(pem.as_bytes());
            found.flat_map(|der| der.unwrap().to_vec()).collect()
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
        let crl = pem.crl.as_deref().map(|crl| {
            let crl = CertificateRevocationListDer::from_pem_slice(crl.as_bytes());
            crl.unwrap().to_vec()
        });
        Ok(X509SvidResponse {
            svids: vec![X509Svid {
                spiffe_id: "spiffe://only.for/people".to_owned(),
                x509_svid: certificates(&pem.certificates),
                x509_svid_key: key.secret_pkcs8_der().to_vec(),
                bundle: certificates(&pem.trust_bundle),
            }],
            crl: crl.into_iter().collect(),
        })
    }

    /// An answer whose parts are these few bytes, which the client does not look into.
    fn marked(mark: u8) -> Answer {
        let svid = |mark| X509Svid {
            x509_svid: vec![mark, 1],
            x509_svid_key: vec![mark, 2],
            bundle: vec![mark, 3],
            ..X509Svid::default()
        };
        Ok(X509SvidResponse {
            svids: vec![svid(mark), svid(255)],
            crl: vec![vec![mark, 4], vec![mark, 5]],
        })
    }

    fn assert_marked(credentials: &CredentialDer, mark: u8) {
        assert_eq!(credentials.certificates, [mark, 1]);
        assert_eq!(credentials.key, [mark, 2]);
        assert_eq!(credentials.trust_bundle, [mark, 3]);
        assert_eq!(credentials.crl, [mark, 4, mark, 5]);
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(egress_lab::lab::scratch().unwrap())
        }

        fn socket(&self) -> Socket {
            let path = self.0.path().join("agent.sock");
            format!("unix://{}", path.display()).parse().unwrap()
        }

        fn serve(&self, answer: Answer) -> WorkloadApi {
            WorkloadApi::serve(self.socket().path(), answer).unwrap()
        }
    }

    /// Why nothing came in the end. On a slow machine a short wait may be over before anything is
    /// answered.
    fn refusal(folder: &Folder) -> (Duration, WorkloadApiError) {
        let mut patience = SHORT;
        loop {
            match Subscription::open(folder.socket(), patience).err().unwrap() {
                WorkloadApiError::OutOfPatience { last, .. } => match *last {
                    WorkloadApiError::Silent { .. } => patience *= 2,
                    last => return (patience, last),
                },
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn the_first_identity_is_taken_and_what_comes_later() {
        let folder = Folder::new();
        let server = folder.serve(marked(7));
        let (mut subscription, first) = Subscription::open(folder.socket(), LONG).unwrap();
        assert_marked(&first, 7);
        assert!(subscription.next(Duration::from_millis(50)).is_none());
        for mark in [8, 9] {
            server.give(marked(mark));
            assert_marked(&subscription.next(LONG).unwrap().unwrap(), mark);
        }
        assert_eq!(server.asked(), 1);
    }

    #[test]
    fn without_a_server_the_wait_has_an_end_and_a_reason() {
        let folder = Folder::new();
        let (patience, last) = refusal(&folder);
        let last = last.to_string();
        let wanted = format!(
            "cannot connect to {}: No such file or directory",
            folder.socket()
        );
        assert!(last.starts_with(&wanted), "{last}");
        assert!(
            last.ends_with("is the SPIRE agent running there?"),
            "{last}"
        );
        let opened = Subscription::open(folder.socket(), patience);
        let whole = opened.err().unwrap().to_string();
        assert!(whole.starts_with("no certificates within"), "{whole}");
    }

    #[test]
    fn a_server_that_starts_later_is_waited_for() {
        let folder = Folder::new();
        let socket = folder.socket();
        let opening = std::thread::spawn(move || Subscription::open(socket, LONG));
        std::thread::sleep(SHORT);
        let _server = folder.serve(marked(7));
        assert_marked(&opening.join().unwrap().unwrap().1, 7);
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_longer() {
        let folder = Folder::new();
        let _listener = UnixListener::bind(folder.socket().path()).unwrap();
        let opened = Subscription::open(folder.socket(), SHORT);
        let WorkloadApiError::OutOfPatience { last, .. } = opened.err().unwrap() else {
            panic!("out of patience");
        };
        assert!(matches!(*last, WorkloadApiError::Silent { .. }), "{last}");
    }

    #[test]
    fn each_refusal_has_its_sentence() {
        use tonic::Status;

        let without = |change: fn(&mut X509Svid)| {
            let mut response = marked(7).unwrap();
            change(&mut response.svids[0]);
            Ok(response)
        };
        let nobody = X509SvidResponse::default();
        for (answer, wanted) in [
            (
                Err(Status::permission_denied("no identity issued")),
                "has no identity for this process: no identity issued",
            ),
            (
                Err(Status::unavailable("shutting down")),
                "failed: shutting down",
            ),
            (Ok(nobody), "has no identity"),
            (without(|svid| svid.x509_svid.clear()), "has no certificate"),
            (
                without(|svid| svid.x509_svid_key.clear()),
                "has no private key",
            ),
            (without(|svid| svid.bundle.clear()), "has no trust bundle"),
        ] {
            let folder = Folder::new();
            let _server = folder.serve(answer);
            let error = refusal(&folder).1.to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_lost_stream_is_asked_for_again() {
        let folder = Folder::new();
        let server = folder.serve(marked(7));
        let (mut subscription, _) = Subscription::open(folder.socket(), LONG).unwrap();
        drop(server);
        assert!(subscription.next(LONG).unwrap().is_err());
        let away = subscription.next(LONG).unwrap().err().unwrap();
        assert!(matches!(away, WorkloadApiError::Connect { .. }), "{away}");

        let server = folder.serve(marked(8));
        let back = loop {
            if let Ok(credentials) = subscription.next(LONG).unwrap() {
                break credentials;
            }
        };
        assert_marked(&back, 8);
        server.give(marked(9));
        assert_marked(&subscription.next(LONG).unwrap().unwrap(), 9);
    }

    #[test]
    fn the_pauses_between_attempts_grow() {
        let folder = Folder::new();
        let server = folder.serve(Err(tonic::Status::unavailable("not yet")));
        // At once, and after 0.5, 1 and 2 seconds; a slow machine asks less often.
        let patience = Duration::from_secs(4);
        assert!(Subscription::open(folder.socket(), patience).is_err());
        assert!((1..=4).contains(&server.asked()), "{}", server.asked());
    }
}
