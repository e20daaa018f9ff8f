//! Streams: present, as they were made, with room, whole, and in order.

use portcullis_bus::survey::Held;
use portcullis_schemas::{Stream, Timestamp};

use super::{Finding, few};
use crate::site::Site;

/// A stream, or the account, that is this full is named.
const NEARLY_FULL: u64 = 85;
/// A limit that is reached to this share explains what is gone.
const AT_LIMIT: u64 = 90;

pub fn judge(site: &Site, now: Timestamp) -> Vec<Finding> {
    let mut found = vec![storage(site)];
    let before = found.len();
    for (stream, held) in &site.streams {
        match held {
            Ok(held) => found.extend(one(*stream, held, now)),
            Err(failure) => found.push(Finding::unread("streams", failure)),
        }
    }
    if found.len() == before {
        found.push(Finding::ok("streams", format!("{} streams, as they should be", site.streams.len())));
    }
    found.push(chain(site));
    found
}

fn storage(site: &Site) -> Finding {
    let storage = match &site.storage {
        Ok(storage) => storage,
        Err(failure) => return Finding::unread("storage", failure),
    };
    let used = storage.used.max(storage.reserved);
    let mib = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
    match storage.limit {
        Some(limit)
            if used * 100 >= limit.saturating_mul(AT_LIMIT) && storage.used * 100 >= limit.saturating_mul(NEARLY_FULL) =>
        {
            let says = format!("the account stores {} of {}", mib(storage.used), mib(limit));
            Finding::fail("storage", says, "raise the account's limit: orders are refused where it is full")
        }
        limit => {
            let of = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("a limit of {}", mib(limit)));
            Finding::ok("storage", format!("{} stored, {} reserved, {of}", mib(storage.used), mib(storage.reserved)))
        }
    }
}

fn one(stream: Stream, held: &Held, now: Timestamp) -> Vec<Finding> {
    let name = &held.name;
    let mut found = Vec::new();
    if let Some(why) = &held.refused {
        found.push(Finding::fail("streams", why.clone(), "no orchestrator starts on it: change it as the message says"));
    }
    if !held.lacks.is_empty() {
        let says = format!("{name} lacks {}", held.lacks.join("; "));
        found.push(Finding::warn("streams", says, format!("set it with `nats stream edit {name}`")));
    }
    if !held.behind.is_empty() {
        let says = format!("{name} has copies that are behind or away: {}", few(&held.behind));
        found.push(Finding::warn("streams", says, "start these servers; with most of them away the stream takes nothing"));
    }
    found.extend(room(stream, held));
    found.extend(holes(stream, held, now));
    found
}

fn room(stream: Stream, held: &Held) -> Option<Finding> {
    let (name, most) = (&held.name, held.max_bytes?);
    let percent = held.bytes.saturating_mul(100) / most.max(1);
    // The oldest of these give way, by sender, as they are meant to.
    let gives_way = matches!(stream, Stream::Detections | Stream::Rejected);
    if percent < NEARLY_FULL || gives_way {
        return None;
    }
    let says = format!("{name} is {percent} % full");
    let remedy = format!("raise its max_bytes with `nats stream edit {name}`");
    Some(match held.is_full_for_good {
        true => Finding::fail("streams", format!("{says}; full, it takes no order any more"), remedy),
        false => Finding::warn("streams", format!("{says}; full, its oldest messages are removed"), remedy),
    })
}

/// What is gone that no limit has removed.
fn holes(stream: Stream, held: &Held, now: Timestamp) -> Option<Finding> {
    let by_size = held.max_bytes.is_some_and(|most| held.bytes.saturating_mul(100) >= most.saturating_mul(AT_LIMIT));
    let age = (now - held.first_at).num_seconds().unsigned_abs();
    let by_age = held.max_age.as_secs() > 0 && age.saturating_mul(100) >= held.max_age.as_secs().saturating_mul(AT_LIMIT);
    let by_subject = held.max_per_subject > 0 && held.messages >= held.max_per_subject;
    if by_subject || by_size || by_age {
        return None;
    }
    let what = match (held.messages, held.first, held.removed) {
        (0, _, _) if held.last > 0 => format!("all {} messages", held.last),
        (_, first, 0) if first > 1 => format!("messages 1 to {}", first - 1),
        (_, first, removed) if first > 1 => format!("messages 1 to {} and {removed} behind them", first - 1),
        (_, _, removed) if removed > 0 => format!("{removed} messages"),
        _ => return None,
    };
    let says = format!("{} has lost {what}, and no limit removed them", held.name);
    let (then, is_truth) = match stream {
        Stream::Orders => {
            ("hosts keep what they hold and are ordered again above it; restore the stream from a backup for the history", true)
        }
        Stream::Decisions => {
            ("inputs that are redelivered may be decided again; restore the stream from a backup for the history", true)
        }
        Stream::Inventory => {
            ("hosts say who they are again within a minute; labels and exclusions of operators are to be given again", true)
        }
        _ => ("restore the stream from a backup for the history", false),
    };
    Some(if is_truth { Finding::fail("streams", says, then) } else { Finding::warn("streams", says, then) })
}

fn chain(site: &Site) -> Finding {
    let chain = match &site.chain {
        Ok(chain) => chain,
        Err(failure) => return Finding::unread("chain", failure),
    };
    let list = |sequences: &[u64]| few(&sequences.iter().map(u64::to_string).collect::<Vec<_>>());
    let remedy = "find out by the broker's permissions who else may publish on the orders' subjects, and take it away; compare these messages with DECISIONS";
    if !chain.foreign.is_empty() {
        return Finding::fail("chain", format!("ORDERS holds what is no order, at {}", list(&chain.foreign)), remedy);
    }
    if !chain.breaks.is_empty() {
        return Finding::fail(
            "chain",
            format!("orders do not follow from those before them, at {}", list(&chain.breaks)),
            remedy,
        );
    }
    Finding::ok("chain", format!("the last {} messages of ORDERS follow from one another", chain.checked))
}
