//! Tables: the desired state, what comes, and everything that follows.

use portcullis_schemas::Timestamp;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{LastOrder, LocalActor, LocalRelease, Order, WhenUnreachable};

use super::*;

const MINUTE: u64 = 60;

#[test]
fn an_order_is_taken_by_generation_and_posture() {
    use Posture::{Isolated, Open};
    for (what, stands, comes, effects) in [
        ("first isolation", None, (1, Isolated), "persist 1 isolated, enforce, order 1"),
        ("first order is open", None, (4, Open), "persist 4 open, order 4"),
        ("open follows isolated", Some((1, Isolated)), (2, Open), "persist 2 open, enforce, order 2"),
        ("open follows open", Some((1, Open)), (2, Open), "persist 2 open, order 2"),
        ("isolated follows isolated", Some((1, Isolated)), (3, Isolated), "persist 3 isolated, enforce, order 3"),
        ("the same generation is nothing new", Some((3, Isolated)), (3, Isolated), ""),
        ("the same generation with another posture neither", Some((3, Isolated)), (3, Open), ""),
        (
            "an older one is refused",
            Some((3, Isolated)),
            (2, Open),
            "refuse: order 2 refused: this host has already accepted order 3",
        ),
    ] {
        let mut host = host(stands.map_or(StoredRecord::Never, |(generation, posture)| taken(generation, posture)));
        let event = event(order(comes.0, comes.1));
        assert_eq!(text(&give(&mut host, &event, true, at(0))), effects, "{what}");
    }
}

#[test]
fn what_was_never_acknowledged_is_said_again() {
    let mut host = host(taken(3, Posture::Isolated));
    assert_eq!(text(&give(&mut host, &event(order(3, Posture::Isolated)), false, at(0))), "resend");
}

#[test]
fn an_order_for_another_host_is_refused_by_its_body_and_by_its_subject() {
    let mut host = host(StoredRecord::Never);
    let event = event(Order { host: id("h2"), ..order(1, Posture::Isolated) });
    assert_eq!(text(&give(&mut host, &event, true, at(0))), "refuse: order for host h2 refused: it came to this host");
    let event = self::event(order(1, Posture::Isolated));
    let effects = run(&mut host, Event::Order { subject: &id("h2"), event: &event, acknowledged: true }, at(0));
    assert_eq!(text(&effects), "refuse: order for host h2 refused: it came to this host");
}

#[test]
fn orders_up_to_the_opened_one_are_answered_once_and_only_the_next_is_obeyed() {
    let mut host = host(taken(5, Posture::Isolated));
    let opened = run(&mut host, Event::LocalRelease(actor()), at(0));
    assert_eq!(text(&opened), "persist 5 open opened 5, enforce, local 5");
    let mut comes = |generation| text(&give(&mut host, &event(order(generation, Posture::Isolated)), true, at(0)));
    assert_eq!(comes(5), "", "its own order is answered already");
    assert_eq!(comes(4), "local 5");
    assert_eq!(comes(4), "");
    assert_eq!(comes(6), "persist 6 isolated, enforce, order 6");
}

#[test]
fn expiry_bounds_the_first_taking_of_an_isolating_order_only() {
    let late = |posture| Order { expires_at: Some(time(100)), ..order(2, posture) };
    let refused = "refuse: order 2 refused: it expired at 1970-01-01T00:01:40Z, and the broker's time is \
                   1970-01-01T00:01:40Z; issue it again, order 2";
    for (what, stands, comes, effects) in [
        ("in time", StoredRecord::Never, at(99), "persist 2 isolated, enforce, order 2"),
        ("too late", StoredRecord::Never, at(100), refused),
        ("taken already", taken(2, Posture::Isolated), at(100), ""),
    ] {
        assert_eq!(text(&give(&mut host(stands), &event(late(Posture::Isolated)), true, comes)), effects, "{what}");
    }
    assert_eq!(
        text(&give(&mut host(taken(1, Posture::Isolated)), &event(late(Posture::Open)), true, at(900))),
        "persist 2 open, enforce, order 2"
    );
    let mut host = host(StoredRecord::Never);
    assert_eq!(give(&mut host, &event(late(Posture::Isolated)), true, at(100)).len(), 2);
    assert_eq!(give(&mut host, &event(late(Posture::Isolated)), true, at(100)), [], "said once");
}

