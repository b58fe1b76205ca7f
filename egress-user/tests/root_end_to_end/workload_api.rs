//! Certificates that come from a SPIFFE Workload API: the real agent and gateway, each at a server of
//! its own that speaks the real gRPC.

use std::fs;
use std::path::{Path, PathBuf};

use egress_lab::deployment::{Hop, Record};
use egress_lab::workload_api::{Answer, WorkloadApi, X509Svid, X509SvidResponse};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};

use crate::certificates::{Ca, DAY, valid_until};
use crate::clients::{INTERNAL_ERROR, curl};
use crate::drain::{client_in_two_halves, origin_in_two_halves};
use crate::reload::until_metric;
use crate::world::{EN, RAW, Wish, World};

/// The servers of both hops, which begin with what `egress pki init` made.
pub(crate) struct WorkloadApis {
    pub(crate) agent: Option<WorkloadApi>,
    pub(crate) gateway: Option<WorkloadApi>,
}

impl WorkloadApis {
    pub(crate) fn serve(pki: &Path) -> WorkloadApis {
        let serve = |hop| Some(serve(pki, hop, of_files(pki, hop)));
        WorkloadApis {
            agent: serve(Hop::Agent),
            gateway: serve(Hop::Gateway),
        }
    }

    fn of(&mut self, hop: Hop) -> &mut Option<WorkloadApi> {
        match hop {
            Hop::Agent => &mut self.agent,
            Hop::Gateway => &mut self.gateway,
        }
    }
}

fn serve(pki: &Path, hop: Hop, answer: Answer) -> WorkloadApi {
    WorkloadApi::serve(&pki.join(format!("{hop}.sock")), answer).unwrap()
}

fn of_files(pki: &Path, hop: Hop) -> Answer {
    let read = |name: String| fs::read_to_string(pki.join(name)).unwrap();
    let (certificate, key) = (read(format!("{hop}.pem")), read(format!("{hop}-key.pem")));
    answer(pki, &certificate, &key, None)
}

fn answer(pki: &Path, certificate: &str, key: &str, crl: Option<&Path>) -> Answer {
    let der = |pem: &str| -> Vec<u8> {
        let found = CertificateDer::pem_slice_iter(pem.as_bytes());
        found.flat_map(|der| der.unwrap().to_vec()).collect()
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let list = |path| CertificateRevocationListDer::from_pem_file(path).unwrap();
    Ok(X509SvidResponse {
        svids: vec![X509Svid {
            spiffe_id: String::new(),
            x509_svid: der(certificate),
            x509_svid_key: key.secret_pkcs8_der().to_vec(),
            bundle: der(&fs::read_to_string(pki.join("ca.pem")).unwrap()),
        }],
        crl: crl.map(|path| list(path).to_vec()).into_iter().collect(),
    })
}

fn world() -> World {
    World::with(&Wish {
        workload_api: true,
        ..Wish::default()
    })
}

/// Has a hop given another certificate of `HOP/NAME`, and waits until it is in use.
fn rotate(world: &mut World, hop: Hop, name: &str) -> (String, String) {
    let pki = world.pki();
    let (certificate, key, end) = Ca::of(&pki).issue(&format!("{hop}/{name}"), 2 * DAY);
    let answer = answer(&pki, &certificate, &key, None);
    let server = world.workload_apis.as_mut().unwrap().of(hop);
    match server {
        Some(server) => server.give(answer),
        None => *server = Some(serve(&pki, hop, answer)),
    }
    until_metric(world, hop, &valid_until(end));
    until_metric(world, hop, "egress_credentials_reload_failed 0");
    (certificate, key)
}

#[test]
fn certificates_of_a_workload_api_are_used_and_exchanged() {
    let mut world = world();
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    rotate(&mut world, Hop::Gateway, "rotated");
    rotate(&mut world, Hop::Agent, "rotated");
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    proceed.send(()).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.output());
    origin.join().unwrap();

    let records = world.finish();
    for (records, peer) in [(&records.agent, "gateway"), (&records.gateway, "agent")] {
        for (site, name) in [(EN, "rotated"), (RAW, "default")] {
            let record = records
                .iter()
                .find(|record| record.text("sni") == site.name);
            let record = record.unwrap();
            let id = format!("spiffe://egress.local/{peer}/{name}");
            assert_eq!(record.text("peer"), id, "{record}");
            assert_eq!(record.text("verdict"), "allowed", "{record}");
        }
    }
}

#[test]
fn a_workload_api_that_goes_away_is_missed_and_found_again() {
    let mut world = world();
    // The agent's tunnels go on when the gateway's certificate changes, and not when its own does.
    for hop in [Hop::Gateway, Hop::Agent] {
        *world.workload_apis.as_mut().unwrap().of(hop) = None;
        until_metric(&world, hop, "egress_credentials_reload_failed 1");
        curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
        rotate(&mut world, hop, "back");
    }
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    let records = world.finish();
    for (records, peer) in [(&records.agent, "gateway"), (&records.gateway, "agent")] {
        let last: &Record = records.last().unwrap();
        let id = format!("spiffe://egress.local/{peer}/back");
        assert_eq!(last.text("peer"), id, "{last}");
    }
}

#[test]
fn who_is_on_a_revocation_list_of_a_workload_api_is_cut_off() {
    let mut world = world();
    let (certificate, _) = rotate(&mut world, Hop::Agent, "revoked");
    let (origin, proceed) = origin_in_two_halves(&world);
    let mut client = client_in_two_halves(&world);
    client.says("half").unwrap();

    let pki = world.pki();
    let file = |name: &str| -> PathBuf { pki.join(name) };
    fs::write(file("revoked.pem"), certificate).unwrap();
    Ca::of(&pki).revoke(&[file("revoked.pem")], &file("crl.pem"));
    let read = |name: &str| fs::read_to_string(file(name)).unwrap();
    let (certificate, key) = (read("gateway.pem"), read("gateway-key.pem"));
    let list = answer(&pki, &certificate, &key, Some(&file("crl.pem")));
    let gateway = world.workload_apis.as_mut().unwrap().of(Hop::Gateway);
    gateway.as_ref().unwrap().give(list);
    client.ended().unwrap();
    assert!(
        !client.output().contains("all 2097152"),
        "{}",
        client.output()
    );
    let _ = proceed.send(());
    origin.join().unwrap();
    curl(&world, EN.name, EN.v4.into()).assert_alert(INTERNAL_ERROR);
    world.assert_nothing_arrived(EN);

    let records = world.finish();
    let cut = records
        .gateway
        .iter()
        .find(|record| record.text("sni") == RAW.name);
    let cut = cut.unwrap();
    assert_eq!(cut.text("verdict"), "refused", "{cut}");
    assert_eq!(cut.text("reason"), "peer_certificate_revoked", "{cut}");
}
