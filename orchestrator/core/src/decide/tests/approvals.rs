//! What people are asked, how they answer, and what follows.

use portcullis_schemas::events::{Effect, For, IfUnanswered, Question};

use super::*;

#[test]
fn a_rule_that_asks_is_pending_until_somebody_says_yes() {
    let mut world = World::new();
    let outcome = world.decide(&seen("h1", "ask", "d1", 0));
    let decision = outcome.decision.expect("a decision");
    let ask = decision.ask.expect("it is pending");
    assert_eq!((decision.verdict, decision.reason, decision.rule.as_deref()), (Verdict::Ask, Reason::Rule, Some("ask")));
    assert_eq!(
        (ask.id.clone(), ask.question, ask.approvals, ask.until),
        (world.ask_id("d1"), Question::Isolate, 1, Some(at(1_800)))
    );
    assert_eq!((ask.if_unanswered, ask.release_after, ask.request), (IfUnanswered::Observe, For::Span(Span::hours(8)), None));
    let text = &outcome.notices[0].text;
    assert!(text.contains(&format!("portcullis approve {}", ask.id)) && text.contains("on h1"), "{text}");

    assert_eq!(world.detect("ask", "d1", 0), "ask rule !!ask");
    assert_eq!(world.approve("ann", "d1", 60), "apply operator");
    let line = "isolate approved #1 -> 1 isolated [ask*1 60..28860] till 28860 !!isolated !answered";
    assert_eq!(world.ends(60), [line], "for the whole time from the approval on");
    let order = world.order().clone();
    assert_eq!((&order.issued_by, order.issued_at), (&key(InputKind::Detection, "edr", "d1"), at(60)));
    assert!(order.reason.contains("approved by ann"), "{}", order.reason);
    assert!(world.ends(9_999).is_empty(), "nothing is pending any more");
    assert_eq!(world.approve("bob", "d1", 70), "refuse not_pending");
}

#[test]
fn a_crash_between_the_order_of_an_approval_and_its_decision_orders_nothing_twice() {
    let mut world = World::new();
    world.detect("ask", "d1", 0);
    world.approve("ann", "d1", 60);
    let pending = world.control.ended(at(60)).next().cloned().expect("it is approved");
    let order = world.decide(&Input::Asked(Arc::clone(&pending))).order.expect("an order");
    world.store(order);
    let decision = world.decide(&Input::Asked(pending)).decision.expect("a decision");
    assert!(decision.asked);
    let further = vec![Reason::Approved { by: vec!["ann".into()] }];
    assert_eq!(
        (decision.verdict, decision.reason, decision.generation, decision.further),
        (Verdict::Isolate, Reason::Settled, Some(1), further)
    );
}

#[test]
fn two_approvals_are_of_two_people() {
    let mut world = World::new();
    assert_eq!(world.detect("two", "d1", 0), "ask rule !!ask");
    assert_eq!(world.approve("ann", "d1", 10), "apply approvals_missing");
    assert_eq!(world.approve("ann", "d1", 20), "refuse same_person");
    assert!(world.ends(20).is_empty());
    assert_eq!(world.approve("bob", "d1", 30), "apply operator");
    let line = "isolate approved #1 -> 1 isolated [two*1 30..7230] till 7230 !!isolated !answered";
    assert_eq!(world.ends(30), [line]);
}

#[test]
fn one_no_ends_it() {
    let mut world = World::new();
    world.detect("two", "d1", 0);
    world.approve("ann", "d1", 10);
    assert_eq!(world.deny("ann", "d1", 20), "apply operator", "also of one who said yes before");
    assert_eq!(world.approve("bob", "d1", 25), "refuse not_pending");
    assert_eq!(world.ends(20), ["observe denied !answered"]);
    assert_eq!(world.detect("two", "d2", 30), "ask rule !!ask", "another detection is asked about");
}

#[test]
fn nobody_answers_and_the_rule_says_what_then() {
    for (rule, seconds, line) in [
        ("ask", 1_800, "observe unanswered !answered"),
        ("two", 600, "isolate unanswered #1 -> 1 isolated [two*1 600..7800] till 7800 !!isolated !answered"),
    ] {
        let mut world = World::new();
        world.detect(rule, "d1", 0);
        assert!(world.ends(seconds - 1).is_empty());
        assert_eq!(world.approve("ann", "d1", seconds), "refuse not_pending", "an answer of that moment comes too late");
        assert_eq!(world.ends(seconds), [line]);
    }
}

#[test]
fn silence_isolates_nobody_where_anything_else_holds_it_back() {
    // At the question.
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    let decision = world.decide(&seen("h1", "two", "d1", 0)).decision.expect("a decision");
    assert_eq!(decision.further, [Reason::Protected { as_what: "broker".into() }]);
    world.detect("two", "d1", 0);
    assert_eq!(world.ends(600), ["observe unanswered !answered"]);
    // When its time is over.
    let mut world = World::new();
    world.detect("two", "d1", 0);
    world.ask_as("ann", "p", 10, Request { host: None, reason: Some("drill".into()), ..request(Action::Pause) });
    assert_eq!(world.ends(600), ["observe unanswered !answered"]);
    // A person's yes counts all the same.
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    world.detect("a", "d1", 0);
    world.approve("ann", "d1", 5);
    assert!(world.ends(5)[0].starts_with("isolate approved #1"));
}

