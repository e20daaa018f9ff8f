//! What does not depend on how inputs are delivered: batches, redelivery, and which process decides.

use portcullis_schemas::events::{Action, Order, Posture};
use portcullis_schemas::{HostId, Timestamp};
use proptest::prelude::*;

use crate::machine::Ticket;
use crate::testing::run::{Given, HOSTS, Play, deliver, fates, play, put};
use crate::testing::site::{Fate, Site};

/// Stores all, then delivers it in this order.
fn delivered(given: &[Given], order: &[usize], play: &Play) -> Site {
    let mut site = Site::new(&HOSTS);
    let stored: Vec<Ticket> = given.iter().enumerate().filter_map(|(number, given)| put(&mut site, number, given)).collect();
    site.fates.extend(&play.fates);
    let in_order: Vec<Ticket> = order.iter().map(|at| stored[*at]).collect();
    let (mut rest, mut sizes) = (&in_order[..], play.sizes.iter().cycle());
    let mut starts = play.starts.iter().cycle();
    while !rest.is_empty() {
        let (batch, others) = rest.split_at(sizes.next().copied().unwrap_or(1).min(rest.len()));
        rest = others;
        deliver(&mut site, batch, play, starts.next().copied().unwrap_or_default());
    }
    site
}

fn in_turn(given: &[Given]) -> Vec<usize> {
    (0..given.len()).collect()
}

/// Detections and retractions: one stream, which keeps its order.
fn one_stream() -> impl Strategy<Value = Vec<Given>> {
    let rule = prop::sample::select(&["a", "a", "b", "noise", "rest", "dry", "broken"][..]);
    let host = || prop::sample::select(&HOSTS[..]);
    let given = prop_oneof![
        5 => (rule, host()).prop_map(|(rule, host)| Given::Detection(rule, host)),
        1 => (host(), 1usize..5).prop_map(|(host, before)| Given::Retraction(host, before)),
    ];
    prop::collection::vec(given, 1..24)
}

/// Detections and releases, in an order in which they may be delivered.
fn two_streams() -> impl Strategy<Value = (Vec<Given>, Vec<usize>)> {
    let rule = prop::sample::select(&["a", "a", "noise", "rest"][..]);
    let host = || prop::sample::select(&HOSTS[..]);
    let given = prop_oneof![
        3 => (rule, host()).prop_map(|(rule, host)| Given::Detection(rule, host)),
        1 => host().prop_map(|host| Given::Request(Action::Release, host)),
    ];
    let all = prop::collection::vec(given, 1..16);
    all.prop_flat_map(|all| {
        let order = Just(in_turn(&all)).prop_shuffle();
        (Just(all), order)
    })
}

/// What is wanted of each host in the end.
fn desired(site: &Site) -> Vec<(HostId, Posture, Option<Timestamp>)> {
    let of = |order: &Order| (order.host.clone(), order.posture, order.release_at);
    let hosts = site.machine.fleet().hosts();
    // An open host without an order is as open as one with it.
    let orders = hosts.filter_map(|(_, host)| host.order.as_deref()).filter(|order| order.posture == Posture::Isolated);
    orders.map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn other_batches_give_the_same_orders_and_decisions(
        given in one_stream(),
        play in play(prop::collection::vec(prop_oneof![2 => Just(Fate::Stored), 1 => Just(Fate::Unheard)], 0..24)),
    ) {
        let alone = delivered(&given, &in_turn(&given), &Play::default());
        let together = delivered(&given, &in_turn(&given), &play);
        prop_assert_eq!(together.orders(), alone.orders());
        prop_assert_eq!(together.decisions(), alone.decisions());
    }

    #[test]
    fn another_order_of_delivery_and_failures_give_the_same_desired_states(
        (given, order) in two_streams(),
        play in play(fates()),
    ) {
        let alone = delivered(&given, &in_turn(&given), &Play::default());
        let otherwise = delivered(&given, &order, &play);
        prop_assert_eq!(desired(&otherwise), desired(&alone));
        let answered = |site: &Site| site.decisions().into_keys().collect::<Vec<_>>();
        prop_assert_eq!(answered(&otherwise), answered(&alone));
        prop_assert_eq!(otherwise.acked.len(), given.len());
    }
}
