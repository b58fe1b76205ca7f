//! An agent that is stopped, or killed: refused at once, and never a direct connection.

use egress_lab::wait;
use rustix::process::Signal;

use crate::clients::{curl, python_script};
use crate::world::{EN, Wish, World};

/// Connects until the kernel refuses. Until then the listener's queue takes the connection, which
/// leads nowhere either.
const UNTIL_REFUSED: &str = "
import socket, sys, time
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        socket.create_connection((sys.argv[1], 443), timeout=60).close()
        # Slowly: the queue of an agent that accepts nothing must not overflow before.
        time.sleep(0.05)
    except PermissionError:
        sys.exit(print('refused'))
";

#[test]
fn a_stopped_agent_gets_no_connections_and_serves_again_when_it_goes_on() {
    let mut world = World::with(&Wish {
        capture: &["heartbeat: 1s"],
        ..Wish::default()
    });
    serves(&world);
    let arrived = world.origins.arrived(&world.lab, EN.name).unwrap();
    world.deployment.agent.signal(Signal::STOP).unwrap();
    let answer = python_script(&world, UNTIL_REFUSED, &[&EN.v4.to_string()]);
    assert_eq!(answer.stdout, "refused\n", "{answer:#?}");
    let arrived_since = world.origins.arrived(&world.lab, EN.name).unwrap();
    assert_eq!(arrived_since, arrived);
    assert_eq!(world.application_sent(), []);

    world.deployment.agent.signal(Signal::CONT).unwrap();
    serves(&world);
    world.finish();
}

/// Between two beats of an agent on a slow machine there may be more than its heartbeat.
fn serves(world: &World) {
    let page = wait::until("the agent serves", || {
        let answer = curl(world, EN.name, EN.v4.into());
        answer.success.then_some(answer)
    });
    page.unwrap().assert_page_of(EN.name);
}
