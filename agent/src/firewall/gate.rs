//! The order in which a gate drops and goes up again.

use std::time::{Duration, Instant};

use nftables::schema::Nftables;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Connection, Gate};
use portcullis_agent_core::ruleset::{open, without};
use portcullis_agent_core::verify::{self, Difference};
use portcullis_schemas::Timestamp;

use super::{Firewall, FirewallError, Layers};
use crate::parallel;
use crate::sockets::{self, SeverError, Severed};

/// An isolation that is in force.
#[derive(Debug)]
pub struct Dropped {
    /// With the connections that were let stand; these are the rules to keep and to compare with.
    pub rules: CompiledRules,
    /// Why the layer on the devices is not as the gate says.
    pub partial: Option<FirewallError>,
    pub severed: Severed,
    /// What was found otherwise than it had just been made; `check` says whether it is right now.
    pub changed: Vec<Difference>,
    pub check: Result<Check, FirewallError>,
    pub timing: Timing,
    /// When the rules were in force, by the wall clock and not a moment before.
    pub enforced_at: Timestamp,
}

/// What reading back has shown.
#[derive(Clone, Debug)]
pub struct Check {
    pub ruleset_sha256: String,
    /// None: the kernel has what the gate says.
    pub differences: Vec<Difference>,
}

/// From the call until each step was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    pub surveyed: Duration,
    pub enforced: Duration,
    pub severed: Duration,
    pub checked: Duration,
}

/// A gate whose first layer stands in the kernel; no packet is asked about it yet.
#[derive(Debug)]
pub struct Prepared {
    rules: CompiledRules,
    /// Excluded connections that stand now.
    standing: Result<Vec<Connection>, SeverError>,
}

/// Makes what takes longest of [`drop_gate`], and lists what stands, while `meanwhile` does something else. Nothing is stopped by it.
///
/// None where something of ours stands already, or where the kernel refused: then there is all to do.
pub fn prepare_gate<T>(firewall: &dyn Firewall, gate: &Gate, meanwhile: impl FnOnce() -> T) -> (T, Option<Prepared>) {
    let rules = CompiledRules::new(gate.clone());
    let make = || {
        let is_new = firewall.stands().is_ok_and(|stands| !stands);
        is_new && rules.prepare().next().is_some_and(|first| firewall.prepare(&first).is_ok())
    };
    // Listed first: what it does meanwhile mostly waits.
    let (made, (standing, done)) = parallel::both(make, || (standing(gate), meanwhile()));
    (done, made.then(|| Prepared { rules, standing }))
}

/// Makes `gate` the rules of this host, for the first time or as a change, and ends what may not pass any more. What was prepared is used
/// where it was for the same gate.
///
/// `gate.standing` is what stood under the gate before, empty on an open host; it is worked out anew. An error means that
/// nothing has changed. Whatever fails after the rules are in force is in the result: the host is isolated all the same.
pub fn drop_gate(firewall: &dyn Firewall, gate: &Gate, prepared: Option<Prepared>) -> Result<Dropped, FirewallError> {
    let start = Instant::now();
    let mut timing = Timing::default();
    let mut severed = Severed::default();
    let prepared = prepared.filter(|prepared| prepared.rules.gate() == gate);
    let is_prepared = prepared.is_some();
    let is_first = is_prepared || firewall.stands().is_ok_and(|stands| !stands);
    let prepared = prepared.unwrap_or_else(|| Prepared { rules: CompiledRules::new(gate.clone()), standing: standing(gate) });
    let mut rules = prepared.rules;
    match prepared.standing {
        Ok(standing) => rules.set_standing(standing),
        Err(error) => severed.errors.push(error),
    }
    timing.surveyed = start.elapsed();
    let mut changed = Vec::new();
    let is_whole = is_prepared
        && layer_by_layer(firewall, &rules, 1).inspect_err(|in_force| changed.extend(lost(firewall, &rules, *in_force))).is_ok();
    let mut partial = None;
    if !is_whole && let Err(error) = restore_gate(firewall, &rules) {
        // One layer is better than none: a device may have gone that the other one names.
        if gate.netdev.is_none() || firewall.apply(&without_devices(&rules).whole()).is_err() {
            return Err(error);
        }
        partial = Some(error);
        changed.retain(|difference: &Difference| !difference.is_without_devices_layer());
    }
    timing.enforced = start.elapsed();
    let enforced_at = crate::host::clock::wall();
    firewall.in_force();
    // Again: programs went on connecting until the rules were in force.
    match sockets::survey(rules.gate()) {
        Ok(mut survey) => {
            let before = &rules.gate().standing;
            if survey.standing().iter().any(|connection| !before.contains(connection)) {
                let before = before.clone();
                // Making the rules anew would hide what somebody has done to them.
                changed.extend(check(firewall, &rules).map(|found| found.differences).unwrap_or_default());
                rules.set_standing(survey.standing().to_vec());
                // If that fails, conntrack's direction still carries those that it knew from their first packet.
                if firewall.apply(&rules.whole()).is_err() {
                    rules.set_standing(before);
                }
            }
            survey.destroy(&mut severed);
        }
        Err(error) => severed.errors.push(error),
    }
    sockets::flush(rules.gate(), &mut severed);
    timing.severed = start.elapsed();
    let strays = is_first.then_some(&mut changed);
    let check = check(firewall, &rules).and_then(|found| without_strays(firewall, &rules, found, strays));
    let check = check.and_then(|found| without_moved(firewall, &rules, found, &mut changed));
    let check = check.and_then(|found| put_right(firewall, &rules, found, &mut changed));
    timing.checked = start.elapsed();
    Ok(Dropped { rules, partial, severed, changed, check, timing, enforced_at })
}

