//! What the agent's configuration says of cgroups is what rules ask about, at both hops.

use egress_lab::deployment::Record;

use crate::clients::{ACCESS_DENIED, Answer, curl_command, run};
use crate::world::{DE, EN, WIKIPEDIA, Wish, World};

const WORKLOADS: &[&str] = &[
    "workloads:",
    "  - {cgroup: '/egress-lab-*/mirror', namespace: web, labels: {app: mirror, tier: batch}}",
    "  - {cgroup: '/egress-lab-*/backup', namespace: web, serviceAccount: backup, labels: {app: backup}}",
];

const FOR_MIRRORS: &str = r#"
version: 1
rules:
  - name: mirrors
    from: [{namespace: web, labels: {app: mirror}}]
    hosts: ["*.wikipedia.org"]
"#;

fn world(agent_policy: &str) -> World {
    World::with(&Wish {
        agent_policy,
        gateway_policy: FOR_MIRRORS,
        agent: WORKLOADS,
        ..Wish::default()
    })
}

/// Fetches the site from a cgroup below the captured one.
fn fetch(world: &World, cgroup: &str, site: egress_lab::Site) -> Answer {
    let mut curl = curl_command(world, site.name, site.v4.into());
    world.cgroup.enter_below(cgroup, &mut curl).unwrap();
    curl.arg(format!("https://{}/", site.name));
    run(&mut curl)
}

#[test]
fn labels_decide_at_the_agent_and_travel_to_the_gateway() {
    let world = world(FOR_MIRRORS);
    fetch(&world, "mirror", EN).assert_page_of(EN.name);
    fetch(&world, "backup", DE).assert_alert(ACCESS_DENIED);
    // Of whom nothing is said nothing is known.
    fetch(&world, "other", DE).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(DE);

    let records = world.finish();
    let [mirror, backup, other] = &records.agent[..] else {
        panic!("three records, not {:?}", records.agent);
    };
    let [gateway] = &records.gateway[..] else {
        panic!("one record, not {:?}", records.gateway);
    };
    for record in [mirror, gateway] {
        assert_eq!(record.text("verdict"), "allowed", "{record}");
        assert_eq!(record.at("/workload/namespace").unwrap(), "web");
        let labels = serde_json::json!({"app": "mirror", "tier": "batch"});
        assert_eq!(record.at("/workload/labels"), Some(&labels));
    }
    for record in [backup, other] {
        assert_eq!(record.text("reason"), "not_for_this_workload", "{record}");
    }
    assert_eq!(backup.at("/workload/labels/app").unwrap(), "backup");
    assert_eq!(backup.at("/workload/service_account").unwrap(), "backup");
    assert_eq!(other.at("/workload/labels"), None);
}

/// Of names that nobody would give, and of paths that no header has room for.
#[test]
fn cgroups_of_any_name_are_served() {
    let world = World::new();
    let deep = [&*"d".repeat(200); 6].join("/");
    std::fs::create_dir_all(world.cgroup.path().join(&deep)).unwrap();
    let long = [&*"l".repeat(200); 4].join("/");
    std::fs::create_dir_all(world.cgroup.path().join(&long)).unwrap();
    for cgroup in [&deep, &long, "odd\u{1}\u{85}name"] {
        fetch(&world, cgroup, EN).assert_page_of(EN.name);
    }

    let records = world.finish();
    let cgroups = |records: &[Record]| {
        let cgroups = records.iter().map(|record| {
            assert_eq!(record.text("verdict"), "allowed", "{record}");
            record.at("/workload/cgroup")?.as_str().map(str::to_owned)
        });
        cgroups.collect::<Vec<_>>()
    };
    let [at_deep, at_long, odd] = &cgroups(&records.agent)[..] else {
        panic!("three records, not {:?}", records.agent);
    };
    assert!(at_deep.as_ref().unwrap().ends_with(&deep));
    assert!(odd.as_ref().unwrap().ends_with("/odd\u{fffd}\u{fffd}name"));
    // What the gateway does not know is held against the workload there.
    let told = [None, at_long.clone(), odd.clone()];
    assert_eq!(cgroups(&records.gateway), told);
}

#[test]
fn labels_decide_at_the_gateway() {
    let world = world(WIKIPEDIA);
    fetch(&world, "mirror", EN).assert_page_of(EN.name);
    fetch(&world, "backup", DE).assert_alert(ACCESS_DENIED);
    world.assert_nothing_arrived(DE);
    let queries = world.names.queries();
    assert!(
        !queries.iter().any(|query| query.contains(DE.name)),
        "{queries:?}"
    );

    let records = world.finish();
    for records in [&records.agent, &records.gateway] {
        let backup = records.iter().find(|record| record.text("sni") == DE.name);
        let backup = backup.unwrap();
        assert_eq!(backup.text("verdict"), "refused", "{backup}");
        assert_eq!(backup.text("reason"), "not_for_this_workload", "{backup}");
        assert_eq!(backup.at("/workload/labels/app").unwrap(), "backup");
    }
}
