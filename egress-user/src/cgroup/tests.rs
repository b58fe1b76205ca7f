use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::*;

#[test]
fn mount_point_is_found_among_others() {
    let hybrid = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:4 - cgroup2 cgroup2 rw
";
    assert_eq!(
        mount_point(hybrid),
        Some(PathBuf::from("/sys/fs/cgroup/uni fied"))
    );
    assert_eq!(mount_point("31 23 0:28 / /sys rw - sysfs sysfs rw\n"), None);
    assert_eq!(mount_point(""), None);
}

#[test]
fn a_path_of_odd_names_stays_below_its_parents() {
    let path = |bytes: &[u8]| {
        let path = Path::new(OsStr::from_bytes(bytes));
        path_below(Path::new("/sys/fs/cgroup"), path)
    };
    assert_eq!(
        path(b"/sys/fs/cgroup/jobs/\xff\xfe/a").as_deref(),
        Some("/jobs/\u{fffd}\u{fffd}/a")
    );
    assert_eq!(
        path(b"/sys/fs/cgroup/jobs/\x01\n\xc2\x85").as_deref(),
        Some("/jobs/\u{fffd}\u{fffd}\u{fffd}")
    );
    assert_eq!(path(b"/sys/fs/cgroup").as_deref(), Some("/"));
    assert_eq!(path(b"/sys/fs/cgroups/jobs"), None);
}

#[test]
fn cgroups_of_somebody_s_own_making_are_one() {
    let owned = |upper: &str| !upper.starts_with("/user/1000");
    assert_eq!(up_to_the_first_open("/user/1000/a/b", owned), "/user/1000");
    assert_eq!(up_to_the_first_open("/user/1000", owned), "/user/1000");
    assert_eq!(up_to_the_first_open("/jobs/a", owned), "/jobs/a");
    assert_eq!(up_to_the_first_open("/", owned), "/");
}

#[test]
fn an_id_leads_back_to_its_path() {
    let Ok(cgroup2) = Cgroup2::find() else {
        panic!("these tests need a cgroup v2 hierarchy");
    };
    let own = cgroup2.current().unwrap();
    let path = cgroup2.path_of(own.id()).unwrap();
    assert_eq!(
        cgroup2.mount().join(path.trim_start_matches('/')),
        own.path()
    );
    assert_eq!(
        find_inode(cgroup2.mount(), own.id()).as_deref(),
        Some(own.path())
    );
    assert_eq!(cgroup2.path_of(u64::MAX), None);
}
