//! The standard profiles: data files, each a list of exclusions, one with parameters, or another one with some of them set.

use portcullis_schemas::exclusion::Exclusion;

use super::profile::Profile;
use crate::error::Errors;
use crate::lists::Lists;
use crate::yaml::{self, Node, Value};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!($name, ".yaml")))),*]
    };
}

const FILES: [(&str, &str); 21] = files![
    "dns-client",
    "dns-server",
    "dhcp-client",
    "dhcp-server",
    "ntp-client",
    "ssh-admin",
    "agent",
    "wazuh",
    "elastic-agent",
    "velociraptor",
    "falcon",
    "mde",
    "osquery",
    "filebeat",
    "rsyslog",
    "auditd",
    "vpn",
    "kubernetes-node",
    "cloud-aws",
    "cloud-azure",
    "cloud-gcp",
];

/// On for both origins where no policy says anything else.
const BY_DEFAULT: [&str; 4] = ["dns-client", "dns-server", "dhcp-client", "dhcp-server"];

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

pub(super) fn is(name: &str) -> bool {
    names().any(|standard| standard == name)
}

/// None where there is none of this name. Standard profiles extend standard ones, whatever the policy has made of those.
pub(super) fn load(name: &str) -> Option<Profile> {
    let (_, text) = FILES.iter().find(|(standard, _)| *standard == name)?;
    // The files are the program's own, and a test reads each.
    let mut errors = Errors::default();
    read(&yaml::read(text, &mut errors)?, &mut errors)
}

fn read(root: &Node, errors: &mut Errors) -> Option<Profile> {
    let extended = match &root.value {
        Value::Map(keys) => keys.iter().find(|(key, _)| key.name == "extends").map(|(_, extended)| (keys, extended)),
        _ => None,
    };
    let Some((keys, extended)) = extended else { return Profile::standard(root, errors) };
    let Value::Text(extended) = &extended.value else { return None };
    let values = keys.iter().filter(|(key, _)| key.name != "extends");
    load(&extended.text)?.with(&extended.text, values, &Lists::default(), errors)
}

/// What passes where no policy says anything else.
pub fn default_exclusions() -> Vec<Exclusion> {
    let mut errors = Errors::default();
    let profiles = BY_DEFAULT.iter().filter_map(|name| Some((name, load(name)?)));
    profiles.flat_map(|(name, profile)| profile.exclusions(name, &Lists::default(), &mut errors)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_reads_without_an_error_and_uses_what_it_declares() {
        for (name, text) in FILES {
            let mut errors = Errors::default();
            let root = yaml::read(text, &mut errors).unwrap();
            let profile = read(&root, &mut errors).unwrap();
            profile.check(&mut errors);
            assert_eq!(errors.finish(), [], "{name}");
        }
    }

    #[test]
    fn those_on_by_default_need_nothing() {
        let mut names: Vec<String> = default_exclusions().into_iter().map(|exclusion| exclusion.name).collect();
        names.dedup();
        assert_eq!(names, BY_DEFAULT);
    }

    #[test]
    fn every_data_file_is_one_of_them() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/profiles");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut found: Vec<String> = files
            .filter(|file| file.extension().is_some_and(|ending| ending == "yaml"))
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let mut known: Vec<&str> = names().collect();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
