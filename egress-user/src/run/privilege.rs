//! Who the command shall run as.

use std::ffi::{CString, OsString};
use std::path::PathBuf;

use anyhow::Context;
use nix::unistd::{Gid, Uid, User, getgrouplist};

/// The user who asked for the command, when that is not the user we run as.
pub(super) struct Invoker {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
    /// Variables that name the user, which sudo had set for root.
    pub(super) env: Vec<(&'static str, OsString)>,
}

/// The user whom sudo says it acts for. `None` when there is no sudo, when the
/// user is root, or when we are not root and so the user already.
///
/// # Errors
///
/// Fails when sudo's variables do not name a user: running the command as root
/// instead would give it more than it was meant to have.
pub(super) fn invoker() -> anyhow::Result<Option<Invoker>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let Some(uid) = number("SUDO_UID")? else {
        return Ok(None);
    };
    if uid == 0 {
        return Ok(None);
    }
    let gid = number("SUDO_GID")?
        .context("SUDO_UID is set and SUDO_GID is not; unset both to run the command as root")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let user = User::from_uid(uid).context("cannot look up the user in SUDO_UID")?;
    let Some(user) = user else {
        // A number without an entry is a user all the same, with one group.
        return Ok(Some(Invoker {
            uid,
            gid,
            groups: vec![gid],
            env: Vec::new(),
        }));
    };
    let name = CString::new(user.name.as_bytes()).context("the user's name has a NUL")?;
    Ok(Some(Invoker {
        uid,
        gid,
        groups: getgrouplist(&name, gid).context("cannot look up the user's groups")?,
        env: vec![
            ("HOME", user.dir.into_os_string()),
            ("SHELL", shell(user.shell)),
            ("USER", OsString::from(&user.name)),
            ("LOGNAME", OsString::from(&user.name)),
        ],
    }))
}

fn shell(shell: PathBuf) -> OsString {
    if shell.as_os_str().is_empty() {
        // What passwd(5) gives the empty field.
        OsString::from("/bin/sh")
    } else {
        shell.into_os_string()
    }
}

fn number(variable: &str) -> anyhow::Result<Option<u32>> {
    let Some(value) = std::env::var_os(variable) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|value| value.parse().ok());
    number
        .map(Some)
        .with_context(|| format!("{variable} is not a number; unset it to run the command as root"))
}
