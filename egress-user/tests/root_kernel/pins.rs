//! Several cgroups under one directory of pins.

use std::fs;
use std::path::{Path, PathBuf};

use egress_lab::{BpfFs, Cgroup};
use egress_user::agent::capture::{Capture, cleanup};

use crate::lifetime::{PROGRAMS, becomes, connects_directly, connects_to_the_agent, pin_of};
use crate::world::{Place, options};

/// Programs attached to each of the cgroups, with a scope, and pinned.
fn generation(dir: &Path, place: &Place, cgroups: &[&Cgroup]) -> Capture {
    let mut capture = Capture::load(&options()).unwrap();
    capture.add_scope(place.cookie, &place.scope()).unwrap();
    for cgroup in cgroups {
        capture.attach(cgroup.path()).unwrap();
    }
    capture.pin(dir).unwrap();
    capture
}

#[test]
fn two_cgroups_are_captured_and_one_between_them_is_not() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let place = Place::new();
    let (one, two, between) = (
        Cgroup::new().unwrap(),
        Cgroup::new().unwrap(),
        Cgroup::new().unwrap(),
    );
    let capture = generation(&dir, &place, &[&one, &two]);
    assert_eq!(capture.faults(), Vec::<String>::new());
    connects_to_the_agent(&place, &one);
    connects_to_the_agent(&place, &two);
    connects_directly(&place, &between);

    // Without a process, too.
    drop(capture);
    for cgroup in [&one, &two] {
        becomes(cgroup, PROGRAMS);
        connects_to_the_agent(&place, cgroup);
    }
    cleanup(&dir).unwrap();
    for cgroup in [&one, &two] {
        becomes(cgroup, 0);
        connects_directly(&place, cgroup);
    }
}

/// The pins of a cgroup that is not captured any more go, and those of one that is new come, while
/// those of one that stays are never without a program.
#[test]
fn a_successor_may_capture_other_cgroups() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let place = Place::new();
    let (left, kept, new) = (
        Cgroup::new().unwrap(),
        Cgroup::new().unwrap(),
        Cgroup::new().unwrap(),
    );
    drop(generation(&dir, &place, &[&left, &kept]));
    let successor = generation(&dir, &place, &[&new, &kept]);
    becomes(&left, 0);
    connects_directly(&place, &left);
    for cgroup in [&kept, &new] {
        becomes(cgroup, PROGRAMS);
        connects_to_the_agent(&place, cgroup);
    }

    // A pin that somebody removed is missed at its cgroup.
    fs::remove_file(dir.join(pin_of("egress_connect6", &new))).unwrap();
    becomes(&new, PROGRAMS - 1);
    assert_eq!(
        successor.faults(),
        [format!(
            "the kernel program egress_connect6 is not attached to {}",
            new.path().display()
        )]
    );
    drop(successor);
    cleanup(&dir).unwrap();
}

/// What is attached to a cgroup goes when it is removed, and one of the same path is another.
#[test]
fn a_cgroup_that_is_made_again_is_captured_again() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let place = Place::new();
    let (one, two) = (Cgroup::new().unwrap(), Cgroup::new().unwrap());
    let mut capture = generation(&dir, &place, &[&one, &two]);
    let before = pin_of("egress_connect4", &one);
    assert_eq!(capture.follow_cgroups().unwrap(), Vec::<PathBuf>::new());

    fs::remove_dir(one.path()).unwrap();
    assert_eq!(capture.follow_cgroups().unwrap(), Vec::<PathBuf>::new());
    let gone = format!("the cgroup {} is not there any more", one.path().display());
    assert_eq!(capture.faults(), [gone]);
    fs::create_dir(one.path()).unwrap();
    connects_directly(&place, &one);
    assert_eq!(capture.follow_cgroups().unwrap(), [one.path()]);
    assert_eq!(capture.faults(), Vec::<String>::new());
    for cgroup in [&one, &two] {
        becomes(cgroup, PROGRAMS);
        connects_to_the_agent(&place, cgroup);
    }
    assert!(!dir.join(before).exists());

    // And stays so without a process.
    drop(capture);
    connects_to_the_agent(&place, &one);
    cleanup(&dir).unwrap();
}

/// Somebody else's pins in the directory stay, however much alike their names are.
#[test]
fn a_cleanup_leaves_what_is_not_ours() {
    let bpf_fs = BpfFs::mount().unwrap();
    let dir = bpf_fs.path().join("egress");
    let place = Place::new();
    let cgroup = Cgroup::new().unwrap();
    drop(generation(&dir, &place, &[&cgroup]));
    let ours = dir.join(pin_of("egress_flow", &cgroup));
    let foreign = [dir.join("egress_flow_x"), dir.join("egress_flows_1")];
    fs::rename(&ours, &foreign[0]).unwrap();
    fs::rename(dir.join("egress_sockets"), &foreign[1]).unwrap();
    cleanup(&dir).unwrap();
    for path in &foreign {
        assert!(path.exists(), "{}", path.display());
        fs::remove_file(path).unwrap();
    }
    becomes(&cgroup, 0);
}
