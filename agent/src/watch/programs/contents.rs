//! What a filter of tc is made of, without what changes by itself: counters, times, and how many use an action.

use crate::netlink::{attributes, text};

/// include/uapi/linux/rtnetlink.h, pkt_cls.h
const TCA_OPTIONS: u16 = 2;
/// TCA_STATS, _XSTATS, _RATE, _STATS2, _PAD, _EXT_WARN_MSG.
const UNSTEADY: [u16; 6] = [3, 4, 5, 7, 9, 16];
/// By kind: where a filter keeps its actions, and where its counters. A filter of another kind counts with all that it says.
const FILTERS: [(&str, u16, u16); 9] = [
    ("u32", 7, 9),
    ("bpf", 1, 0),
    ("flower", 3, 0),
    ("matchall", 2, 4),
    ("basic", 3, 5),
    ("fw", 4, 0),
    ("route", 6, 0),
    ("flow", 9, 0),
    ("cgroup", 1, 0),
];
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
/// TCA_ACT_STATS, _PAD, _USED_HW_STATS, _IN_HW_COUNT.
const UNSTEADY_ACTION: [u16; 4] = [4, 5, 9, 10];
/// Actions that tell their times (`struct tcf_t`) under another number than 1, and their parameters under another than 2.
const ACTIONS: [(&str, u16, u16); 7] =
    [("connmark", 2, 1), ("csum", 2, 1), ("ct", 2, 1), ("ctinfo", 2, 3), ("ife", 2, 1), ("nat", 2, 1), ("police", 6, 0)];
/// `refcnt` and `bindcnt` in what all parameters begin with (`tc_gen`).
const USERS: std::ops::Range<usize> = 12..20;

/// The attributes of a filter of a kind.
pub(super) fn of_filter(kind: &str, filter: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    for (number, value, whole) in attributes(filter).filter(|(number, ..)| !UNSTEADY.contains(number)) {
        match FILTERS.iter().find(|(name, ..)| *name == kind) {
            Some((_, actions, counters)) if number == TCA_OPTIONS => {
                for (number, value, whole) in attributes(value).filter(|(number, ..)| number != counters) {
                    match number == *actions {
                        true => attributes(value).for_each(|(place, action, _)| add(&mut found, place, &of_action(action))),
                        false => found.extend(whole),
                    }
                }
            }
            _ => found.extend(whole),
        }
    }
    found
}

fn of_action(action: &[u8]) -> Vec<u8> {
    let kind = crate::netlink::value(action, TCA_ACT_KIND).map(text).unwrap_or_default();
    let (times, parameters) =
        ACTIONS.iter().find(|(name, ..)| *name == kind).map_or((1, 2), |(_, times, parameters)| (*times, *parameters));
    let mut found = Vec::new();
    for (number, value, whole) in attributes(action).filter(|(number, ..)| !UNSTEADY_ACTION.contains(number)) {
        if number != TCA_ACT_OPTIONS {
            found.extend(whole);
            continue;
        }
        for (number, value, _) in attributes(value).filter(|(number, ..)| *number != times) {
            let mut value = value.to_vec();
            if let Some(users) = value.get_mut(USERS).filter(|_| number == parameters) {
                users.fill(0);
            }
            add(&mut found, number, &value);
        }
    }
    found
}

fn add(found: &mut Vec<u8>, number: u16, value: &[u8]) {
    found.extend(number.to_ne_bytes());
    found.extend((value.len() as u32).to_ne_bytes());
    found.extend(value);
}