#[test]
fn a_host_whose_clock_is_ahead_by_more_than_the_isolation_lasts_can_be_isolated() {
    let order = event(Order { expires_at: Some(time(100)), ..order(1, Posture::Isolated) });
    let year = 365 * 86_400;
    let takes = |wall: i64, broker: Option<i64>| {
        let now = Now { wall: time(wall), broker: broker.map(time), ..at(0) };
        text(&give(&mut host(StoredRecord::Never), &order, true, now)) == "persist 1 isolated, enforce, order 1"
    };
    for wall in [99 + 3_600, 99 + year, 0, -year] {
        assert!(takes(wall, Some(99)), "in time by the broker's clock, {wall} by the host's");
        assert!(!takes(wall, Some(100)), "too late by the broker's clock, {wall} by the host's");
        assert!(takes(wall, None), "nothing says that it is too late");
    }
}

#[test]
fn an_order_that_needs_a_newer_agent_is_not_taken() {
    for (needs, takes) in
        [("0.1.0", true), ("0.0.9", true), ("0.1.1", false), ("1.0.0-rc1", false), ("new", false), ("0.1", false)]
    {
        let event = event(Order { min_agent: Some(needs.into()), ..order(1, Posture::Isolated) });
        let effects = give(&mut host(StoredRecord::Never), &event, true, at(0));
        assert_eq!(matches!(effects[0], Effect::FreezeFacts { .. }), takes, "{needs}");
        if !takes {
            assert!(matches!(&effects[1], Effect::Report(Report { error: Some(_), generation: 1, .. })), "{effects:?}");
        }
    }
}

#[test]
fn the_deadline_opens_after_the_grace_time_where_the_order_says_so() {
    use WhenUnreachable::{Release, Stay};
    let opens = "persist 1 open opened 1, enforce, deadline 1";
    for (what, unreachable, second, effects) in [
        ("before", Release, 10 * MINUTE, "persist 1 isolated"),
        ("in the grace time", Release, 15 * MINUTE - 1, "persist 1 isolated"),
        ("after it", Release, 15 * MINUTE, opens),
        ("stay", Stay, 99 * MINUTE, "persist 1 isolated"),
    ] {
        let mut host = host(StoredRecord::Never);
        let order = Order { release_at: Some(time(600)), when_unreachable: unreachable, ..order(1, Posture::Isolated) };
        apply_order(&mut host, order, at(0));
        assert_eq!(text(&run(&mut host, Event::Tick, at(second))), effects, "{what}");
    }
}

#[test]
fn a_host_whose_way_to_the_broker_the_isolation_has_cut_opens_after_the_grace_time_where_the_order_says_so() {
    use WhenUnreachable::{Release, Stay};
    let opens = "persist 1 open opened 1, enforce, deadline 1";
    for (what, unreachable, lost, second, effects) in [
        ("in the grace time", Release, true, 5 * MINUTE - 1, ""),
        ("after it", Release, true, 5 * MINUTE, opens),
        ("stay", Stay, true, 99 * MINUTE, ""),
        ("lost otherwise, or not lost", Release, false, 99 * MINUTE, ""),
    ] {
        // Also where the isolation has no end of its own.
        let mut host = host(StoredRecord::Never);
        apply_order(&mut host, Order { when_unreachable: unreachable, ..order(1, Posture::Isolated) }, at(0));
        run(&mut host, Event::Lost(lost.then_some(Lost { since_ms: 0 })), at(0));
        assert_eq!(host.deadline(&at(0)), (lost && unreachable == Release).then_some(Duration::from_secs(5 * MINUTE)), "{what}");
        let told = run(&mut host, Event::Tick, at(second));
        assert_eq!(text(&told), effects, "{what}");
        let why =
            |effect: &Effect| matches!(effect, Effect::Report(Report { error: Some(why), .. }) if why.contains("cut the route"));
        assert_eq!(told.iter().any(why), !effects.is_empty(), "{what}");
    }
}