/// Makes one layer after the other, where nothing of ours stands but what the first `prepared` ones have of it. The first one need not wait for the
/// second. An error is the number of layers that were in force before one was refused.
fn layer_by_layer(firewall: &dyn Firewall, rules: &CompiledRules, prepared: usize) -> Result<(), usize> {
    let make = |number, rest: &Nftables<'_>| {
        if number >= prepared {
            rules.prepare().nth(number).iter().try_for_each(|ready| firewall.prepare(ready))?;
        }
        firewall.apply(rest)
    };
    rules.finish().enumerate().try_for_each(|(number, rest)| make(number, &rest).map_err(|_| number))
}

/// What is not there any more of the layers that were `in_force`, and of the one that was made ready.
fn lost(firewall: &dyn Firewall, rules: &CompiledRules, in_force: usize) -> Vec<Difference> {
    let found = |rules: &CompiledRules| check(firewall, rules).map(|found| found.differences).unwrap_or_default();
    if in_force == 0 {
        return Vec::new();
    }
    let mut lost = found(rules);
    lost.retain(|difference| matches!(difference, Difference::TableMissing { .. }));
    if lost.is_empty() {
        lost = found(&without_devices(rules));
        // What there is besides is the beginning of the next layer.
        lost.retain(|difference| !matches!(difference, Difference::Unexpected { .. }));
    }
    lost
}

fn without_devices(rules: &CompiledRules) -> CompiledRules {
    CompiledRules::new(Gate { netdev: None, ..rules.gate().clone() })
}

fn standing(gate: &Gate) -> Result<Vec<Connection>, SeverError> {
    sockets::survey(gate).map(|survey| survey.standing().to_vec())
}

/// Makes these the rules of this host, whatever somebody has made of them, and nothing else.
pub fn restore_gate(firewall: &dyn Firewall, rules: &CompiledRules) -> Result<(), FirewallError> {
    if !firewall.stands()? && layer_by_layer(firewall, rules, 0).is_ok() {
        return Ok(());
    }
    match firewall.apply(&rules.whole()) {
        Err(refused @ FirewallError::Kernel { .. }) => firewall.apply(&rules.anew()).map_err(|_| refused),
        done => done,
    }
}

/// Somebody may have been at it since it was made.
fn put_right(
    firewall: &dyn Firewall,
    rules: &CompiledRules,
    found: Check,
    changed: &mut Vec<Difference>,
) -> Result<Check, FirewallError> {
    if found.differences.is_empty() {
        return Ok(found);
    }
    changed.extend(found.differences.iter().cloned());
    match restore_gate(firewall, rules).and_then(|()| check(firewall, rules)) {
        Ok(again) if again.differences.is_empty() => Ok(again),
        _ => Ok(found),
    }
}

/// A chain that somebody has moved to another device can get its own one back, and not lose the other.
fn without_moved(
    firewall: &dyn Firewall,
    rules: &CompiledRules,
    found: Check,
    changed: &mut Vec<Difference>,
) -> Result<Check, FirewallError> {
    let mut moved = found.differences.iter().filter(|difference| matches!(difference, Difference::Moved { .. })).peekable();
    if moved.peek().is_none() || firewall.apply(&rules.anew()).is_err() {
        return Ok(found);
    }
    changed.extend(moved.cloned());
    check(firewall, rules)
}

/// What no gate has goes: of devices that have left, of exclusions that have ended, or put there by somebody.
///
/// Where nothing of ours stood before, it is somebody's, and counts as `changed`.
fn without_strays(
    firewall: &dyn Firewall,
    rules: &CompiledRules,
    found: Check,
    changed: Option<&mut Vec<Difference>>,
) -> Result<Check, FirewallError> {
    let strays = verify::strays(&found.differences);
    if strays.is_empty() || firewall.apply(&without(&strays)).is_err() {
        return Ok(found);
    }
    if let Some(changed) = changed {
        changed.extend(found.differences.iter().filter(|found| matches!(found, Difference::Unexpected { .. })).cloned());
    }
    check(firewall, rules)
}

/// Whether packets come to what stands of ours. An agent that ended while it made ready leaves chains behind that nothing leads to. What cannot be
/// read counts as a gate.
pub fn is_down(firewall: &dyn Firewall) -> bool {
    let Ok(Some(listing)) = firewall.list() else { return true };
    listing.objects.iter().any(|object| object.kind == "chain" && object.body.contains_key("hook"))
}

/// Takes our tables away; true if there was one.
pub fn lift_gate(firewall: &dyn Firewall, layers: Layers) -> Result<bool, FirewallError> {
    match firewall.stands()? {
        false => Ok(false),
        true => lift_standing_gate(firewall, layers).map(|()| true),
    }
}

/// Takes our tables away where they are known to stand, and where they do not after all, nothing happens. Looking first would keep
/// the host shut for longer.
pub fn lift_standing_gate(firewall: &dyn Firewall, layers: Layers) -> Result<(), FirewallError> {
    firewall.apply(&open(layers.families()))?;
    match firewall.stands()? {
        false => Ok(()),
        true => Err(FirewallError::StillThere),
    }
}

/// Compares what the kernel has with these rules. Changes nothing.
pub fn check(firewall: &dyn Firewall, rules: &CompiledRules) -> Result<Check, FirewallError> {
    let found = firewall.list()?.map(verify::read).unwrap_or_default();
    let differences = verify::differences(rules.expected(), &found);
    let ruleset_sha256 = if differences.is_empty() { rules.sha256().to_owned() } else { found.digest() };
    Ok(Check { ruleset_sha256, differences })
}