#[test]
fn a_further_detection_of_the_rule_joins_what_is_pending() {
    let mut world = World::new();
    world.detect("ask", "d1", 0);
    assert_eq!(world.detect("ask", "d2", 10), "ask ask_joined");
    assert_eq!(world.detect("two", "d3", 10), "ask rule !!ask", "another rule asks for itself");
    assert_eq!(world.retract("d1", "x1", 20), "ignore retracted #1 -> 1 open []");
    assert!(world.ends(20).is_empty(), "one detection is left behind it");
    assert_eq!(world.retract("d2", "x2", 30), "ignore retracted #2 -> 2 open []");
    assert_eq!(world.ends(30), ["ignore retracted !answered"]);
    assert_eq!(world.detect("ask", "d1", 40), "ignore settled");
}

#[test]
fn a_release_ends_what_was_pending_before_it() {
    let mut world = World::new();
    world.detect("ask", "d1", 10);
    world.release("r1", 20);
    assert_eq!(world.ends(20), ["ignore superseded_by_release !answered"]);
    world.detect("ask", "d2", 30);
    world.release("r2", 25);
    assert!(world.ends(30).is_empty(), "it came later than the release was asked for");
}

#[test]
fn who_asks_to_isolate_a_protected_host_cannot_approve_it() {
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    let duration = Some(For::Span(Span::hours(2)));
    let wish = Request { duration, ticket: Some("T-1".into()), ..request(Action::Isolate) };
    assert_eq!(world.ask_as("ann", "r1", 0, wish.clone()), "ask protected !!ask");
    let of_host = || request(Action::Approve);
    assert_eq!(world.ask_as("ann", "r2", 10, of_host()), "refuse same_person");
    assert_eq!(world.ask_as("bob", "r3", 20, of_host()), "apply operator");
    let line = "isolate approved #1 -> 1 isolated [manual*1 20..7220] till 7220 !!isolated !answered";
    assert_eq!(world.ends(20), [line]);
    let order = world.order();
    assert_eq!((order.ticket.as_deref(), order.issued_by.token.as_str()), (Some("T-1"), "ann"));
    assert_eq!(
        world.ask_as("ann", "r4", 30, Request { override_protected: true, ..request(Action::Release) }),
        "release operator #2 -> 2 open [] !released"
    );
    assert!(world.ask_as("ann", "r5", 40, Request { override_protected: true, ..wish }).starts_with("isolate operator #3"));
}

#[test]
fn an_answer_names_an_approval_a_host_or_a_breaker() {
    let mut world = World::new();
    world.says(hello("h2"), 0);
    world.detect("ask", "d1", 0);
    world.detect("two", "d2", 0);
    world.give(&seen("h2", "ask", "d3", 0));
    let answer = |action, host: Option<&str>, decision: Option<&str>, breaker: Option<&str>| Request {
        host: host.map(id),
        decision: decision.map(str::to_owned),
        breaker: breaker.map(str::to_owned),
        ..request(action)
    };
    for (what, wish, line) in [
        ("nothing", answer(Action::Approve, None, None, None), "refuse incomplete"),
        ("an unknown id", answer(Action::Deny, None, Some("beef"), None), "refuse not_pending"),
        ("another host's", answer(Action::Deny, Some("h2"), Some(&world.ask_id("d1")), None), "refuse not_pending"),
        ("an unknown breaker", answer(Action::Approve, None, None, Some("beef")), "refuse not_pending"),
        ("a host without any", answer(Action::Approve, Some("h9"), None, None), "refuse not_pending"),
    ] {
        assert_eq!(world.ask_as("ann", what, 10, wish), line, "{what}");
    }
    let approve = answer(Action::Approve, Some("h1"), None, None);
    let outcome = world.decide(&asked(approve.clone(), "r1", 20));
    let decision = outcome.decision.expect("a decision");
    let mut ids = vec![world.ask_id("d1"), world.ask_id("d2")];
    ids.sort();
    assert_eq!(decision.effects, [Effect::Approved { asks: ids, by: "ann".into(), reason: None }]);
    assert_eq!((decision.host, decision.reason), (Some(id("h1")), Reason::ApprovalsMissing { approved: 1, wanted: 2 }));
    world.give(&asked(approve, "r1", 20));
    assert_eq!(world.ends(20).len(), 1, "one of them wants a second person");
}

#[test]
fn a_threshold_counts_what_comes_within_its_time() {
    let mut world = World::new();
    assert_eq!(world.detect("many", "d1", 0), "observe below_threshold");
    assert_eq!(world.detect("many", "d2", 599), "observe below_threshold");
    assert_eq!(world.detect("many", "d3", 601), "observe below_threshold", "the first is too old by then");
    let decision = world.decide(&seen("h1", "many", "d4", 700)).decision.expect("a decision");
    assert_eq!(decision.effects, [Effect::Counted { value: None, until: at(1_300), wanted: 3 }]);
    assert!(world.detect("many", "d4", 700).starts_with("isolate rule #1"));
}

#[test]
fn a_copy_of_what_is_asked_about_waits_with_it() {
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    let wish = || request(Action::Isolate);
    assert_eq!(world.ask_as("ann", "r1", 0, wish()), "ask protected !!ask");
    assert_eq!(world.ask_as("ann", "r1", 5, wish()), "ask ask_joined");
    assert_eq!(world.ask_as("ann", "r2", 5, wish()), "ask protected !!ask", "another request is one of its own");
    world.detect("ask", "d1", 10);
    world.deny("bob", "d1", 20);
    assert_eq!(world.detect("ask", "d1", 21), "ask ask_joined", "until its end is stored");
    assert_eq!(world.ends(21), ["observe denied !answered"]);
}