#[test]
fn a_step_of_the_wall_clock_releases_nothing() {
    let mut host = host(StoredRecord::Never);
    apply_order(&mut host, Order { release_at: Some(time(600)), ..order(1, Posture::Isolated) }, at(0));
    let stepped = Now { wall: time(86_400), ..at(30) };
    assert_eq!(text(&run(&mut host, Event::Tick, stepped)), "");
}

#[test]
fn after_a_start_orders_are_waited_for_although_the_deadline_is_long_over() {
    let mut host = host(StoredRecord::Never);
    apply_order(&mut host, Order { release_at: Some(time(600)), ..order(1, Posture::Isolated) }, at(0));
    let reboot = |second: u64| Now { boot_id: "two".into(), boot_ms: (second - 7_200) * 1_000, ..at(second) };
    let start = run(&mut host, Event::Start { enforced: Posture::Open, recorded: false }, reboot(7_200));
    assert_eq!(text(&start), "persist 1 isolated, enforce, boot 1");
    assert_eq!(host.deadline(&reboot(7_201)), Some(Duration::from_secs(59)));
    assert_eq!(text(&run(&mut host, Event::Tick, reboot(7_200 + 299))), "persist 1 isolated");
    assert_eq!(text(&run(&mut host, Event::Tick, reboot(7_200 + 300))), "persist 1 open opened 1, enforce, deadline 1");
}

#[test]
fn a_temporary_exclusion_ends_by_itself() {
    let mut host = host(StoredRecord::Never);
    let exclusion = serde_json::json!({ "name": "x", "direction": "out", "protocol": "tcp", "remote": "any", "until": time(30) });
    let exclusions = vec![serde_json::from_value(exclusion).unwrap()];
    apply_order(&mut host, Order { exclusions, ..order(1, Posture::Isolated) }, at(0));
    assert_eq!(host.deadline(&at(10)), Some(Duration::from_secs(20)));
    assert_eq!(text(&run(&mut host, Event::Tick, at(29))), "");
    let effects = run(&mut host, Event::Tick, at(30));
    assert_eq!(text(&effects), "persist 1 isolated, enforce, check 1");
    assert_eq!(text(&run(&mut host, Event::Tick, at(31))), "");
}

#[test]
fn a_local_release_needs_an_order_that_allows_it() {
    use LocalRelease::{Off, Root, Token};
    for (allowed, effects) in [
        (Root, "persist 1 open opened 1, enforce, local 1"),
        (Off, "refuse: the order in force does not allow a local release; ask an operator of the orchestrator"),
        (
            Token,
            "refuse: the order in force requires a release token, which this agent cannot check yet; ask an operator of the orchestrator",
        ),
    ] {
        let mut host = host(StoredRecord::Never);
        apply_order(&mut host, Order { local_release: allowed, ..order(1, Posture::Isolated) }, at(0));
        assert_eq!(text(&run(&mut host, Event::LocalRelease(actor()), at(1))), effects);
    }
    for stands in [StoredRecord::Never, taken(2, Posture::Open)] {
        assert_eq!(text(&run(&mut host(stands), Event::LocalRelease(actor()), at(1))), "refuse: this host is already open");
    }
}

#[test]
fn a_lost_record_isolates_until_an_order_comes_or_root_opens() {
    assert_eq!(
        text(&run(&mut host(StoredRecord::Lost), Event::Start { enforced: Posture::Open, recorded: false }, at(0))),
        "enforce, posture_lost 0"
    );
    let open = event(order(7, Posture::Open));
    assert_eq!(text(&give(&mut host(StoredRecord::Lost), &open, true, at(0))), "persist 7 open, enforce, order 7");
    let local = run(&mut host(StoredRecord::Lost), Event::LocalRelease(actor()), at(0));
    assert_eq!(text(&local), "persist 0 open opened 0, enforce, local 0");
}

