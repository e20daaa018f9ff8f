//! The memory of an order: inputs that have had their effect on this host.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{InputRef, MAX_SETTLED, Order, Settled};

/// The entry of `input` on this host, if it has had its effect.
pub fn find<'a>(order: Option<&'a Order>, input: &InputRef) -> Option<&'a Settled> {
    let hash = input.hash();
    order?.settled.iter().find(|entry| entry.hash == hash)
}

/// Whether a cause with this hash had its effect here, or was settled without.
pub fn knows(order: &Order, hash: &str) -> bool {
    order.settled.iter().any(|entry| entry.hash == hash)
}

/// Adds an entry. What is pushed out raises the floor: a detection observed before the floor can no longer be told from a copy.
pub fn add(order: &mut Order, hash: String, at: Timestamp, generation: Option<u64>) {
    // What made an order stays known as that, also where it names itself.
    let made = order.settled.iter().find(|entry| entry.hash == hash).and_then(|entry| entry.generation);
    order.settled.retain(|entry| entry.hash != hash);
    order.settled.push(Settled { hash, at_ms: at.timestamp_millis(), generation: generation.or(made) });
    trim(order, MAX_SETTLED);
}

/// Forgets the oldest entries beyond `most`.
pub fn trim(order: &mut Order, most: usize) {
    let excess = order.settled.len().saturating_sub(most);
    let newest = order.settled.drain(..excess).map(|entry| entry.at_ms).max();
    // One millisecond on, so that the entry that was pushed out lies before the floor.
    let floor = newest.and_then(|ms| Timestamp::from_timestamp_millis(ms + 1));
    order.settled_floor = order.settled_floor.max(floor);
}

#[cfg(test)]
mod tests;
