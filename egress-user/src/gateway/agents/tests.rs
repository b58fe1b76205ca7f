use super::*;

fn id(path: &str) -> SpiffeId {
    format!("spiffe://e.test{path}").parse().unwrap()
}

fn workloads(text: &str) -> Workloads {
    let read = crate::document::read(text, "test", |map| map.required("w", Workloads::read));
    read.unwrap().value
}

fn rules() -> Vec<AgentRule> {
    vec![
        AgentRule {
            id: "spiffe://e.test/agent/web".parse().unwrap(),
            workloads: Some(workloads("w: [{namespace: web}, {cgroup: /web.slice}]\n")),
        },
        AgentRule::for_everybody("spiffe://e.test/node/*".parse().unwrap()),
    ]
}

fn agents(quotas: Quotas) -> Arc<Agents> {
    Agents::new(rules(), quotas)
}

fn pod(namespace: &str, pod: &str) -> Workload {
    Workload {
        namespace: Some(namespace.to_owned()),
        pod: Some(pod.to_owned()),
        ..Workload::default()
    }
}

fn reason<T>(result: Result<T, Refusal>) -> String {
    result
        .err()
        .map_or("allowed".to_owned(), |refusal| refusal.reason.into_owned())
}

fn name(text: &str) -> ServerName {
    ServerName::parse(text.as_bytes()).unwrap()
}

#[test]
fn only_listed_agents_are_admitted() {
    let agents = agents(Quotas::default());
    assert_eq!(reason(agents.admit(&id("/agent/web"))), "allowed");
    assert_eq!(reason(agents.admit(&id("/node/a"))), "allowed");
    assert_eq!(
        reason(agents.admit(&id("/agent/other"))),
        "agent_not_allowed"
    );
    assert_eq!(reason(agents.admit(&id("/gateway/a"))), "agent_not_allowed");
}

#[test]
fn an_agent_speaks_for_its_own_workloads_only() {
    let agents = agents(Quotas::default());
    let web = agents.admit(&id("/agent/web")).unwrap();
    assert_eq!(reason(web.stream(&pod("web", "a"))), "allowed");
    assert_eq!(reason(web.stream(&pod("db", "a"))), "may_not_speak_for");
    // What is not known cannot be one of its own.
    assert_eq!(
        reason(web.stream(&Workload::default())),
        "may_not_speak_for"
    );
    let cgroup = |path: &str| Workload {
        cgroup: Some(path.to_owned()),
        ..Workload::default()
    };
    assert_eq!(reason(web.stream(&cgroup("/web.slice/a"))), "allowed");
    assert_eq!(
        reason(web.stream(&cgroup("/other.slice"))),
        "may_not_speak_for"
    );
    let node = agents.admit(&id("/node/a")).unwrap();
    assert_eq!(reason(node.stream(&Workload::default())), "allowed");
}

#[test]
fn limits_hold_for_each_agent_and_each_workload() {
    let quotas = Quotas {
        tunnels: 2,
        agent: Quota {
            connections: Some(3),
            ..Quota::default()
        },
        workload: Quota {
            connections: Some(2),
            names: Some(1),
            rate: None,
        },
    };
    let agents = agents(quotas);
    let first = agents.admit(&id("/node/a")).unwrap();
    let second = agents.admit(&id("/node/a")).unwrap();
    assert_eq!(reason(agents.admit(&id("/node/a"))), "agent_tunnel_limit");
    let other = agents.admit(&id("/node/b")).unwrap();

    let one = first.stream(&pod("web", "a")).unwrap();
    let two = second.stream(&pod("web", "a")).unwrap();
    let limit = reason(first.stream(&pod("web", "a")));
    assert_eq!(limit, "workload_connection_limit");
    let three = first.stream(&pod("web", "b")).unwrap();
    assert_eq!(
        reason(first.stream(&pod("web", "c"))),
        "agent_connection_limit"
    );
    // The same names elsewhere are another workload.
    assert_eq!(reason(other.stream(&pod("web", "a"))), "allowed");

    assert_eq!(reason(one.name(&name("a.example.org"))), "allowed");
    assert_eq!(reason(two.name(&name("a.example.org"))), "allowed");
    assert_eq!(
        reason(two.name(&name("b.example.org"))),
        "workload_name_limit"
    );
    assert_eq!(reason(three.name(&name("b.example.org"))), "allowed");

    // What has ended makes room.
    drop(one);
    assert_eq!(reason(first.stream(&pod("web", "a"))), "allowed");
    drop((two, three));
    drop(second);
    assert_eq!(reason(agents.admit(&id("/node/a"))), "allowed");
}

