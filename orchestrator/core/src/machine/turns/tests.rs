//! The order of service as tables: what waits of each source, and the batches that it is taken in.

use std::collections::BTreeMap;

use portcullis_schemas::Stream;
use proptest::prelude::*;

use super::super::event::{Delivered, Message};
use super::super::queue::{BATCH, Item, Queue};
use crate::testing::at;

#[test]
fn a_detection_behind_a_flood_of_another_source_is_in_the_next_batch() {
    let mut queue = Queue::<()>::default();
    (1..=1_500).for_each(|sequence| queue.push(detection("flood", sequence, 1)));
    assert_eq!(taken(&mut queue).len(), BATCH);
    queue.push(detection("quiet", 2_000, 1));
    let batch = taken(&mut queue);
    assert_eq!((batch.len(), batch.last()), (BATCH, Some(&2_000)));
    // And the flood goes on where it was.
    assert_eq!(batch[..3], [513, 514, 515]);
    assert_eq!(taken(&mut queue)[0], 1_024);
}

#[test]
fn sources_are_served_in_turn_and_each_in_its_own_order() {
    let mut queue = Queue::<()>::default();
    for source in 0..300u64 {
        (0..4).for_each(|n| queue.push(detection(&format!("s{source}"), 1 + source * 10 + n, 1)));
    }
    let first = taken(&mut queue);
    // One of each, then a second one of those whose turn it was; the others go on from there.
    let of = |batch: &[u64], nth| batch.iter().filter(|sequence| *sequence % 10 == nth).count();
    assert_eq!((of(&first, 1), of(&first, 2)), (300, 212));
    let second = taken(&mut queue);
    assert_eq!((of(&second, 2), of(&second, 3), of(&second, 4)), (88, 300, 124));
    assert_eq!(taken(&mut queue).len(), 4 * 300 - 2 * BATCH);
    assert!(queue.is_empty());
}

#[test]
fn what_came_again_too_often_is_taken_alone_and_slows_its_own_source() {
    let mut queue = Queue::<()>::default();
    (1..=3).for_each(|sequence| queue.push(detection("bad", sequence, 4)));
    (11..=14).for_each(|sequence| queue.push(detection("flood", sequence, 1)));
    queue.push(detection("quiet", 20, 1));
    assert_eq!(taken(&mut queue), [1]);
    assert_eq!(taken(&mut queue), [11, 12, 13, 14, 20], "nothing waits for the one that has to be alone");
    assert_eq!(taken(&mut queue), [2]);
    queue.push(detection("quiet", 21, 1));
    assert_eq!(taken(&mut queue), [3]);
    assert_eq!(taken(&mut queue), [21], "it waits for one of them and no more");
    assert!(queue.is_empty());
}

#[test]
fn releases_are_taken_before_any_source() {
    let mut queue = Queue::<()>::default();
    (1..=600).for_each(|sequence| queue.push(detection(&format!("s{}", sequence % 7), sequence, 1)));
    queue.push(delivered(Stream::Releases, "portcullis.release-due.h1", 9, 1));
    let batch = taken(&mut queue);
    assert_eq!((batch.len(), batch[0]), (BATCH, 9));
}

#[test]
fn the_loss_of_inputs_waits_behind_no_source() {
    let mut queue = Queue::<()>::default();
    (10..=900).for_each(|sequence| queue.push(detection("flood", sequence, 1)));
    queue.push(Item::Lost { stream: Stream::Detections, first: 1, last: 9, at: crate::testing::at(1) });
    assert_eq!(taken(&mut queue)[0], 1);
}

proptest! {
    /// Whatever waits, and however often it came: each is taken once, each source in its own order, and no source is passed over while others are
    /// served more than once.
    #[test]
    fn every_one_is_taken_once_and_no_source_waits_for_more_than_a_turn(
        pushed in prop::collection::vec((0u8..6, 1u64..5), 1..200),
    ) {
        let mut queue = Queue::<()>::default();
        let mut waits: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        for (n, (source, deliveries)) in (1u64..).zip(&pushed) {
            queue.push(detection(&format!("s{source}"), n, *deliveries));
            waits.entry(*source).or_default().push(n);
        }
        let all = pushed.len();
        let (mut seen, mut batches) = (0, 0);
        let mut passed: BTreeMap<u8, usize> = BTreeMap::new();
        while !queue.is_empty() {
            let batch = taken(&mut queue);
            prop_assert!(!batch.is_empty());
            batches += 1;
            let mut served: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            for sequence in &batch {
                served.entry(pushed[*sequence as usize - 1].0).or_default().push(*sequence);
            }
            let sources: Vec<u8> = waits.keys().copied().collect();
            for source in sources {
                let Some(got) = served.get(&source) else {
                    // Six sources, one of which may be alone in each batch.
                    let missed = passed.entry(source).or_default();
                    *missed += 1;
                    prop_assert!(*missed <= 6, "source {} missed {} batches", source, missed);
                    continue;
                };
                passed.remove(&source);
                let waiting = waits.get_mut(&source).expect("it waits");
                prop_assert_eq!(&waiting[..got.len()], &got[..]);
                waiting.drain(..got.len());
                if waiting.is_empty() {
                    waits.remove(&source);
                }
            }
            seen += batch.len();
        }
        prop_assert_eq!((seen, batches <= all), (all, true));
    }
}

fn taken(queue: &mut Queue<()>) -> Vec<u64> {
    queue.take(true).iter().map(Item::sequence).collect()
}

fn detection(source: &str, sequence: u64, deliveries: u64) -> Item {
    delivered(Stream::Detections, &format!("portcullis.detection.{source}"), sequence, deliveries)
}

fn delivered(stream: Stream, subject: &str, sequence: u64, deliveries: u64) -> Item {
    let (headers, malformed, body) = Default::default();
    let message = Message { subject: subject.to_owned(), headers, malformed, body, at: at(0), sequence };
    Item::Delivered(Delivered { stream, deliveries, waited: false, message })
}
