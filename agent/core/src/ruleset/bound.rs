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
use super::terms::Rules;
use super::terms::{accept, count, equals, group, member, meta};
use crate::gate::{Gate, Local};

/// Asked of all of them together: on the way in, and after NAT, where the kernel no longer tells the control group; what comes there has been asked
/// in `output`.
pub(super) fn together(present: &BTreeSet<&str>, direction: Direction, leaves: bool) -> Rules {
    let sets = if direction == Direction::Out { BOUND_OUT } else { BOUND_IN };
    let key = if leaves { leaving_key } else { arriving_key };
    of(present, sets).map(|(ip, set)| vec![member(key(ip), set), count(), accept()]).collect()
}

/// Asked of each, with whose it is.
pub(super) fn each(gate: &Gate, present: &BTreeSet<&str>, direction: Direction) -> Rules {
    let mut rules = Vec::new();
    for (rank, (_, pass)) in sets::bound(gate).into_iter().enumerate().filter(|(_, (_, pass))| pass.direction == direction) {
        for family in sets::families(pass) {
            let set = sets::bound_name(rank, family);
            if present.contains(set.as_str()) {
                let passes = [member(leaving_key(name(family)), set), count(), accept()];
                rules.push(whose(&pass.local).chain(passes).collect());
            }
        }
    }
    rules
}

fn whose(local: &Local) -> impl Iterator<Item = Statement<'static>> {
    let user = local.uid.map(|uid| equals(meta(MetaKey::Skuid), Expression::Number(uid)));
    user.into_iter().chain(local.group.as_ref().map(group))
}
