//! What agent and gateway say about themselves while they work.

use egress_lab::deployment::{ADMIN, Hop};
use egress_lab::{BpfFs, http, wait};

use crate::clients::{ACCESS_DENIED, curl};
use crate::world::{EN, IBM, WIKIPEDIA_AND_IBM, Wish, World};

fn get(world: &World, hop: Hop, path: &str) -> http::Answer {
    http::get(&hop.host(&world.lab).namespace, ADMIN, path).unwrap()
}

#[test]
fn metrics_count_what_became_of_connections_and_name_no_names() {
    let world = World::with(&Wish {
        agent_policy: WIKIPEDIA_AND_IBM,
        ..Wish::default()
    });
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);
    curl(&world, IBM.name, IBM.v4.into()).assert_alert(ACCESS_DENIED);

    for hop in [Hop::Agent, Hop::Gateway] {
        let metrics = wait::until("every connection is counted", || {
            let text = get(&world, hop, "/metrics").body;
            (verdicts(&text, hop, "allowed") == 1 && verdicts(&text, hop, "refused") == 2)
                .then_some(text)
        })
        .unwrap();
        for secret in ["wikipedia.org", "ibm.com", "203.0.113"] {
            assert!(!metrics.contains(secret), "{metrics}");
        }
        assert_eq!(get(&world, hop, "/healthz").status, 200);
        assert_eq!(get(&world, hop, "/readyz").status, 200);
        assert_eq!(get(&world, hop, "/elsewhere").status, 404);
    }
    world.finish();
}

/// Readiness is the kernel's word: a program that somebody took off is missed.
#[test]
fn an_agent_whose_program_is_gone_is_not_ready() {
    let bpf_fs = BpfFs::mount().unwrap();
    let pins = bpf_fs.path().join("egress");
    let world = World::with(&Wish {
        capture: &[&format!("pin: {}", pins.display())],
        ..Wish::default()
    });
    assert_eq!(get(&world, Hop::Agent, "/readyz").status, 200);
    let listed = std::fs::read_dir(&pins).unwrap();
    let mut paths = listed.map(|entry| entry.unwrap().path());
    let is_link = |path: &std::path::PathBuf| path.to_string_lossy().contains("egress_connect4_");
    std::fs::remove_file(paths.find(is_link).unwrap()).unwrap();
    let answer = wait::until("the agent is not ready", || {
        let answer = get(&world, Hop::Agent, "/readyz");
        (answer.status == 503).then_some(answer)
    });
    let body = answer.unwrap().body;
    let expected = "not ready: the kernel program egress_connect4 is not attached to /";
    assert!(body.starts_with(expected), "{body}");
    assert_eq!(get(&world, Hop::Agent, "/healthz").status, 200);
    world.finish();
}

/// What is attached to a cgroup goes with it.
#[test]
fn a_cgroup_that_is_made_again_is_captured_again() {
    let world = World::new();
    std::fs::remove_dir(world.cgroup.path()).unwrap();
    std::fs::create_dir(world.cgroup.path()).unwrap();
    wait::until("the agent notices", || {
        let said = world.deployment.agent.output();
        said.contains("it is captured again").then_some(())
    })
    .unwrap();
    assert_eq!(get(&world, Hop::Agent, "/readyz").status, 200);
    curl(&world, EN.name, EN.v4.into()).assert_page_of(EN.name);
    world.finish().one_each();
}

/// The connections with this verdict, over all the lines that count them.
fn verdicts(metrics: &str, hop: Hop, verdict: &str) -> u64 {
    let labels = [format!("hop=\"{hop}\""), format!("verdict=\"{verdict}\"")];
    metrics
        .lines()
        .filter(|line| line.starts_with("egress_connections_total{"))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}
