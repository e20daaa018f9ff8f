//! The order in which a gate drops and goes up again.

use std::time::{Duration, Instant};

use chrono::Utc;
use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::ruleset::{finish, open, prepare, render, render_anew, without};
use portcullis_agent_core::verify::{self, Difference};
use portcullis_schemas::Timestamp;

use super::{Firewall, FirewallError, Layers};
use crate::sockets::{self, Severed};

/// An isolation that is in force.
#[derive(Debug)]
pub struct Dropped {
    /// With the connections that were let stand; this is the gate to keep and to compare with.
    pub gate: Gate,
    pub severed: Severed,
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

/// Makes `gate` the rules of this host, for the first time or as a change, and ends what may not pass any more.
///
/// `gate.standing` is what stood under the gate before, empty on an open host; it is worked out anew. An error means that
/// nothing has changed. Whatever fails after the rules are in force is in the result: the host is isolated all the same.
pub fn drop_gate(firewall: &dyn Firewall, gate: &Gate) -> Result<Dropped, FirewallError> {
    let start = Instant::now();
    let mut timing = Timing::default();
    let mut severed = Severed::default();
    let mut gate = gate.clone();
    match sockets::survey(&gate) {
        Ok(survey) => gate.standing = survey.standing().to_vec(),
        Err(error) => severed.errors.push(error),
    }
    timing.surveyed = start.elapsed();
    restore_gate(firewall, &gate)?;
    timing.enforced = start.elapsed();
    let enforced_at = Utc::now();
    // Again: programs went on connecting until the rules were in force.
    match sockets::survey(&gate) {
        Ok(mut survey) => {
            if survey.standing().iter().any(|connection| !gate.standing.contains(connection)) {
                let late = Gate { standing: survey.standing().to_vec(), ..gate.clone() };
                // If that fails, conntrack's direction still carries those that it knew from their first packet.
                if firewall.apply(&render(&late)).is_ok() {
                    gate = late;
                }
            }
            survey.destroy(&mut severed);
        }
        Err(error) => severed.errors.push(error),
    }
    sockets::flush(&gate, &mut severed);
    timing.severed = start.elapsed();
    let check = check(firewall, &gate).and_then(|found| without_strays(firewall, &gate, found));
    let check = check.and_then(|found| without_moved(firewall, &gate, found));
    timing.checked = start.elapsed();
    Ok(Dropped { gate, severed, check, timing, enforced_at })
}

/// Makes `gate` the rules of this host, whatever somebody has made of them, and nothing else.
pub fn restore_gate(firewall: &dyn Firewall, gate: &Gate) -> Result<(), FirewallError> {
    if !firewall.stands()? {
        firewall.prepare(&prepare(gate))?;
        if firewall.apply(&finish(gate)).is_ok() {
            return Ok(());
        }
    }
    match firewall.apply(&render(gate)) {
        Err(refused @ FirewallError::Kernel { .. }) => firewall.apply(&render_anew(gate)).map_err(|_| refused),
        done => done,
    }
}

/// A chain that somebody has moved to another device can get its own one back, and not lose the other.
fn without_moved(firewall: &dyn Firewall, gate: &Gate, found: Check) -> Result<Check, FirewallError> {
    let moved = found.differences.iter().any(|difference| matches!(difference, Difference::Moved { .. }));
    if !moved || firewall.apply(&render_anew(gate)).is_err() {
        return Ok(found);
    }
    check(firewall, gate)
}

/// What no gate has goes: of devices that have left, of exclusions that have ended, or put there by somebody.
fn without_strays(firewall: &dyn Firewall, gate: &Gate, found: Check) -> Result<Check, FirewallError> {
    let strays = verify::strays(&found.differences);
    if strays.is_empty() || firewall.apply(&without(&strays)).is_err() {
        return Ok(found);
    }
    check(firewall, gate)
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

/// Compares what the kernel has with `gate`. Changes nothing.
pub fn check(firewall: &dyn Firewall, gate: &Gate) -> Result<Check, FirewallError> {
    let found = firewall.list()?.as_ref().map(verify::read).transpose()?.unwrap_or_default();
    let differences = verify::differences(&verify::expected(gate), &found);
    Ok(Check { ruleset_sha256: found.digest(), differences })
}
