//! Which policy decides: by request, by the file of the leader, and after a takeover.

use portcullis_schemas::events::{NoticeKind, PolicyActivated, Request, Verdict};

use super::*;
use crate::testing::{HOUR, second};

#[test]
fn a_request_activates_a_policy_in_one_batch_with_its_answer() {
    let mut desk = Desk::new();
    let (hash, text) = other();
    desk.activate(5, Some(&hash), None);
    desk.expect(&[&format!("fetch policy {}", &hash[..4])]);
    // What comes meanwhile is decided by the policy that is active.
    desk.detect(1, "a", 1);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    let appended = desk.appended();
    let [record, answer] = &appended[..] else { panic!("two messages") };
    desk.expect(&["notify", "append DECISIONS 3: decision._policy decision._unresolved"]);
    let record = envelope::decode::<PolicyActivated>(std::iter::empty(), record.as_bytes()).expect("a record");
    assert_eq!(record.data.activated_by, "ann");
    assert_eq!(record.data.hash.as_ref(), Some(&hash));
    assert_eq!(record.time.map(second), Some(1), "the time of the request");
    let answer = envelope::decode::<Decision>(std::iter::empty(), answer.as_bytes()).expect("a decision").data;
    assert_eq!((answer.verdict, &answer.reason), (Verdict::Apply, &Reason::Operator));
    assert_ne!(answer.facts.policy.as_ref(), Some(&hash), "it is answered under the policy before it");
    desk.detect(2, "a", 2);
    desk.expect(&[]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Apply", "policy", "ack 5", "append DECISIONS 5: decision.h1"]);
    assert_eq!(desk.decision(1).data.facts.policy, Some(hash.clone()));
    assert_eq!(desk.machine.active_policy(), Some(&*hash));
}

#[test]
fn a_policy_that_was_read_waits_for_the_one_before_it() {
    let mut desk = Desk::new();
    let (hash, text) = other();
    let third = POLICY.replace("rest", "third");
    let third_hash = ids::sha256(third.as_bytes());
    desk.activate(5, Some(&hash), None);
    desk.activate(6, Some(&third_hash), Some(&hash));
    desk.give(Event::PolicyFetched(third_hash.clone(), Ok(Some(third))));
    desk.commands.clear();
    desk.stored(Log::Decisions);
    // The second was read first, and what it is to replace is not active yet.
    desk.expect(&["verdict Refuse", "ack 6"]);
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    desk.stored(Log::Decisions);
    assert_eq!(desk.machine.active_policy(), Some(&*hash));
}

#[test]
fn an_invalid_policy_is_never_taken() {
    let bad = "version: 1\nrules:\n  - name: rest\n    then: isolat\n".to_owned();
    let (hash, text) = other();
    let rows = [
        (ids::sha256(bad.as_bytes()), Ok(Some(bad)), "line 4, column 11"),
        (hash.clone(), Ok(None), "no text is kept"),
        ("0".repeat(64), Ok(Some(text)), "another one"),
    ];
    for (hash, read, problem) in rows {
        let mut desk = Desk::new();
        let before = desk.machine.active_policy().map(str::to_owned);
        desk.activate(5, Some(&hash), before.as_deref());
        desk.commands.clear();
        desk.give(Event::PolicyFetched(hash.clone(), read));
        desk.expect(&["notify", "append DECISIONS 2: decision._unresolved"]);
        let answer = desk.decision(1).data;
        assert_eq!(answer.verdict, Verdict::Refuse);
        assert!(matches!(&answer.reason, Reason::BadPolicy { problem: found, .. } if found.contains(problem)), "{answer:?}");
        desk.stored(Log::Decisions);
        desk.expect(&["verdict Refuse", "ack 5"]);
        assert_eq!(desk.machine.active_policy().map(str::to_owned), before);
        assert_eq!(desk.machine.policy_in_use().map(str::to_owned), before);
    }
}

#[test]
fn what_is_no_policy_or_comes_too_late_is_refused_without_a_word_of_its_text() {
    let (hash, text) = other();
    let active = ids::sha256(POLICY.as_bytes());
    let moved = Reason::PolicyMoved { active: Some(active.clone()), expected: Some(hash.clone()) };
    let incomplete = |problem: &str| Reason::Incomplete { member: "policy".into(), problem: problem.into() };
    let rows = [
        (None, None, incomplete("is missing: write the SHA-256 of the text, in hex")),
        (Some("policy.>"), None, incomplete("is no SHA-256: write 64 hexadecimal digits in lower case")),
        (Some(&*hash), Some(&*hash), moved),
        (Some(&*active), Some(&*active), Reason::Settled),
    ];
    for (policy, replaces, reason) in rows {
        let mut desk = Desk::new();
        desk.activate(5, policy, replaces);
        if let Some(hash) = policy {
            desk.give(Event::PolicyFetched(hash.to_owned(), Ok(Some(text.clone()))));
        }
        assert_eq!(desk.decision(1).data.reason, reason);
        desk.stored(Log::Decisions);
        assert_eq!(desk.machine.active_policy(), Some(&*active));
    }
}

#[test]
fn a_text_that_cannot_be_read_now_is_read_again() {
    let mut desk = Desk::new();
    let (hash, text) = other();
    desk.activate(5, Some(&hash), None);
    desk.give(Event::PolicyFetched(hash.clone(), Err("no answer".into())));
    let fetch = format!("fetch policy {}", &hash[..4]);
    desk.expect(&[&fetch, "retry read the text of a policy in 1000 ms"]);
    desk.millis = 1_000;
    desk.give(Event::Tick);
    desk.expect(&[&fetch]);
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    desk.stored(Log::Decisions);
    assert_eq!(desk.machine.active_policy(), Some(&*hash));
}

#[test]
fn an_activation_whose_append_is_unclear_is_whole_or_not_there() {
    for is_stored in [false, true] {
        let mut desk = Desk::new();
        let (hash, text) = other();
        desk.activate(5, Some(&hash), None);
        desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
        let bodies = desk.appended();
        desk.commands.clear();
        desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
        let subjects = ["decision._policy", "decision._unresolved"];
        let messages = subjects.iter().zip(bodies).zip(3..).map(|((subject, body), at)| stored(subject, body, at));
        desk.read(Log::Decisions, Ok(if is_stored { messages.collect() } else { Vec::new() }));
        if !is_stored {
            desk.millis = 50;
            desk.give(Event::Tick);
            desk.read(Log::Decisions, Ok(Vec::new()));
            desk.stored(Log::Decisions);
        }
        assert!(desk.commands.iter().any(|command| line(command).as_deref() == Some("ack 5")));
        assert_eq!(desk.machine.active_policy(), Some(&*hash));
        desk.commands.clear();
        // It comes again.
        desk.activate(5, Some(&hash), None);
        desk.expect(&["ack 5"]);
    }
}

#[test]
fn a_new_leader_decides_by_the_policy_of_the_log_and_not_by_its_file() {
    let (hash, text) = other();
    let mut desk = Desk::following();
    // An operator's, read from the log while it follows.
    desk.give(Event::Logged(Stream::Decisions, activated(&hash, "ann", HOUR)));
    desk.expect(&[&format!("fetch policy {}", &hash[..4])]);
    desk.millis = 2 * 3_600_000;
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    let file = ids::sha256(POLICY.as_bytes());
    let said = Report::FileNotActive { file, active: hash.clone(), by: "ann".into() };
    assert!(desk.commands.iter().any(|command| matches!(command, Command::Report(report) if *report == said)));
    desk.commands.clear();
    desk.detect(1, "other", 1);
    desk.expect(&["append DECISIONS 3: decision.h1"]);
    let decision = desk.decision(1).data;
    assert_eq!((decision.facts.policy.as_ref(), decision.rule.as_deref()), (Some(&hash), Some("others")));
}

#[test]
fn a_detection_waits_for_the_text_of_the_active_policy_and_a_release_does_not() {
    let (hash, text) = other();
    let mut desk = Desk::without_policy();
    desk.give(Event::Logged(Stream::Decisions, activated(&hash, "ann", 0)));
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    desk.commands.clear();
    desk.detect(1, "other", 1);
    desk.expect(&[]);
    desk.release(2);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    desk.expect(&["append DECISIONS 4: decision.h1"]);
    assert_eq!(desk.decision(1).data.facts.policy, Some(hash));
}

#[test]
fn without_the_text_of_the_active_policy_detections_wait_for_a_person() {
    let (hash, _) = other();
    let mut desk = Desk::without_policy();
    desk.give(Event::Logged(Stream::Decisions, activated(&hash, "ann", 0)));
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    desk.detect(1, "a", 1);
    desk.commands.clear();
    desk.give(Event::PolicyFetched(hash, Ok(None)));
    let came: Vec<String> = desk.commands.iter().filter_map(line).collect();
    assert!(came[0].starts_with("PolicyMissing"), "{came:?}");
    assert_eq!(desk.decision(1).data.reason, Reason::NoPolicy);
    assert_eq!(desk.machine.policy_in_use(), None);
}

#[test]
fn the_file_of_the_active_policy_decides_where_its_text_was_missing_before() {
    let (hash, text) = other();
    let mut desk = Desk::without_policy();
    desk.give(Event::Logged(Stream::Decisions, activated(&hash, "ann", 0)));
    desk.give(Event::PolicyFetched(hash.clone(), Ok(None)));
    desk.give(Event::Policy(Policy::parse(&text).expect("valid").into()));
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    desk.detect(1, "other", 1);
    assert_eq!(desk.decision(1).data.facts.policy, Some(hash));
}

#[test]
fn a_file_that_changed_is_activated_and_one_that_did_not_undoes_nothing() {
    let (hash, text) = other();
    let mut desk = Desk::new();
    let file = Policy::parse(POLICY).expect("valid");
    desk.activate(5, Some(&hash), None);
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.give(Event::Policy(file.into()));
    desk.expect(&[]);
    let changed = Policy::parse(&POLICY.replace("rest", "third")).expect("valid");
    desk.give(Event::Policy(changed.into()));
    desk.expect(&["notify", "append DECISIONS 4: decision._policy"]);
}

#[test]
fn at_the_start_the_file_is_activated_where_the_file_of_another_start_was() {
    let (hash, text) = other();
    // Who activated it, when; and whether the file that is read at second 100 takes its place.
    for (by, at, is_replaced) in [("file", 50, true), ("file", 150, false), ("ann", 50, false), ("ann", 150, false)] {
        let mut desk = Desk::without_policy();
        desk.millis = 100_000;
        desk.give(Event::Policy(Policy::parse(POLICY).expect("valid").into()));
        desk.give(Event::Logged(Stream::Decisions, activated(&hash, by, at)));
        desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text.clone()))));
        desk.give(Event::Lead);
        desk.stored(Log::Decisions);
        desk.commands.clear();
        desk.stored(Log::Orders);
        let appends = desk.commands.iter().any(|command| matches!(command, Command::Append { .. }));
        assert_eq!(appends, is_replaced, "by {by} at {at}");
    }
}

