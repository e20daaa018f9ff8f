//! Control groups of the second hierarchy, by the units that exclusions name. What an exclusion says is compared with what the hierarchy holds, and
//! never made part of a path.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use portcullis_agent_core::gate::ControlGroup;
use portcullis_schemas::exclusion::{Exclusion, Unit};

/// More groups below one unit are not listed, and their standing connections not kept.
const MOST_BELOW: usize = 1_000;

/// The groups of the units that the exclusions name; what does not run is left out.
pub fn named(exclusions: &[Exclusion]) -> BTreeMap<String, ControlGroup> {
    let units: Vec<&Unit> = exclusions.iter().filter_map(|exclusion| exclusion.unit.as_ref()).collect();
    let root = if units.is_empty() { None } else { root() };
    root.map(|root| find(&root, &units)).unwrap_or_default()
}

/// Where the second hierarchy is mounted, in whatever layout.
pub fn root() -> Option<PathBuf> {
    mounted(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// The mount point is the fifth field, the type the first one behind a lone dash (proc_pid_mountinfo(5)).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.split_once(" - ").is_some_and(|(_, behind)| behind.starts_with("cgroup2 ")))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

fn find(root: &Path, units: &[&Unit]) -> BTreeMap<String, ControlGroup> {
    let mut found = BTreeMap::new();
    let mut rest = vec![(root.to_owned(), String::new())];
    while let Some((directory, place)) = rest.pop() {
        for (child, name) in children(&directory) {
            let path = if place.is_empty() { name.clone() } else { format!("{place}/{name}") };
            for unit in units.iter().filter(|unit| unit.is_at(&path) && (unit.as_str().contains('/') || is_of_the_system(&path)))
            {
                found.entry(unit.as_str().to_owned()).or_insert_with(|| group(&child, path.clone()));
            }
            if is_slice(&name) || units.iter().any(|unit| leads_to(&path, unit)) {
                rest.push((child, path));
            }
        }
    }
    found
}

/// Units by name are looked for in the slices of the system alone: below a service or a user's slice, whoever it was handed to makes groups of
/// any name.
fn is_of_the_system(path: &str) -> bool {
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    above.is_empty() || above.split('/').all(is_slice) && !above.starts_with("user.slice")
}

fn is_slice(name: &str) -> bool {
    name.ends_with(".slice")
}

fn leads_to(path: &str, unit: &Unit) -> bool {
    unit.as_str().trim_start_matches('/').strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

fn group(directory: &Path, path: String) -> ControlGroup {
    let id = |directory: &Path| fs::metadata(directory).map(|found| found.ino()).ok();
    let mut below = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(directory) = rest.pop().filter(|_| below.len() < MOST_BELOW) {
        for (child, _) in children(&directory) {
            below.extend(id(&child));
            rest.push(child);
        }
    }
    below.sort_unstable();
    // A group that has just gone has a number that no socket has.
    ControlGroup { path, id: id(directory).unwrap_or_default(), below }
}

fn children(directory: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_in_either_layout() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(mounted("31 24 0:27 / /mnt/cgroup2 rw - ext4 /dev/sda rw\n"), None);
    }

    #[test]
    fn a_unit_is_found_in_the_systems_slices_and_a_path_where_it_says() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "system.slice/a.service/inner",
            "system.slice/system-b.slice/b@1.service",
            "user.slice/user-7.slice/user@7.service/app.slice/c.service",
            "system.slice/docker.service/d.service",
            "x/y",
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let units: Vec<Unit> =
            ["a.service", "b@1.service", "c.service", "d.service", "y", "/x/y", "x/y/z", "system.slice/docker.service/d.service"]
                .map(|unit| unit.parse().unwrap())
                .into();
        let found = find(root.path(), &units.iter().collect::<Vec<_>>());
        let paths: Vec<_> = found.iter().map(|(unit, group)| (unit.as_str(), group.path.as_str())).collect();
        assert_eq!(
            paths,
            [
                ("/x/y", "x/y"),
                ("a.service", "system.slice/a.service"),
                ("b@1.service", "system.slice/system-b.slice/b@1.service"),
                ("system.slice/docker.service/d.service", "system.slice/docker.service/d.service"),
            ]
        );
        let ino = |path: &str| fs::metadata(root.path().join(path)).unwrap().ino();
        assert_eq!(found["a.service"].id, ino("system.slice/a.service"));
        assert_eq!(found["a.service"].below, [ino("system.slice/a.service/inner")]);
    }
}
