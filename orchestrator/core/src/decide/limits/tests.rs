//! An order sheds memory before it grows too large.

use portcullis_schemas::events::InputKind;

use super::*;
use crate::testing::{World, at, key};

#[test]
fn memory_is_shed_before_causes_and_raises_the_floor() {
    let mut order = isolated();
    for n in 0..MAX_SETTLED as i64 {
        settled::add(&mut order, format!("{n:016x}"), at(n), Some(1 << 52));
    }
    order.holds = vec![order.holds[0].clone(); 32];
    for hold in &mut order.holds {
        hold.rule = Some("r".repeat(300));
    }
    assert!(memory(&order) > MEMORY_BYTES);
    assert_eq!(fit(&mut order), Ok(()));
    assert!(memory(&order) <= MEMORY_BYTES && order.settled.len() < MAX_SETTLED, "{}", memory(&order));
    assert_eq!((order.holds.len(), order.holds[0].causes.len()), (32, 1));
    assert_eq!(
        order.settled.last().map(|entry| entry.hash.clone()),
        Some(format!("{:016x}", MAX_SETTLED - 1)),
        "the newest stays"
    );
    assert!(order.settled_floor.is_some_and(|floor| floor.timestamp_millis() <= order.settled[0].at_ms));
}

#[test]
fn long_words_are_cut_before_memory_is_shed() {
    let mut order = isolated();
    order.holds = vec![order.holds[0].clone(); 32];
    for hold in &mut order.holds {
        hold.reason = Some("ä".repeat(1_000));
    }
    order.holds[31].reason = Some("short".into());
    let settled = order.settled.clone();
    assert_eq!((fit(&mut order), order.settled == settled), (Ok(()), true));
    let words: Vec<&str> = order.holds.iter().filter_map(|hold| hold.reason.as_deref()).collect();
    assert_eq!((words[0].len(), words[31]), (NOTE_BYTES + '…'.len_utf8(), "short"));
}

#[test]
fn causes_are_counted_where_they_cannot_be_listed() {
    let mut order = isolated();
    let hold = &mut order.holds[0];
    hold.causes = (0..16).map(|n| key(InputKind::Detection, "edr", &format!("{n}{}", "x".repeat(4_000)))).collect();
    assert_eq!(fit(&mut order), Ok(()));
    let hold = &order.holds[0];
    assert_eq!((hold.causes.len() as u64 + hold.more.unwrap_or(0), memory(&order) <= MEMORY_BYTES), (16, true));
    assert!(hold.causes[0].id.starts_with('0'), "the first one stays");
}

#[test]
fn an_order_that_fits_is_left_alone() {
    let mut order = isolated();
    let before = order.clone();
    assert_eq!((fit(&mut order), order), (Ok(()), before));
}

#[test]
fn exclusions_alone_can_be_too_large() {
    let mut order = isolated();
    while size(&order) <= MAX_BYTES {
        order.exclusions.extend(order.exclusions.clone());
    }
    let bytes = size(&order);
    assert_eq!(fit(&mut order), Err(bytes));
}

fn isolated() -> Order {
    let mut world = World::new();
    world.isolate("r1", 0);
    world.order().clone()
}
