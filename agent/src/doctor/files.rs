//! Who else can be the agent's user, which alone may speak to the brokers of an isolated host: whoever runs one of its set-uid files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Finding;
use super::mounts::{self, Mount};
use crate::disk::posture_file::PostureFile;

const CHECK: &str = "set-uid";
const SET_ID: u32 = 0o6000;
const SET_UID: u32 = 0o4000;
const CAPABILITIES: &str = "security.capability";
/// Large disks are not looked at to their end.
const PATIENCE: Duration = Duration::from_secs(20);
const SHOWN: usize = 4;
/// File systems without files of programs, and those of other machines.
const SKIPPED: [&str; 22] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "configfs",
    "efivarfs",
    "nsfs",
    "autofs",
    "binfmt_misc",
    "nfs",
    "nfs4",
    "cifs",
    "rpc_pipefs",
];

#[derive(Debug, Default)]
struct Found {
    files: Vec<PathBuf>,
    /// There was more than there was time for.
    cut_short: bool,
}

pub(super) fn look(state_dir: &Path) -> Vec<Finding> {
    let program = std::env::current_exe().and_then(|path| Ok((is_privileged(&path)?, path)));
    let uid = PostureFile::new(state_dir).owner();
    let found = if uid == 0 { Found::default() } else { set_uid(&mounts::list(), uid, PATIENCE) };
    let mut findings = match program {
        Ok((true, path)) => vec![Finding::fail(
            CHECK,
            format!("{} gives its rights to every user that runs it", path.display()),
            format!("chmod ug-s {0}; setcap -r {0}", path.display()),
        )],
        Ok(_) => Vec::new(),
        Err(error) => vec![Finding::unseen(CHECK, error)],
    };
    findings.push(judge(uid, &found));
    findings
}

/// Set-uid, set-gid, or with capabilities of its own (capabilities(7)).
fn is_privileged(path: &Path) -> io::Result<bool> {
    let mut none: [u8; 0] = [];
    let capable = rustix::fs::getxattr(path, CAPABILITIES, &mut none).is_ok_and(|size| size > 0);
    Ok(fs::metadata(path)?.mode() & SET_ID != 0 || capable)
}

fn set_uid(mounts: &[Mount], uid: u32, patience: Duration) -> Found {
    let ends = Instant::now() + patience;
    let mut found = Found::default();
    let honoured = |mount: &&Mount| {
        let network = SKIPPED.contains(&mount.kind.as_str()) || mount.kind.starts_with("fuse");
        !network && !mount.options.split(',').any(|option| option == "nosuid")
    };
    for mount in mounts.iter().filter(honoured) {
        let Ok(device) = fs::symlink_metadata(&mount.at).map(|found| found.dev()) else { continue };
        let mut folders = vec![mount.at.clone()];
        while let Some(folder) = folders.pop() {
            if Instant::now() > ends {
                found.cut_short = true;
                return found;
            }
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(about) = entry.metadata() else { continue };
                if about.is_dir() && about.dev() == device {
                    folders.push(entry.path());
                } else if about.is_file()
                    && about.mode() & SET_UID != 0
                    && about.uid() == uid
                    && !found.files.contains(&entry.path())
                {
                    found.files.push(entry.path());
                }
            }
        }
    }
    found
}

fn judge(uid: u32, found: &Found) -> Finding {
    if uid == 0 {
        return Finding::warn(
            CHECK,
            "the agent's user is root: every program of root's can speak to the brokers' addresses while isolated",
            "give the agent a user of its own: --user portcullis-agent, or User= in its unit",
        );
    }
    if !found.files.is_empty() {
        let names: Vec<_> = found.files.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
        return Finding::fail(
            CHECK,
            format!(
                "these run as the agent's user (uid {uid}), which may connect to the brokers, whichever user starts them: {}",
                names.join(", ")
            ),
            format!("chmod u-s {}", names.join(" ")),
        );
    }
    if found.cut_short {
        return Finding::warn(
            CHECK,
            format!("no set-uid files of the agent's user (uid {uid}) in what was looked at in {} s", PATIENCE.as_secs()),
            format!("look at the rest: find / -xdev -uid {uid} -perm -4000"),
        );
    }
    Finding::ok(CHECK, format!("no set-uid files of the agent's user (uid {uid})"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Grade;
    use super::*;

    #[test]
    fn set_uid_files_of_one_user_are_found_where_set_uid_counts() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        for (name, mode) in [("plain", 0o755), ("set", 0o4755), ("group", 0o2755)] {
            fs::write(inner.join(name), "").unwrap();
            fs::set_permissions(inner.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let uid = fs::metadata(&inner).unwrap().uid();
        let mount = |options: &str, kind: &str| Mount {
            root: "/".into(),
            at: directory.path().into(),
            kind: kind.into(),
            options: options.into(),
        };
        let files = |mount, uid| set_uid(&[mount], uid, PATIENCE).files;
        assert_eq!(files(mount("rw", "ext4"), uid), [inner.join("set")]);
        assert!(files(mount("rw", "ext4"), uid + 1).is_empty());
        assert!(files(mount("rw,nosuid", "ext4"), uid).is_empty());
        assert!(files(mount("rw", "nfs4"), uid).is_empty());
        assert!(set_uid(&[mount("rw", "ext4")], uid, Duration::ZERO).cut_short);
        assert!(is_privileged(&inner.join("set")).unwrap() && is_privileged(&inner.join("group")).unwrap());
        assert!(!is_privileged(&inner.join("plain")).unwrap());
    }

    #[test]
    fn who_can_be_the_agents_user_is_judged() {
        let found = Found { files: vec!["/opt/x".into()], cut_short: false };
        assert_eq!(judge(0, &Found::default()).grade, Grade::Warn);
        assert_eq!(judge(990, &Found::default()).grade, Grade::Ok);
        assert_eq!(judge(990, &found).remedy.unwrap(), "chmod u-s /opt/x");
        assert_eq!(judge(990, &Found { cut_short: true, ..Found::default() }).grade, Grade::Warn);
    }
}
