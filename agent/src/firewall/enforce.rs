//! Makes the kernel hold what stands, and says what it gave back.

mod gone;
mod stepping;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Device, Gate, Netdev};
use portcullis_agent_core::ruleset::{self, TABLE};
use portcullis_agent_core::verify::{self, Difference, ObjectKind, Passed};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Evidence, Level, Posture};

use crate::failpoint::step;
use crate::firewall::{self, Firewall, Kernel, Layers, Prepared};
use crate::host::memory;
use crate::watch::Subscription;
pub use gone::GoneDevice;
use gone::gone;
use stepping::Stepping;

const RESTORES: usize = 3;
/// Differences that are named.
const NAMED: usize = 4;
/// Fewer addresses of exclusions leave no memory behind that would be noticed.
const MANY: usize = 500;

/// What is in force, as far as this process knows.
#[derive(Debug)]
pub struct Enforcer {
    kernel: Result<Kernel, String>,
    layers: Layers,
    /// Has what is done to rules heard, while rules of ours stand.
    pub watch: Option<Subscription>,
    /// No layer above this is used.
    most: Level,
    /// Tables are locked where the kernel can do that.
    locks: bool,
    pub level: Level,
    pub posture: Posture,
    pub since: Timestamp,
    pub evidence: Evidence,
    /// Why what stands is not in force, or not wholly.
    pub error: Option<String>,
    /// The rules in force, with the connections that were let stand.
    rules: Option<CompiledRules>,
    /// A gate that can drop at once.
    prepared: Option<Prepared>,
    /// Devices that have gone since this was last looked at. That one comes is nobody's tampering.
    pub gone: Vec<GoneDevice>,
    /// What was found otherwise than it had been made, until it is right and told.
    changed: Vec<Difference>,
    /// Since when it may have been so.
    changed_since: Option<Instant>,
    /// From the last wish to isolate until the rules were in force.
    pub took: Duration,
}

/// Whether another try may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    TryAgain,
}

/// What became of devices that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Rules were written for new ones: they are to be read back.
    pub came: bool,
    /// Nothing else has changed.
    pub only_came: bool,
}

impl Enforcer {
    /// Looks what the kernel can do and holds.
    pub fn new(most: Level, locks: bool) -> Self {
        let mut enforcer = Self {
            kernel: Err(String::new()),
            layers: Layers::default(),
            watch: None,
            most,
            locks,
            level: Level::None,
            posture: Posture::Open,
            since: crate::host::clock::wall(),
            evidence: Evidence { readback_ok: true, ..Evidence::default() },
            error: None,
            rules: None,
            prepared: None,
            gone: Vec::new(),
            changed: Vec::new(),
            changed_since: None,
            took: Duration::ZERO,
        };
        let stands = enforcer.probe();
        if let Ok(kernel) = &enforcer.kernel
            && let Err(error) = kernel.reads_back()
        {
            tracing::error!(error = chain(&error), "rules in force cannot be read back");
        }
        if stands == Some(true) {
            match &enforcer.kernel {
                Ok(kernel) if !firewall::is_down(kernel) => {
                    if let Err(error) = firewall::lift_standing_gate(kernel, enforcer.layers) {
                        tracing::warn!(
                            error = chain(&error),
                            "staged rules not removed: they stay until the next isolation or release"
                        );
                    }
                }
                _ => enforcer.posture = Posture::Isolated,
            }
        }
        enforcer
    }

    /// Some where nftables answers: whether our table stands. The level follows.
    fn probe(&mut self) -> Option<bool> {
        self.kernel = if self.locks { Kernel::locking() } else { Kernel::open() }.map_err(|error| chain(&error));
        let stands = match &self.kernel {
            Ok(kernel) => kernel.stands().map_err(|error| chain(&error)),
            Err(error) => Err(error.clone()),
        };
        match stands {
            Ok(stands) => {
                if let Ok(kernel) = &self.kernel {
                    self.layers = Layers::probe(kernel, self.most);
                }
                self.level = self.layers.level();
                Some(stands)
            }
            Err(error) => {
                self.level = Level::None;
                self.evidence.readback_ok = false;
                self.error = Some(format!("this host cannot enforce anything: {error}"));
                None
            }
        }
    }

    /// The gate in force, with the connections that were let stand.
    pub fn gate(&self) -> Option<&Gate> {
        self.rules.as_ref().map(CompiledRules::gate)
    }

