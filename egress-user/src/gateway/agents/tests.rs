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
