//! The control groups: exclusions for one systemd unit are matched by its path in the second version's tree.

use std::path::{Path, PathBuf};

use super::Finding;
use super::mounts::{self, Mount};

const CHECK: &str = "cgroup";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Unified(PathBuf),
    /// Both versions; systemd keeps its units in either.
    Hybrid(PathBuf),
    First,
    None,
}

/// As the agent sees them. `ip netns exec` puts a /sys of its own over the mounts of this process, so then those of process 1 are asked.
pub(super) fn look() -> Layout {
    match layout(&mounts::list()) {
        Layout::None => layout(&mounts::of(Path::new("/proc/1/mountinfo"))),
        found => found,
    }
}

fn layout(mounts: &[Mount]) -> Layout {
    let second = mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.at.clone());
    let first = mounts.iter().any(|mount| mount.kind == "cgroup");
    match (second, first) {
        (Some(at), false) => Layout::Unified(at),
        (Some(at), true) => Layout::Hybrid(at),
        (None, true) => Layout::First,
        (None, false) => Layout::None,
    }
}

pub(super) fn judge(layout: &Layout) -> Finding {
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1; until then exclusions for a systemd unit match nothing";
    match layout {
        Layout::Unified(at) => Finding::ok(CHECK, format!("version 2 at {}", at.display())),
        Layout::Hybrid(at) => Finding::ok(CHECK, format!("hybrid; version 2 at {}", at.display())),
        Layout::First => Finding::warn(CHECK, "version 1 only", remedy),
        Layout::None => Finding::warn(CHECK, "no control groups are mounted here", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn each_layout_is_known() {
        let v1 = "30 23 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let v2 = "31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (text, expected, grade) in [
            (v2.to_owned(), Layout::Unified("/sys/fs/cgroup/unified".into()), Grade::Ok),
            (format!("{v1}{v2}"), Layout::Hybrid("/sys/fs/cgroup/unified".into()), Grade::Ok),
            (v1.to_owned(), Layout::First, Grade::Warn),
            (String::new(), Layout::None, Grade::Warn),
        ] {
            let found = layout(&mounts::read(&text));
            assert_eq!((judge(&found).grade, &found), (grade, &expected));
        }
    }
}