#[test]
fn who_follows_again_forgets_what_was_asked() {
    let mut desk = Desk::new();
    let (hash, text) = other();
    desk.activate(5, Some(&hash), None);
    desk.give(Event::Logged(Stream::Decisions, stored("decision._term", term(2, "other", None), 3)));
    desk.commands.clear();
    desk.give(Event::PolicyFetched(hash, Ok(Some(text))));
    desk.expect(&[]);
}

#[test]
fn a_notice_tells_of_each_policy_that_decides_or_is_refused() {
    let mut desk = Desk::new();
    let (hash, text) = other();
    desk.activate(5, Some(&hash), None);
    desk.give(Event::PolicyFetched(hash.clone(), Ok(Some(text))));
    let notices = desk.commands.iter().find_map(|command| match command {
        Command::Notify(notices) => Some(notices.clone()),
        _ => None,
    });
    let notices = notices.expect("a notice");
    let notice = envelope::decode::<portcullis_schemas::events::Notice>(std::iter::empty(), &notices[0].body).expect("a notice");
    assert_eq!(notice.data.kind, NoticeKind::Policy);
    let first = ids::sha256(POLICY.as_bytes());
    let text = format!("policy {} is active in place of {}, by ann: fewer alerts", &hash[..12], &first[..12]);
    assert_eq!(notice.data.text, text);
}

