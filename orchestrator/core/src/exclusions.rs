//! A list of exclusions and how an operator changes it.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::ExclusionChange;
use portcullis_schemas::exclusion::Exclusion;

/// The list at `at` as it is changed; `default` takes its place where the change resets it. What has ended is left out.
///
/// A permanent exclusion replaces those of its name. A temporary one replaces temporary ones of its name alone: when it ends, what was there before
/// passes on.
pub fn changed(list: &[Exclusion], default: &[Exclusion], change: &ExclusionChange, at: Timestamp) -> Vec<Exclusion> {
    let list = if change.reset { default } else { list };
    let replaces = |new: &Exclusion, old: &Exclusion| new.name == old.name && (new.until.is_none() || old.until.is_some());
    let stays = |old: &&Exclusion| {
        !change.remove.contains(&old.name) && !change.exclusions.iter().any(|new| replaces(new, old)) && lives(old, at)
    };
    list.iter().filter(stays).chain(&change.exclusions).cloned().collect()
}

pub fn lives(exclusion: &Exclusion, at: Timestamp) -> bool {
    exclusion.until.is_none_or(|until| until > at)
}

/// Whether the change passes by itself, and so belongs to the isolation that it is asked for and not to the host's own list.
pub fn is_temporary(change: &ExclusionChange) -> bool {
    let all_end = change.exclusions.iter().all(|exclusion| exclusion.until.is_some());
    !change.reset && change.remove.is_empty() && all_end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_list_is_changed_by_name_and_what_is_temporary_leaves_what_is_not() {
        let list = [
            one("dns", 53, None),
            one("ssh", 22, None),
            one("ssh", 2_022, None),
            one("web", 80, Some(50)),
            one("old", 1, Some(10)),
        ];
        let default = [one("ntp", 123, None)];
        for (what, change, expected) in [
            ("nothing", ExclusionChange::default(), "dns:53 ssh:22 ssh:2022 web:80@50"),
            ("all of a name", removed(&["ssh", "none"]), "dns:53 web:80@50"),
            ("added", added(&[one("vpn", 1_194, None)]), "dns:53 ssh:22 ssh:2022 web:80@50 vpn:1194"),
            ("replaced", added(&[one("ssh", 4, None), one("ssh", 5, None)]), "dns:53 web:80@50 ssh:4 ssh:5"),
            ("beside what is permanent", added(&[one("ssh", 4, Some(60))]), "dns:53 ssh:22 ssh:2022 web:80@50 ssh:4@60"),
            ("prolonged", added(&[one("web", 80, Some(90))]), "dns:53 ssh:22 ssh:2022 web:80@90"),
            ("reset", ExclusionChange { reset: true, ..added(&[one("ssh", 4, None)]) }, "ntp:123 ssh:4"),
        ] {
            assert_eq!(words(&changed(&list, &default, &change, at(10))), expected, "{what}");
        }
    }

    #[test]
    fn only_what_ends_by_itself_is_temporary() {
        for (change, expected) in [
            (added(&[one("a", 1, Some(9))]), true),
            (added(&[one("a", 1, Some(9)), one("b", 1, None)]), false),
            (removed(&["a"]), false),
            (ExclusionChange { reset: true, ..Default::default() }, false),
        ] {
            assert_eq!(is_temporary(&change), expected, "{change:?}");
        }
    }

    fn one(name: &str, port: u16, until: Option<i64>) -> Exclusion {
        let text = serde_json::json!({
            "name": name, "direction": "out", "protocol": "tcp", "remote": "any", "remote_ports": [port], "until": until.map(at),
        });
        serde_json::from_value(text).expect("the test's exclusion is valid")
    }

    fn added(exclusions: &[Exclusion]) -> ExclusionChange {
        ExclusionChange { exclusions: exclusions.to_vec(), ..ExclusionChange::default() }
    }

    fn removed(names: &[&str]) -> ExclusionChange {
        ExclusionChange { remove: names.iter().map(ToString::to_string).collect(), ..ExclusionChange::default() }
    }

    fn words(list: &[Exclusion]) -> String {
        let one = |one: &Exclusion| {
            let until = one.until.map(|until| format!("@{}", crate::testing::second(until))).unwrap_or_default();
            format!("{}:{}{until}", one.name, one.remote_ports[0].first())
        };
        list.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}
