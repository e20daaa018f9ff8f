//! What the agent may do: root is given up at the start, but for the two rights that it needs, and nothing that it starts gets more.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, lchown};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

const USERS: &str = "/etc/passwd";
/// NET_ADMIN: rules, sockets and flows. DAC_READ_SEARCH: the leases of DHCP clients that keep them from others.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);
/// What nft gets, which the agent starts.
const HANDED_ON: CapabilitySet = CapabilitySet::NET_ADMIN;

/// What an agent writes into its directory.
const FILES: [&str; 5] = ["posture.a", "posture.b", "brokers.json", "state.json", "agent.sock"];

/// The user as whom the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// By its name in /etc/passwd, or by a number, which is then the group's as well.
    pub fn find(text: &str) -> Result<Self, String> {
        let found = match text.parse() {
            Ok(number) => Some(Self { uid: number, gid: number }),
            Err(_) => named(text, &fs::read_to_string(USERS).map_err(|error| format!("cannot read {USERS}: {error}"))?),
        };
        match found {
            Some(Self { uid: 0 | u32::MAX, .. }) => Err("root is no user of its own".to_owned()),
            Some(user) => Ok(user),
            None => Err(format!("{USERS} has no user {text}; make one: useradd --system --shell /usr/sbin/nologin {text}")),
        }
    }
}

/// passwd(5)
fn named(name: &str, users: &str) -> Option<User> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find_map(|mut fields| (fields.next()? == name).then_some(fields))?;
    Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// Becomes `user`, to whom the directory is given, and keeps what the agent needs. Who is not root keeps of that what it has. Only for a
/// process of one thread.
pub fn give_up(user: Option<User>, state_dir: &Path) -> anyhow::Result<()> {
    set_no_new_privs(true).context("cannot give up new privileges")?;
    match user {
        Some(user) if geteuid().is_root() => {
            hand_over(state_dir, user).with_context(|| format!("cannot give {} to uid {}", state_dir.display(), user.uid))?;
            become_user(user).with_context(|| format!("cannot become uid {}", user.uid))?;
        }
        Some(user) if geteuid().as_raw() != user.uid => bail!("only root can become uid {}", user.uid),
        None if geteuid().is_root() => return Ok(()),
        _ => {}
    }
    let kept = capabilities(None)?.permitted & KEPT;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
        .context("cannot keep the capabilities that the agent needs")?;
    if kept.contains(HANDED_ON) {
        configure_capability_in_ambient_set(HANDED_ON, true).context("cannot hand CAP_NET_ADMIN on to nft")?;
    }
    // Other processes of this user neither trace it nor read its memory.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn become_user(user: User) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(KEPT) {
        // Where this is forbidden, or the kernel has no such capability, there is nothing to be had from it either: no program gives more.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    Ok(())
}

/// Makes the directory, or takes over one that an agent of root's has left, with its files. Not any other that is root's: the flag may name
/// it by a slip of the pen.
fn hand_over(directory: &Path, user: User) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = fs::symlink_metadata(directory)?;
    if found.uid() != 0 {
        return Ok(());
    }
    let files: Vec<_> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
    let is_ours = |path: &Path| path.file_name().is_some_and(|name| FILES.iter().any(|file| name == *file));
    if !found.is_dir() || found.mode() & 0o077 != 0 || !(files.is_empty() || files.iter().any(|path| is_ours(path))) {
        return Err(io::Error::other("it is root's and does not look like an agent's; chown it, or name another --state-dir"));
    }
    for file in files.iter().filter(|path| is_ours(path)) {
        lchown(file, Some(user.uid), Some(user.gid))?;
    }
    chown(directory, Some(user.uid), Some(user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_number_and_is_never_root() {
        let users = "root:x:0:0:root:/root:/bin/sh\nportcullis-agent:x:990:991::/:/sbin/nologin\nbroken:x\n";
        assert_eq!(named("portcullis-agent", users), Some(User { uid: 990, gid: 991 }));
        assert_eq!((named("portcullis", users), named("broken", users)), (None, None));
        assert_eq!(User::find("64990"), Ok(User { uid: 64990, gid: 64990 }));
        for bad in ["0", "root", "4294967295", "-1", "no such user"] {
            assert!(User::find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_agents_directory_is_taken_over() {
        use std::os::unix::fs::PermissionsExt;

        let root = tempfile::tempdir().unwrap();
        let user = User { uid: 64990, gid: 64990 };
        let made = |name: &str, mode: u32, files: &[&str]| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            files.iter().for_each(|file| fs::write(path.join(file), "").unwrap());
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let old = made("old", 0o700, &["posture.a", "resolv.conf"]);
        hand_over(&old, user).unwrap();
        assert_eq!([owner(&old), owner(&old.join("posture.a")), owner(&old.join("resolv.conf"))], [64990, 64990, 0]);
        hand_over(&root.path().join("new"), user).unwrap();
        assert_eq!(owner(&root.path().join("new")), 64990);
        for (name, mode, file) in [("home", 0o700, "letter"), ("etc", 0o755, "posture.a")] {
            let path = made(name, mode, &[file]);
            assert!(hand_over(&path, user).is_err());
            assert_eq!((owner(&path), owner(&path.join(file))), (0, 0), "{name}");
        }
    }
}