    /// Stages the gate on an open host, so that it can be activated at once.
    pub fn prepare(&mut self, gate: &Gate) {
        match &self.kernel {
            Ok(kernel) if self.posture == Posture::Open && self.level != Level::None => {
                // Staged for rules that are not desired any more.
                if self.prepared.take().is_some() && firewall::lift_standing_gate(kernel, self.layers).is_err() {
                    return;
                }
                // An open host has no table of ours, and one that somebody has made would be without the lock. After a try that failed, what stands
                // may be a layer of ours that is in force, and stays.
                if self.error.is_none()
                    && kernel.stands().is_ok_and(|stands| stands)
                    && firewall::lift_standing_gate(kernel, self.layers).is_ok()
                {
                    let (what, name) = (ObjectKind::Table, TABLE.to_owned());
                    self.changed.push(Difference::Unexpected { what, name });
                }
                let (gate, _) = self.fitted(gate);
                let ((), prepared) = firewall::prepare_gate(&Stepping { kernel, watch: None }, &gate, || ());
                self.prepared = prepared;
            }
            _ => {}
        }
    }

    /// The gate as this kernel can hold it on the devices that are there now, and what that leaves out.
    fn fitted(&self, gate: &Gate) -> (Gate, Vec<String>) {
        let mut gate = gate.clone();
        let mut problems = Vec::new();
        if !self.layers.has_groups() {
            let of_units = gate.passes.extract_if(.., |pass| pass.local.group.is_some());
            problems.extend(of_units.map(|pass| {
                format!(
                    "exclusion {:?} is left out: this kernel does not know the control group of a socket (5.13 and later do)",
                    pass.name
                )
            }));
        }
        gate.proof = gate.proof.filter(|_| self.layers.proves());
        match self.layers.netdev() {
            Ok(netdev) => gate.netdev = netdev,
            // The inet layer alone is better than none.
            Err(error) => {
                problems.push(format!("the network devices cannot be listed, only the inet layer is in force: {error}"))
            }
        }
        (gate, problems)
    }

    /// Drops the gate, or changes it. Keeps what was where the rules cannot be applied.
    pub fn isolate(&mut self, gate: &Gate) -> Outcome {
        let prepared = self.prepared.take();
        if self.level == Level::None && self.probe().is_none() {
            return Outcome::TryAgain;
        }
        let Ok(kernel) = &self.kernel else { return Outcome::TryAgain };
        let (gate, mut problems) = self.fitted(gate);
        let dropped = match firewall::drop_gate(&Stepping { kernel, watch: self.watch.as_ref() }, &gate, prepared) {
            Ok(dropped) => dropped,
            Err(error) => {
                let error = chain(&error);
                if self.posture == Posture::Open && !firewall::is_down(kernel) {
                    // What was made ready is not to be taken for somebody's.
                    let _ = firewall::lift_gate(kernel, self.layers);
                }
                self.evidence.readback_ok = false;
                if self.probe().is_some() {
                    self.error = Some(format!("rules not applied, the former ones stay in force: {error}"));
                }
                return Outcome::TryAgain;
            }
        };
        tracing::debug!(timing = ?dropped.timing, "isolation in force");
        problems.extend(dropped.partial.iter().map(|error| format!("only the inet layer is in force: {}", chain(error))));
        problems.extend(dropped.severed.errors.iter().map(|error| chain(error)));
        let (digest, whole) = match dropped.check {
            Ok(check) => {
                problems.extend(
                    check.differences.iter().take(NAMED).map(|difference| format!("rules in the kernel differ: {difference}")),
                );
                (Some(check.ruleset_sha256), check.differences.is_empty())
            }
            Err(error) => {
                problems.push(format!("rules applied; they could not be read back: {}", chain(&error)));
                (None, false)
            }
        };
        if self.posture != Posture::Isolated {
            self.since = dropped.enforced_at;
        }
        self.posture = Posture::Isolated;
        self.evidence = Evidence {
            ruleset_sha256: digest,
            readback_ok: whole,
            table_locked: kernel.is_locked().unwrap_or(false),
            sockets_killed: dropped.severed.sockets_killed,
            flows_flushed: dropped.severed.flows_flushed,
            opens: None,
            probes: Vec::new(),
        };
        self.error = (!problems.is_empty()).then(|| problems.join("; "));
        self.took = dropped.timing.enforced;
        if let Some(before) = self.rules.replace(dropped.rules) {
            self.gone.extend(gone(&before.gate().netdev, &gate.netdev));
        }
        if !dropped.changed.is_empty() {
            let since = dropped.timing.checked.saturating_sub(dropped.timing.enforced);
            self.changed_since = self.changed_since.or(Instant::now().checked_sub(since));
        }
        for difference in dropped.changed {
            if self.changed.len() < NAMED && !self.changed.contains(&difference) {
                self.changed.push(difference);
            }
        }
        if whole { Outcome::Done } else { Outcome::TryAgain }
    }

