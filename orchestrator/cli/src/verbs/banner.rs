//! What every verb says first, where the orchestrator is away or has no sound policy.

use crate::client::Beat;
use crate::words;

pub fn lines(beat: &Beat) -> Vec<String> {
    let mut lines = Vec::new();
    if !beat.is_current() {
        let since = format!("{} ({} ago)", words::date(beat.at), words::span(beat.age.num_seconds().unsigned_abs()));
        lines.push(format!(
            "no heartbeat from an orchestrator since {since}: hosts are shown as they were then, and requests wait until one runs"
        ));
    }
    let policy = &beat.said.policy;
    match (&policy.refused, &policy.hash) {
        (None, Some(_)) => {}
        (None, None) => lines.push("no policy is loaded: detections isolate no host and wait for a person".into()),
        (Some(refused), hash) => {
            let (file, problem, at) = (&refused.file, words::short(&refused.problem, 200), words::date(refused.at));
            let then = match hash {
                Some(_) => "the policy before it stays active",
                None => "no policy is loaded: detections isolate no host and wait for a person",
            };
            lines.push(format!("policy file {file} refused at {at}: {problem}; {then}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use portcullis_schemas::heartbeat::{Heartbeat, PolicyState, Refused};

    use super::*;
    use crate::fake::at;

    #[test]
    fn a_broken_policy_and_a_missing_orchestrator_are_said_by_every_verb() {
        let refused = Some(Refused { at: at(0), file: "/p.yaml".into(), problem: "line 3, column 1: \"a\"".into() });
        let beat = |hash: Option<&str>, refused, age| Beat {
            at: at(0),
            age: TimeDelta::seconds(age),
            said: Heartbeat { policy: PolicyState { hash: hash.map(str::to_owned), refused }, ..Heartbeat::default() },
        };
        assert_eq!(lines(&beat(Some("f"), None, 20)), Vec::<String>::new());
        let away = lines(&beat(Some("f"), None, 125));
        assert!(away[0].starts_with("no heartbeat from an orchestrator since 2026-11-22 12:00:00 UTC (2m5s ago)"), "{away:?}");
        let broken = lines(&beat(None, refused.clone(), 0));
        assert!(
            broken[0].contains("/p.yaml refused at 2026-11-22 12:00:00 UTC: line 3, column 1") && broken[0].contains("no policy")
        );
        assert!(lines(&beat(Some("f"), refused, 0))[0].ends_with("the policy before it stays active"));
        assert_eq!(lines(&beat(None, None, 0)).len(), 1);
    }
}