#[test]
fn a_start_restores_and_says_whether_the_machine_booted() {
    assert_eq!(text(&run(&mut host(StoredRecord::Never), Event::Start { enforced: Posture::Open, recorded: false }, at(0))), "");
    let mut same = host(taken(3, Posture::Isolated));
    assert_eq!(
        text(&run(&mut same, Event::Start { enforced: Posture::Open, recorded: false }, at(9))),
        "persist 3 isolated, enforce, check 3"
    );
    let mut booted = host(taken(3, Posture::Open));
    let now = Now { boot_id: "two".into(), ..at(9) };
    assert_eq!(
        text(&run(&mut booted, Event::Start { enforced: Posture::Open, recorded: false }, now)),
        "persist 3 open, enforce, boot 3"
    );
}

#[test]
fn a_start_tells_an_opening_until_the_broker_has_stored_it() {
    let mut host = host(taken(3, Posture::Isolated));
    run(&mut host, Event::LocalRelease(actor()), at(0));
    assert_eq!(
        text(&run(&mut host, Event::Start { enforced: Posture::Open, recorded: false }, at(9))),
        "persist 3 open opened 3, enforce, local 3, check 3"
    );
    run(&mut host, Event::Acknowledged, at(9));
    assert_eq!(
        text(&run(&mut host, Event::Start { enforced: Posture::Open, recorded: false }, at(9))),
        "persist 3 open opened 3, enforce, check 3"
    );
}

#[test]
fn the_record_of_another_host_is_kept_and_any_order_of_mine_ends_it() {
    let StoredRecord::Known(mut record) = taken(50, Posture::Isolated) else { unreachable!() };
    record.host = id("clone");
    let mut host = host(StoredRecord::Known(record));
    assert_eq!(
        text(&run(&mut host, Event::Start { enforced: Posture::Open, recorded: false }, at(0))),
        "persist 50 isolated, enforce, check 0"
    );
    assert_eq!(text(&give(&mut host, &event(order(1, Posture::Open)), true, at(0))), "persist 1 open, enforce, order 1");
}