    /// What somebody had changed before the rules were read back, now that it is right. That a device has left is told of the device.
    /// With the longest time for which it was so, where that is known.
    pub fn put_right(&mut self) -> (Vec<String>, Option<Duration>) {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let of_gone = |difference: &Difference| self.gone.iter().any(|gone| difference.concerns(&gone.device));
        let changed = changed.filter(|difference| !of_gone(difference)).map(|difference| difference.to_string()).collect();
        (changed, self.changed_since.take().map(|since| since.elapsed()))
    }

    /// Finds what was done to rules that were whole while nobody watched them: what `gates` all do not explain, the gate as it was then and as it
    /// is now. To be asked before they are put in force again.
    pub fn look_back(&mut self, gates: &[Gate]) {
        let Ok(kernel) = &self.kernel else { return };
        let mut found: Option<Vec<Difference>> = None;
        for gate in gates {
            let (gate, _) = self.fitted(gate);
            let Ok(check) = firewall::check(kernel, &CompiledRules::new(gate)) else { break };
            let mut here = verify::unexplained(check.differences);
            here.retain(|difference| found.as_ref().is_none_or(|before| before.contains(difference)));
            let is_empty = here.is_empty();
            found = Some(here);
            if is_empty {
                break;
            }
        }
        if kernel.is_dormant().is_ok_and(|dormant| dormant) {
            let [expected, found] = ["awake", "dormant"].map(str::to_owned);
            self.changed.push(Difference::TableChanged { table: TABLE.to_owned(), expected, found });
        }
        self.changed.extend(found.into_iter().flatten().take(NAMED));
    }

    /// The number by which the kernel names the socket that changes rules. None where rules go by another program, whose number is not known.
    pub fn port(&self) -> Option<u32> {
        self.kernel.as_ref().ok().filter(|kernel| kernel.is_direct()).and_then(Kernel::port)
    }

    /// Whether the network devices are others than those that the rules cover.
    pub fn devices_differ(&self) -> bool {
        let covered = self.gate().and_then(|gate| gate.netdev.as_ref());
        covered.is_some_and(|covered| self.layers.netdev().is_ok_and(|now| now.is_none_or(|now| now.devices != covered.devices)))
    }

    /// Covers devices that came, by index, and writes nothing else again. Whether it did, and whether no other device has changed.
    pub fn cover(&mut self, links: &BTreeMap<u32, Option<Device>>) -> Covered {
        let (nothing, failed) = (Covered { came: false, only_came: true }, Covered { came: false, only_came: false });
        let (Ok(kernel), Some(rules)) = (&self.kernel, &mut self.rules) else { return failed };
        let Some(before) = rules.gate().netdev.clone() else { return nothing };
        let is_known = |device: &Device| before.devices.binary_search(device).is_ok();
        let has_index = |index: u32| before.devices.binary_search_by_key(&index, |device| device.index).is_ok();
        let is_no_change = |(index, now): (&u32, &Option<Device>)| now.as_ref().is_some_and(is_known) || !has_index(*index);
        let only_came = links.iter().all(is_no_change);
        let new: Vec<Device> = links.values().flatten().filter(|device| !is_known(device)).cloned().collect();
        if new.is_empty() {
            return Covered { only_came, ..nothing };
        }
        // Under its new name a device that was renamed is covered before the rest of its change is dealt with.
        let mut devices = [before.devices.clone(), new.clone()].concat();
        devices.sort_unstable();
        rules.set_netdev(Some(Netdev { devices, ..before.clone() }));
        let covered = [ruleset::extend(&before, &new), ruleset::refill(&before, rules.gate())];
        let covered = covered.iter().filter(|batch| !batch.objects.is_empty()).try_for_each(|batch| kernel.apply(batch));
        if let Err(error) = covered {
            tracing::warn!(error = chain(&error), "new network devices not covered one by one: all rules are written again");
            rules.set_netdev(Some(before));
            return failed;
        }
        Covered { came: true, only_came }
    }

