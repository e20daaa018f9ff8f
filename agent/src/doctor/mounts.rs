//! What is mounted where, from mountinfo (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// What of the file system is mounted: `net:[4026531840]` of a namespace that is kept by a name.
    pub root: String,
    pub at: PathBuf,
    pub kind: String,
    /// Of the mount: `rw,nosuid,noexec`.
    pub options: String,
}

/// Those of this process; empty without /proc.
pub(super) fn list() -> Vec<Mount> {
    of(Path::new("/proc/self/mountinfo"))
}

pub(super) fn of(mountinfo: &Path) -> Vec<Mount> {
    fs::read_to_string(mountinfo).map(|text| read(&text)).unwrap_or_default()
}

/// Whether a file is a namespace (ioctl_ns(2)): what lies where one was mounted may be an empty file.
pub(super) fn is_namespace(path: &Path) -> bool {
    /// include/uapi/linux/magic.h
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == NSFS_MAGIC)
}

pub(super) fn read(text: &str) -> Vec<Mount> {
    let of = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at, options) = (fields.next()?, fields.next()?, fields.next()?);
        let kind = system.split(' ').next()?.to_owned();
        Some(Mount { root: plain(root), at: plain(at).into(), kind, options: options.to_owned() })
    };
    text.lines().filter_map(of).collect()
}

/// Space, tab, newline and backslash stand as three octal digits.
fn plain(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_root_and_options() {
        let text = "36 35 98:0 / /mnt\\040x rw,nosuid shared:1 - ext4 /dev/sda1 rw\n\
                    99 35 0:4 net:[4026532255] /run/netns/a rw shared:9 - nsfs nsfs rw\nrubbish\n";
        let mounts = read(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].at.to_str(), mounts[0].options.as_str()), (Some("/mnt x"), "rw,nosuid"));
        assert_eq!((mounts[1].root.as_str(), mounts[1].kind.as_str()), ("net:[4026532255]", "nsfs"));
    }
}
