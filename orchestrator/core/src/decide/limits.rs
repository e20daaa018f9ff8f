//! How large an order may grow: its memory is shed before it is too large to be sent.

use portcullis_schemas::events::{MAX_SETTLED, Order};

use crate::settled;

/// Holds, causes and memory of an order, in bytes of JSON.
const MEMORY_BYTES: usize = 32 * 1024;
/// A whole order, in bytes of JSON: the broker's `max_payload` less what headers and the envelope take.
pub const MAX_BYTES: u64 = 240 * 1024;

/// Operators' words on a hold, in bytes, where there is no room for all.
const NOTE_BYTES: usize = 120;

/// Sheds what is long of operators' words, the oldest memory, then the listed causes, until the order fits. The error is the size of what does not fit
/// all the same: only its exclusions can be that large.
pub fn fit(order: &mut Order) -> Result<(), u64> {
    if memory(order) > MEMORY_BYTES {
        order.holds.iter_mut().filter_map(|hold| hold.reason.as_mut()).for_each(shorten);
    }
    let mut most = MAX_SETTLED;
    while memory(order) > MEMORY_BYTES && most > 16 {
        most /= 2;
        settled::trim(order, most);
    }
    while memory(order) > MEMORY_BYTES {
        let Some(hold) = order.holds.iter_mut().max_by_key(|hold| hold.causes.len()).filter(|hold| hold.causes.len() > 1) else {
            break;
        };
        hold.causes.truncate(hold.causes.len() - 1);
        hold.more = Some(hold.more.unwrap_or(0) + 1);
    }
    match size(order) {
        bytes if bytes > MAX_BYTES => Err(bytes),
        _ => Ok(()),
    }
}

fn shorten(note: &mut String) {
    if note.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
}

fn memory(order: &Order) -> usize {
    let text = |value: serde_json::Result<Vec<u8>>| value.map_or(0, |text| text.len());
    text(serde_json::to_vec(&order.holds)) + text(serde_json::to_vec(&order.settled))
}

fn size(order: &Order) -> u64 {
    serde_json::to_vec(order).map_or(0, |text| text.len() as u64)
}

#[cfg(test)]
mod tests;