#[test]
fn a_policy_that_is_seen_in_the_log_decides_from_there_and_is_recorded_once() {
    let mut desk = Desk::new();
    let other = Policy::parse(&POLICY.replace("rest", "others")).expect("the test's policy is valid");
    let hash = other.hash().to_owned();
    desk.give(Event::Policy(other.into()));
    desk.expect(&["notify", "append DECISIONS 2: decision._policy"]);
    let record = desk.appended().remove(0);
    desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
    desk.read(Log::Decisions, Err("no answer".into()));
    desk.expect(&["read DECISIONS 2", "retry read the rest of the log in 50 ms"]);
    desk.give(Event::Logged(Stream::Decisions, stored("decision._policy", record, 3)));
    desk.detect(1, "other", 1);
    desk.expect(&["policy", "append DECISIONS 3: decision.h1"]);
    assert_eq!(desk.decision(1).data.facts.policy, Some(hash));
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Observe", "ack 1"]);
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.expect(&["read DECISIONS 4"]);
}

#[test]
fn the_policy_that_was_given_last_is_active_in_the_end() {
    let mut desk = Desk::new();
    let first = desk.machine.active_policy().map(str::to_owned);
    let read = |text: &str| Policy::parse(text).expect("the test's policy is valid").into();
    desk.give(Event::Policy(read(&POLICY.replace("rest", "others"))));
    desk.give(Event::Policy(read(POLICY)));
    desk.stored(Log::Decisions);
    desk.stored(Log::Decisions);
    desk.expect(&[
        "notify",
        "append DECISIONS 2: decision._policy",
        "policy",
        "notify",
        "append DECISIONS 3: decision._policy",
        "policy",
    ]);
    assert_eq!(desk.machine.active_policy().map(str::to_owned), first);
}

