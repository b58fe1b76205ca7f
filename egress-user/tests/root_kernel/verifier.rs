//! What the kernel has to do before it takes the programs.

use aya::programs::loaded_programs;
use egress_user::agent::capture::CaptureOptions;
use egress_user::netns::Netns;

use crate::world::{World, options};

/// The kernel gives up at a million. The most on Linux 6.18 is 12,683, of `egress_guard`.
const MOST_VERIFIED: u32 = 100_000;

/// Ways through a program multiply: one that is not looked after fails on the next older kernel.
#[test]
fn the_programs_are_verified_in_few_steps() {
    let options = CaptureOptions {
        security_hooks: true,
        ..options()
    };
    crate::strict::keep_hooks();
    let mut world = World::with(&options, |_| {});
    let netns = Netns::at(world.place.workload.path()).unwrap();
    assert_eq!(world.capture.guard_interfaces(&netns).unwrap(), ["eth0"]);

    let mut judged = Vec::new();
    // Those of other tests may end meanwhile.
    for program in loaded_programs().flatten() {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        if name.starts_with("egress_") {
            let verified = program.verified_instruction_count().unwrap();
            assert!(verified < MOST_VERIFIED, "{name}: {verified}");
            println!("{name} {verified}");
            judged.push(name);
        }
    }
    let mut wanted = vec!["egress_connect6", "egress_packet", "egress_guard"];
    if world.capture.security_hooks().is_ok() {
        wanted.extend(["egress_family", "egress_option"]);
    }
    for name in wanted {
        assert!(judged.iter().any(|judged| *judged == *name), "{judged:?}");
    }
}