#[test]
fn a_workload_that_names_too_much_takes_nothing_from_the_others() {
    let names = |limit| Quota {
        names: Some(limit),
        ..Quota::default()
    };
    let agents = agents(Quotas {
        agent: names(2),
        workload: names(1),
        ..Quotas::default()
    });
    let tunnel = agents.admit(&id("/node/a")).unwrap();
    let greedy = tunnel.stream(&pod("web", "a")).unwrap();
    assert_eq!(reason(greedy.name(&name("a.example.org"))), "allowed");
    for other in ["b.example.org", "c.example.org", "d.example.org"] {
        assert_eq!(reason(greedy.name(&name(other))), "workload_name_limit");
    }
    let modest = tunnel.stream(&pod("web", "b")).unwrap();
    assert_eq!(reason(modest.name(&name("e.example.org"))), "allowed");
}

#[test]
fn what_is_not_used_is_forgotten() {
    let agents = agents(Quotas::default());
    let tunnel = agents.admit(&id("/node/a")).unwrap();
    for pod_name in ["a", "b"] {
        drop(tunnel.stream(&pod("web", pod_name)).unwrap());
    }
    drop(tunnel);
    let tables = agents.lock();
    assert!(tables.agents.is_empty() && tables.workloads.is_empty());
}

/// T4: an agent that makes workloads up fills its own part of the table, and is the only one to
/// notice. A name each keeps their entries for a minute.
#[test]
fn an_agent_that_makes_workloads_up_leaves_room_for_those_of_others() {
    let agents = agents(Quotas::default());
    let (rogue, other) = (id("/node/rogue"), id("/node/other"));
    let rogue = agents.admit(&rogue).unwrap();
    let open = |number: usize| {
        let stream = rogue.stream(&pod("web", &number.to_string()))?;
        stream.name(&name("a.example.org"))
    };
    for number in 0..MAX_OF_AGENT {
        open(number).unwrap();
    }
    assert_eq!(reason(open(MAX_OF_AGENT)), "agent_workload_limit");
    assert_eq!(agents.lock().workloads.len(), MAX_OF_AGENT);
    // One that has an entry keeps it.
    assert_eq!(reason(open(0)), "allowed");
    let other = agents.admit(&other).unwrap();
    assert_eq!(reason(other.stream(&pod("web", "a"))), "allowed");
}

#[test]
fn a_table_without_room_is_swept_once_a_second() {
    let mut tables = Tables::default();
    let begin = Instant::now();
    let key = |number: usize| WorkloadKey::of(&id("/node/a"), &pod("web", &number.to_string()));
    for number in 0..MAX_OF_AGENT {
        tables.place(&key(number), begin).unwrap();
    }
    // Each of them is over, as none was ever used; but they are looked through only so often.
    let soon = begin + SWEEP_IN_NEED / 2;
    let refused = tables.place(&key(MAX_OF_AGENT), soon);
    assert_eq!(reason(refused), "agent_workload_limit");
    let later = begin + SWEEP_IN_NEED;
    assert_eq!(reason(tables.place(&key(MAX_OF_AGENT), later)), "allowed");
    assert_eq!(tables.workloads.len(), 1);
    assert_eq!(tables.agents.get(&id("/node/a")).unwrap().workloads, 1);
}

#[test]
fn the_large_hellos_of_an_agent_are_counted_over_all_its_tunnels() {
    let agents = agents(Quotas::default());
    let [one, another, other] =
        ["/node/a", "/node/a", "/node/b"].map(|path| agents.admit(&id(path)).unwrap());
    let [one, another, other] =
        [&one, &another, &other].map(|tunnel| tunnel.stream(&pod("web", "a")).unwrap());
    assert!(Arc::ptr_eq(one.hellos(), another.hellos()));
    assert!(!Arc::ptr_eq(one.hellos(), other.hellos()));
}
