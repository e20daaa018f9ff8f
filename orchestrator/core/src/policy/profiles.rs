//! Standard profiles: named lists of exclusions, kept as data files.

use portcullis_schemas::exclusion::Exclusion;

use super::error::{At, Errors, did_you_mean, one_of, quoted};
use super::exclusions::one;
use super::lists::Lists;
use super::read::list;
use super::yaml;

const STANDARD: [(&str, &str); 4] = [
    ("dns-client", include_str!("profiles/dns-client.yaml")),
    ("dns-server", include_str!("profiles/dns-server.yaml")),
    ("dhcp-client", include_str!("profiles/dhcp-client.yaml")),
    ("dhcp-server", include_str!("profiles/dhcp-server.yaml")),
];

/// Profiles of the design that this version does not have yet.
const LATER: [&str; 17] = [
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

/// What passes where no policy says anything else: all standard profiles.
pub fn default_exclusions() -> Vec<Exclusion> {
    // The files are the program's own, and a test loads each.
    let mut errors = Errors::default();
    STANDARD.iter().flat_map(|(name, text)| load(name, text, &mut errors)).collect()
}

/// The exclusions of the profile `name`, asked for at `at`.
pub(super) fn named(name: &str, at: At, errors: &mut Errors) -> Vec<Exclusion> {
    if let Some((name, text)) = STANDARD.iter().find(|(standard, _)| *standard == name) {
        return load(name, text, errors);
    }
    let known = || STANDARD.iter().map(|(name, _)| *name);
    if LATER.contains(&name) {
        let message = format!(
            "profile {name} comes with a later version of Portcullis; write the connection out: {{name, direction, protocol, remote}}"
        );
        errors.push(at, message);
    } else {
        let hint = did_you_mean(name, known());
        errors.push(at, format!("there is no profile {}{hint} (standard ones are {})", quoted(name), one_of(known())));
    }
    Vec::new()
}

fn load(name: &str, text: &str, errors: &mut Errors) -> Vec<Exclusion> {
    let Some(root) = yaml::read(text, errors) else { return Vec::new() };
    let entries = list(&root, name, errors).unwrap_or_default();
    entries.iter().filter_map(|entry| one(entry, Some(name), &Lists::default(), errors)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_profile_loads_without_an_error() {
        for (name, text) in STANDARD {
            let mut errors = Errors::default();
            assert!(load(name, text, &mut errors).len() >= 2, "{name}");
            assert_eq!(errors.finish(), []);
        }
        assert_eq!(default_exclusions().len(), 13);
    }
}
