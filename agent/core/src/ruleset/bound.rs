//! Exclusions for one local user or systemd unit: a rule each, since the kernel has no set of either that fits.
//!
//! What leaves carries its socket, and with it the user and the control group; what arrives carries neither yet. So the rules on the way out ask
//! whose it is, and those on the way in only whether it belongs to what they let out.

use std::collections::BTreeSet;

use nftables::expr::{Expression, MetaKey};
use nftables::stmt::Statement;
use portcullis_schemas::exclusion::Direction;

use super::keys::{arriving_key, leaving_key, name, of};
use super::sets::{self, BOUND_IN, BOUND_OUT};
use super::terms::{accept, count, ct, equals, group, member, meta, text};
use crate::gate::{Gate, Local};

pub(super) fn arriving(present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    of_all(present, arriving_key, BOUND_IN, BOUND_OUT)
}

/// After NAT the kernel no longer tells the control group; what comes here has been asked in `output`.
pub(super) fn after_nat(present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    of_all(present, leaving_key, BOUND_OUT, BOUND_IN)
}

fn of_all(
    present: &BTreeSet<&str>,
    key: fn(&'static str) -> Expression<'static>,
    original: [&'static str; 2],
    reply: [&'static str; 2],
) -> Vec<Vec<Statement<'static>>> {
    let rule = |direction, ip, set| vec![equals(ct("direction"), text(direction)), member(key(ip), set), count(), accept()];
    let both = [("original", original), ("reply", reply)];
    both.into_iter().flat_map(|(direction, sets)| of(present, sets).map(move |(ip, set)| rule(direction, ip, set))).collect()
}

pub(super) fn leaving(gate: &Gate, present: &BTreeSet<&str>) -> Vec<Vec<Statement<'static>>> {
    let mut rules = Vec::new();
    for (rank, (_, pass)) in sets::bound(gate).into_iter().enumerate() {
        let direction = if pass.direction == Direction::Out { "original" } else { "reply" };
        for family in sets::families(pass) {
            let set = sets::bound_name(rank, family);
            if present.contains(set.as_str()) {
                let mut rule = vec![equals(ct("direction"), text(direction))];
                rule.extend(whose(&pass.local));
                rule.extend([member(leaving_key(name(family)), set), count(), accept()]);
                rules.push(rule);
            }
        }
    }
    rules
}

fn whose(local: &Local) -> impl Iterator<Item = Statement<'static>> {
    let user = local.uid.map(|uid| equals(meta(MetaKey::Skuid), Expression::Number(uid)));
    user.into_iter().chain(local.group.as_ref().map(group))
}
