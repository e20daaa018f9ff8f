//! What is kept up to date host by host is what a count of all hosts gives.

use std::sync::Arc;

use portcullis_policy::Policy;
use portcullis_schemas::events::{Action, Hello, Inventory, Request};
use proptest::prelude::*;

use crate::Fleet;
use crate::testing::{World, asked, at, hello, id, request, seen};

const POLICY: &str = "
version: 1
cool_down_after_manual_release: 0s
limits:
  - { name: fleet, isolated: 100%, new: { count: 100000, per: 1h } }
  - { name: site, by: host.label.site, isolated: 100% }
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: rest, then: observe }
";

#[derive(Clone, Debug)]
enum Step {
    Isolate(u8),
    Release(u8),
    /// Laid over and taken back.
    Lost(u8),
    Moves(u8, bool),
    Silent(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u8..5).prop_map(Step::Isolate),
        2 => (1u8..5).prop_map(Step::Release),
        2 => (1u8..6).prop_map(Step::Lost),
        2 => (1u8..6, any::<bool>()).prop_map(|(host, north)| Step::Moves(host, north)),
        1 => (1u8..5).prop_map(Step::Silent),
    ]
}

/// Every figure of every scope.
fn figures(fleet: &Fleet) -> Vec<(u64, u64, u64)> {
    let scopes = [(0, None), (1, Some("north")), (1, Some("south")), (1, Some(""))];
    let of = |(limit, scope): (usize, Option<&str>)| {
        let count = fleet.tally().count(limit, scope);
        (count.base(at(30 * 3_600)), count.isolated(), count.lately(portcullis_schemas::time::Span::hours(2), at(3_600)))
    };
    let by_source = fleet.tally().by_source("edr", portcullis_schemas::time::Span::hours(2), at(3_600));
    scopes.into_iter().map(of).chain([(by_source, 0, 0)]).collect()
}

proptest! {
    #[test]
    fn counts_are_kept_up_to_date(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::under(POLICY);
        (2..5).for_each(|host| drop(world.says(hello(&format!("h{host}")), 0)));
        for (second, step) in (1i64..).zip(&steps) {
            let (second, name) = (second * 60, format!("i{second}"));
            let host = |number: &u8| format!("h{number}");
            match step {
                Step::Isolate(number) => drop(world.give(&seen(&host(number), "a", &name, second))),
                Step::Release(number) => {
                    let release = Request { host: Some(id(&host(number))), ..request(Action::Release) };
                    world.give(&asked(release, &name, second));
                }
                Step::Lost(number) => {
                    let outcome = world.decide(&seen(&host(number), "a", &name, second));
                    if let Some(order) = outcome.order {
                        let displaced = world.fleet.take_order(order, String::new());
                        world.fleet.put_back(displaced);
                    }
                }
                Step::Moves(number, north) => {
                    let site = if *north { "north" } else { "south" };
                    world.says(Hello { labels: [("site".to_owned(), site.to_owned())].into(), ..hello(&host(number)) }, second);
                }
                Step::Silent(number) => {
                    let known = world.fleet.host(&id(&host(number))).and_then(|host| host.inventory.as_deref()).cloned();
                    let silent = Inventory { silent_since: Some(at(second)), ..known.expect("it is known") };
                    world.fleet.take_inventory(silent, at(second));
                }
            }
            let kept = figures(&world.fleet);
            // Under a policy of the same limits and another hash, all hosts are counted anew.
            let other = Arc::new(Policy::parse(&format!("{POLICY}# {second}\n")).expect("it is valid"));
            world.fleet.count_by(&other);
            prop_assert_eq!(figures(&world.fleet), kept, "{:?}", step);
        }
    }
}