/// Another policy by its hash, with its text.
fn other() -> (String, String) {
    let text = POLICY.replace("rest", "others");
    (ids::sha256(text.as_bytes()), text)
}

/// The record of an activation at this second, behind nothing.
fn activated(hash: &str, by: &str, second: i64) -> Message {
    let data = PolicyActivated { hash: Some(hash.into()), activated_by: by.into(), reason: None, term: 1 };
    let (subject, traceparent, correlation, causation) = Default::default();
    let (id, source, time) = ("p".into(), "/test".into(), Some(at(second)));
    let event = Envelope { id, source, subject, time, traceparent, correlation, causation, data };
    let body = envelope::encode(&event).expect("the test's event is written");
    stored("decision._policy", String::from_utf8(body).expect("an event is text"), 2)
}

impl Desk {
    fn activate(&mut self, sequence: u64, policy: Option<&str>, replaces: Option<&str>) {
        let data = Request {
            host: None,
            policy: policy.map(str::to_owned),
            replaces: replaces.map(str::to_owned),
            reason: Some("fewer alerts".into()),
            ..request(Action::ActivatePolicy)
        };
        let message = stored("request.ann._fleet", body(&format!("p{sequence}"), data), sequence);
        self.deliver(Stream::Requests, message, 1);
    }
}