#[test]
fn a_log_that_ends_below_what_stands_is_given_the_isolation_again() {
    let says = |stands: StoredRecord, generation| run(&mut host(stands), Event::LogEnds { generation }, at(0));
    for lost in [0, 2] {
        let effects = says(taken(3, Posture::Isolated), lost);
        let [Effect::Report(report)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!((report.generation, report.cause), (3, StateCause::Check));
        assert_eq!(report.last_order, LastOrder::of(&order(3, Posture::Isolated)).map(Box::new));
    }
    let effects = says(taken(3, Posture::Open), 0);
    assert!(matches!(effects.as_slice(), [Effect::Report(report)] if report.last_order.is_none()), "{effects:?}");
    for (stands, generation) in [(taken(3, Posture::Isolated), 3), (StoredRecord::Never, 0), (StoredRecord::Lost, 0)] {
        assert_eq!(says(stands, generation), []);
    }
}

#[test]
fn what_was_frozen_stays_frozen_while_isolated() {
    let mut host = host(taken(1, Posture::Isolated));
    let before = FrozenFacts { resolvers: vec!["10.0.0.53".parse().unwrap()], ..FrozenFacts::default() };
    host.settings.stored.record_mut().unwrap().frozen = Some(before.clone());
    let known = |effects: &[Effect]| match &effects[0] {
        Effect::FreezeFacts { known, .. } => known.as_ref().map(|known| known.resolvers.clone()),
        other => panic!("{other:?}"),
    };
    let follow = give(&mut host, &event(order(2, Posture::Isolated)), true, at(0));
    assert_eq!(known(&follow), Some(before.resolvers));
    run(&mut host, Event::LocalRelease(actor()), at(0));
    let again = give(&mut host, &event(order(3, Posture::Isolated)), true, at(0));
    assert_eq!(known(&again), None);
}

#[test]
fn a_host_does_not_lock_itself_out_and_never_opens_for_that() {
    let mut host = host(StoredRecord::Never);
    run(&mut host, Event::CutOff(Some("a tunnel".into())), at(0));
    let isolate = event(order(1, Posture::Isolated));
    assert_eq!(text(&give(&mut host, &isolate, true, at(0))), "refuse: order 1 refused: a tunnel, order 1");
    assert_eq!(text(&give(&mut host, &isolate, true, at(1))), "", "told once");
    run(&mut host, Event::CutOff(None), at(0));
    let taken = give(&mut host, &isolate, true, at(2));
    assert_eq!(text(&taken), "persist 1 isolated, enforce, order 1", "taken as soon as it can be");
    run(&mut host, Event::CutOff(Some("a tunnel".into())), at(0));
    assert_eq!(
        text(&run(&mut host, Event::Start { enforced: Posture::Open, recorded: false }, at(3))),
        "persist 1 isolated, enforce, check 1"
    );
    let change = give(&mut host, &event(order(2, Posture::Isolated)), true, at(4));
    assert_eq!(text(&change), "persist 2 isolated, enforce, order 2");
    assert_eq!(text(&give(&mut host, &event(order(3, Posture::Open)), true, at(5))), "persist 3 open, enforce, order 3");
}

pub(super) fn host(stored: StoredRecord) -> Machine {
    Machine::new(Settings {
        me: id("h1"),
        agent_version: "0.1.0".into(),
        grace: Duration::from_secs(5 * MINUTE),
        stored,
        brokers: Vec::new(),
        agent_uid: 0,
        proof: Proof::new(1),
    })
}

pub(super) fn order(generation: u64, posture: Posture) -> Order {
    let issued_by = serde_json::json!({ "type": "request", "token": "ann", "source": "/cli", "id": generation.to_string() });
    let hold = serde_json::json!({ "origin": "manual", "causes": [issued_by], "generation": generation, "since": time(0) });
    let order = serde_json::json!({
        "host": "h1", "generation": generation, "posture": posture, "when_unreachable": "release", "local_release": "root",
        "holds": if posture == Posture::Isolated { vec![hold] } else { Vec::new() },
        "exclusions": [], "incident": "i1", "issued_at": time(0), "issued_by": issued_by, "reason": "test", "settled": [],
        "prev": "0".repeat(64),
    });
    serde_json::from_value(order).unwrap()
}

pub(super) fn event(order: Order) -> envelope::Event<Order> {
    envelope::Event {
        id: format!("order-{}", order.generation),
        source: "/portcullis".into(),
        subject: Some(order.host.to_string()),
        time: None,
        traceparent: None,
        correlation: None,
        causation: None,
        data: order,
    }
}

fn give(host: &mut Machine, event: &envelope::Event<Order>, acknowledged: bool, now: Now) -> Vec<Effect> {
    run(host, Event::Order { subject: &id("h1"), event, acknowledged }, now)
}

/// All that follows where disk and kernel do at once what they are asked for.
#[test]
fn a_lookup_that_is_under_way_delays_no_release_and_no_order_beyond_its_own_end() {
    use Posture::{Isolated, Open};
    let slow = |host: &mut Machine, event: Event<'_>| {
        host.handle(event, &at(0));
        let mut effects = Vec::new();
        while let Some(effect) = host.next_effect() {
            if let Some(answer) = done(&effect).filter(|answer| !matches!(answer, Event::FrozenFacts(_))) {
                host.handle(answer, &at(0));
            }
            effects.push(effect);
        }
        (text(&effects), effects.iter().filter(|effect| matches!(effect, Effect::FreezeFacts { .. })).count())
    };
    let order = |host: &mut Machine, generation, posture| {
        let event = event(order(generation, posture));
        let subject = event.data.host.clone();
        slow(host, Event::Order { subject: &subject, event: &event, acknowledged: true })
    };
    let answer = |address: &str| {
        Event::FrozenFacts(Box::new(FrozenFacts { resolvers: vec![address.parse().unwrap()], ..FrozenFacts::default() }))
    };
    let resolvers = |host: &Machine| host.frozen().map(|frozen| frozen.resolvers[0].to_string());

    let mut host = host(StoredRecord::Never);
    assert_eq!(order(&mut host, 1, Isolated), (String::new(), 1));
    for generation in 2..=9 {
        assert_eq!(order(&mut host, generation, Isolated), (String::new(), 0), "{generation}");
    }
    assert_eq!(slow(&mut host, answer("10.0.0.1")), ("persist 9 isolated, enforce, order 9".into(), 0));
    assert_eq!(resolvers(&host), Some("10.0.0.1".into()));

    assert_eq!(order(&mut host, 10, Isolated).1, 1, "on an isolated host names are looked up as well");
    assert_eq!(order(&mut host, 11, Open), ("persist 11 open, enforce, order 11".into(), 0));
    assert_eq!(order(&mut host, 12, Isolated), (String::new(), 0));
    assert_eq!(slow(&mut host, answer("10.0.0.2")), (String::new(), 1), "an answer for another isolation is not taken");
    assert_eq!(slow(&mut host, answer("10.0.0.3")), ("persist 12 isolated, enforce, order 12".into(), 0));
    assert_eq!(resolvers(&host), Some("10.0.0.3".into()));
}