    /// Puts the rules in force again, whatever somebody has made of them, for the devices that are there now, and does nothing else: reading
    /// back and ending what came in between follow when the host is shut again.
    pub fn restore(&mut self) -> Result<(), String> {
        let (Ok(kernel), Some(rules)) = (&self.kernel, &mut self.rules) else { return Ok(()) };
        let before = rules.gate().netdev.clone();
        let listed = |error| format!("the network devices cannot be listed: {error}");
        // A device may go between the list of devices and the rules that name it.
        let mut tries = 0..RESTORES;
        let restored = loop {
            tries.next();
            let tried = self.layers.netdev().map_err(listed).and_then(|netdev| {
                rules.set_netdev(netdev);
                firewall::restore_gate(kernel, rules).map_err(|error| chain(&error))
            });
            if tried.is_ok() || tries.is_empty() {
                break tried;
            }
        };
        self.gone.extend(gone(&before, &rules.gate().netdev));
        restored
    }

    /// Compares what the kernel holds with what should be in force, rules and devices. Changes nothing.
    pub fn look(&mut self) -> Result<Look, String> {
        let (Ok(kernel), Some(rules)) = (&self.kernel, &self.rules) else { return Ok(Look::default()) };
        let gate = rules.gate();
        let check = firewall::check(kernel, rules).map_err(|error| chain(&error))?;
        let now = self.layers.netdev().map_err(|error| format!("the network devices cannot be listed: {error}"))?;
        let gone = gone(&gate.netdev, &now);
        // Chains of a device that has left are left behind by it, or gone with it: that is told of the device.
        let of_gone = |difference: &Difference| gone.iter().any(|gone| difference.concerns(&gone.device));
        let differences = check.differences.into_iter().filter(|difference| !of_gone(difference)).collect();
        Ok(Look { differences, devices_differ: now != gate.netdev })
    }

    /// After rules were written or read back; many exclusions need much for a moment.
    pub fn give_memory_back(&mut self) {
        let Some(rules) = &mut self.rules else { return };
        if rules.gate().passes.iter().map(|pass| pass.remotes.len()).sum::<usize>() > MANY {
            rules.forget();
            memory::give_back();
        }
    }

    /// What each pass of the gate in force has let through; empty where that cannot be read.
    pub fn passed(&self) -> Vec<Option<Passed>> {
        let (Ok(kernel), Some(gate)) = (&self.kernel, self.gate()) else { return Vec::new() };
        match kernel.list() {
            Ok(Some(listing)) => verify::passed(&listing, gate),
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "counters of exclusions not read");
                Vec::new()
            }
        }
    }

    fn lift(&self) -> Result<(), String> {
        self.watch.as_ref().inspect(|watch| watch.end());
        match &self.kernel {
            Ok(kernel) if self.posture == Posture::Isolated => {
                firewall::lift_standing_gate(kernel, self.layers).map_err(|error| chain(&error))
            }
            Ok(kernel) => firewall::lift_gate(kernel, self.layers).map(drop).map_err(|error| chain(&error)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Lifts the gate, where it is down.
    pub fn open(&mut self) -> Outcome {
        match self.lift() {
            Ok(()) => {
                step("agent.enforced");
                step("agent.severed");
            }
            // A host on which nftables never worked holds no rules of ours.
            Err(_) if self.level == Level::None && self.posture == Posture::Open => {}
            Err(error) => {
                self.evidence.readback_ok = false;
                self.error = Some(format!("rules not removed, the host is still isolated: {error}"));
                self.watch.as_ref().inspect(|watch| watch.begin());
                let _ = self.probe();
                return Outcome::TryAgain;
            }
        }
        if self.posture != Posture::Open {
            self.since = crate::host::clock::wall();
        }
        self.posture = Posture::Open;
        self.rules = None;
        self.prepared = None;
        self.gone.clear();
        self.changed.clear();
        self.changed_since = None;
        self.error = None;
        self.evidence = Evidence { readback_ok: true, ..Evidence::default() };
        Outcome::Done
    }
}

/// What a look at the kernel has shown.
#[derive(Debug, Default)]
pub struct Look {
    pub differences: Vec<Difference>,
    pub devices_differ: bool,
}

impl Look {
    pub fn is_whole(&self) -> bool {
        self.differences.is_empty() && !self.devices_differ
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
