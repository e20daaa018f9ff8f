//! The fold: what a decision changes can be taken back, and what lives is found again from its first record on.

use portcullis_schemas::events::{Action, Request};
use proptest::prelude::*;

use super::*;
use crate::testing::{World, asked, at, request, seen};

/// Decisions of a run in which everything happens.
fn decisions(steps: &[(u8, bool)]) -> Vec<Decision> {
    let mut world = World::new();
    world.says(crate::testing::hello("h2"), 0);
    let mut made = Vec::new();
    for (second, (what, other)) in (1i64..).zip(steps) {
        let second = second * 200;
        let (name, host) = (format!("i{second}"), if *other { "h1" } else { "h2" });
        let fleet = |action| Request { host: None, reason: Some("x".into()), ..request(action) };
        let about = |action| Request { host: host.parse().ok(), ..request(action) };
        let input = match what {
            0..=2 => seen(host, "ask", &name, second),
            3 => seen(host, "two", &name, second),
            4 | 5 => seen(host, "many", &name, second),
            6 => asked(about(Action::Approve), &name, second),
            7 => asked(about(Action::Deny), &name, second),
            8 => asked(fleet(Action::Pause), &name, second),
            9 => asked(fleet(Action::Resume), &name, second),
            10 => asked(about(Action::Release), &name, second),
            _ => match world.control.ended(at(second)).next().cloned() {
                Some(pending) => crate::Input::Asked(pending),
                None => seen(host, "a", &name, second),
            },
        };
        made.extend(world.decide(&input).decision);
        world.give(&input);
    }
    made
}

fn run() -> impl Strategy<Value = Vec<Decision>> {
    prop::collection::vec((0u8..14, any::<bool>()), 1..40).prop_map(|steps| decisions(&steps))
}

proptest! {
    #[test]
    fn what_was_laid_over_is_taken_back_without_a_trace(run in run(), stored in 0usize..40) {
        let (stored, laid) = run.split_at(stored.min(run.len()));
        let mut control = Control::default();
        for (recorded, decision) in (1..).zip(stored) {
            let _ = control.take(decision, recorded);
        }
        let whole = format!("{control:?}");
        let befores: Vec<Before> = laid.iter().map(|decision| control.take(decision, u64::MAX)).collect();
        for before in befores.into_iter().rev() {
            control.put_back(before);
        }
        // Maps without an order say the same in any.
        let sorted = |text: &str| { let mut chars: Vec<char> = text.chars().collect(); chars.sort_unstable(); chars };
        prop_assert_eq!(sorted(&format!("{control:?}")), sorted(&whole));
    }

    #[test]
    fn all_that_lives_is_known_to_one_that_reads_from_its_first_record_on(run in run()) {
        let mut control = Control::default();
        for (recorded, decision) in (1..).zip(&run) {
            let _ = control.take(decision, recorded);
            let from = control.recorded_from().unwrap_or(recorded);
            let mut late = Control::default();
            for (recorded, decision) in (1..=recorded).zip(&run).skip(from as usize - 1) {
                let _ = late.take(decision, recorded);
            }
            prop_assert_eq!(late.recorded_from(), control.recorded_from());
            prop_assert_eq!(late.asks().collect::<Vec<_>>(), control.asks().collect::<Vec<_>>());
            prop_assert_eq!((late.pause(), &late.ends, &late.counted), (control.pause(), &control.ends, &control.counted));
        }
    }
}