fn run(host: &mut Machine, event: Event<'_>, now: Now) -> Vec<Effect> {
    host.handle(event, &now);
    let mut effects = Vec::new();
    while let Some(effect) = host.next_effect() {
        if let Some(answer) = done(&effect) {
            host.handle(answer, &now);
        }
        effects.push(effect);
    }
    effects
}

/// The answer to an effect that has worked.
pub(super) fn done(effect: &Effect) -> Option<Event<'static>> {
    Some(match effect {
        Effect::FreezeFacts { known, .. } => Event::FrozenFacts(known.clone().unwrap_or_default()),
        Effect::WriteState { copy, record } => Event::Written { copy: *copy, serial: record.serial, written: Written::Replaced },
        Effect::Prepare(_) => Event::Prepared,
        Effect::Activate(_) => Event::Activated(whole()),
        Effect::Compare { .. } => Event::Compared(None),
        Effect::Release => Event::Released { enforced: Posture::Open, error: None },
        Effect::Report(_) | Effect::Resend | Effect::Refuse(_) => return None,
    })
}

fn whole() -> Activation {
    Activation { enforced: Posture::Isolated, whole: true, proof: None, standing: Vec::new(), error: None }
}

pub(super) fn actor() -> LocalActor {
    LocalActor { uid: 0, login_uid: None, tty: None, parent: None, reason: None }
}

pub(super) fn at(second: u64) -> Now {
    let wall = time(second as i64);
    Now { wall, broker: Some(wall), boot_ms: second * 1_000, boot_id: "one".into() }
}

fn taken(generation: u64, posture: Posture) -> StoredRecord {
    let mut host = host(StoredRecord::Never);
    apply_order(&mut host, order(generation, posture), at(0));
    host.settings.stored
}

fn apply_order(host: &mut Machine, order: Order, now: Now) {
    give(host, &event(order), true, now);
}

/// Without the second copy, which follows everything, and without what is staged.
fn text(effects: &[Effect]) -> String {
    let one = |effect: &Effect| {
        Some(match effect {
            Effect::WriteState { copy: CopyName::A, record } => {
                let opened = record.opened.as_ref().map(|opened| format!(" opened {}", opened.generation)).unwrap_or_default();
                format!("persist {} {}{opened}", record.generation, record.posture.as_str())
            }
            Effect::Activate(_) | Effect::Release => "enforce".into(),
            Effect::Report(report) => {
                let cause = serde_json::to_value(report.cause).unwrap();
                format!("{} {}", cause.as_str().unwrap(), report.generation)
            }
            Effect::Compare { .. } => "compare".into(),
            Effect::Resend => "resend".into(),
            Effect::Refuse(refusal) => format!("refuse: {refusal}"),
            Effect::FreezeFacts { .. } | Effect::Prepare(_) | Effect::WriteState { copy: CopyName::B, .. } => return None,
        })
    };
    effects.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

fn id(text: &str) -> HostId {
    text.parse().unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(seconds, 0).unwrap()
}
