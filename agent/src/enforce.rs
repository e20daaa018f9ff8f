//! Makes the kernel hold what stands, and says what it gave back.

use std::time::Duration;

use chrono::Utc;
use portcullis_agent_core::gate::{Device, Gate, Netdev};
use portcullis_agent_core::verify::{self, Difference, Passed};
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Evidence, Level, Posture};
use serde_json::Value;

use crate::firewall::{self, Firewall, FirewallError, Kernel, Layers};
use crate::steps::step;

/// What is in force, as far as this process knows.
#[derive(Debug)]
pub struct Enforcer {
    kernel: Result<Kernel, String>,
    layers: Layers,
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
    /// The gate in force, with the connections that were let stand.
    pub gate: Option<Gate>,
    /// From the last wish to isolate until the rules were in force.
    pub took: Duration,
}

/// Whether another try may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    TryAgain,
}

impl Enforcer {
    /// Looks what the kernel can do and holds.
    pub fn new(most: Level, locks: bool) -> Self {
        let mut enforcer = Self {
            kernel: Err(String::new()),
            layers: Layers::default(),
            most,
            locks,
            level: Level::None,
            posture: Posture::Open,
            since: Utc::now(),
            evidence: Evidence { readback_ok: true, ..Evidence::default() },
            error: None,
            gate: None,
            took: Duration::ZERO,
        };
        if enforcer.probe() == Some(true) {
            enforcer.posture = Posture::Isolated;
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

    /// Drops the gate, or changes it. Keeps what was where the rules cannot be applied.
    pub fn isolate(&mut self, gate: &Gate) -> Outcome {
        if self.level == Level::None && self.probe().is_none() {
            return Outcome::TryAgain;
        }
        let Ok(kernel) = &self.kernel else { return Outcome::TryAgain };
        let asked = Utc::now();
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
        match self.layers.netdev() {
            Ok(netdev) => gate.netdev = netdev,
            // The inet layer alone is better than none.
            Err(error) => {
                problems.push(format!("the network devices cannot be listed, only the inet layer is in force: {error}"))
            }
        }
        let dropped = match firewall::drop_gate(&Stepping(kernel), &gate) {
            Ok(dropped) => dropped,
            Err(error) => {
                let error = chain(&error);
                self.evidence.readback_ok = false;
                if self.probe().is_some() {
                    self.error = Some(format!("the rules cannot be applied, what was is kept: {error}"));
                }
                return Outcome::TryAgain;
            }
        };
        tracing::debug!(timing = ?dropped.timing, "the gate is down");
        problems.extend(dropped.severed.errors.iter().map(|error| chain(error)));
        let (digest, whole) = match dropped.check {
            Ok(check) => {
                problems.extend(check.differences.iter().take(4).map(|difference| format!("the kernel differs: {difference}")));
                (Some(check.ruleset_sha256), check.differences.is_empty())
            }
            Err(error) => {
                problems.push(format!("the rules are applied and could not be read back: {}", chain(&error)));
                (None, false)
            }
        };
        if self.posture != Posture::Isolated {
            self.since = asked + dropped.timing.enforced;
        }
        self.posture = Posture::Isolated;
        self.evidence = Evidence {
            ruleset_sha256: digest,
            readback_ok: whole,
            table_locked: kernel.is_locked().unwrap_or(false),
            sockets_killed: dropped.severed.sockets_killed,
            flows_flushed: dropped.severed.flows_flushed,
            probes: Vec::new(),
        };
        self.error = (!problems.is_empty()).then(|| problems.join("; "));
        self.took = dropped.timing.enforced;
        self.gate = Some(dropped.gate);
        if whole { Outcome::Done } else { Outcome::TryAgain }
    }

    /// Compares what the kernel holds with what should be in force, rules and devices. Changes nothing.
    pub fn look(&mut self) -> Result<Look, String> {
        let (Ok(kernel), Some(gate)) = (&self.kernel, &self.gate) else { return Ok(Look::default()) };
        let check = firewall::check(kernel, gate).map_err(|error| chain(&error))?;
        let now = self.layers.netdev().map_err(|error| format!("the network devices cannot be listed: {error}"))?;
        let devices = |netdev: &Option<Netdev>| netdev.as_ref().map(|netdev| netdev.devices.clone()).unwrap_or_default();
        let (before, now) = (devices(&gate.netdev), devices(&now));
        let (gone, come) = (without(&before, &now), without(&now, &before));
        // Chains of a device that has left are left behind by it, or gone with it: that is told of the device.
        let of_gone = |difference: &Difference| gone.iter().any(|device| difference.concerns(device));
        let differences = check.differences.into_iter().filter(|difference| !of_gone(difference)).collect();
        Ok(Look { differences, come, gone })
    }

    /// What each pass of the gate in force has let through; empty where that cannot be read.
    pub fn passed(&self) -> Vec<Option<Passed>> {
        let (Ok(kernel), Some(gate)) = (&self.kernel, &self.gate) else { return Vec::new() };
        match kernel.list() {
            Ok(Some(listing)) => verify::passed(&listing, gate),
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the counters cannot be read");
                Vec::new()
            }
        }
    }

    /// Lifts the gate, where it is down.
    pub fn open(&mut self) -> Outcome {
        let lifted = match &self.kernel {
            Ok(kernel) if self.posture == Posture::Isolated => {
                firewall::lift_standing_gate(kernel, self.layers).map_err(|error| chain(&error))
            }
            Ok(kernel) => firewall::lift_gate(kernel, self.layers).map(drop).map_err(|error| chain(&error)),
            Err(error) => Err(error.clone()),
        };
        match lifted {
            Ok(()) => {
                step("agent.enforced");
                step("agent.severed");
            }
            // A host on which nftables never worked holds no rules of ours.
            Err(_) if self.level == Level::None && self.posture == Posture::Open => {}
            Err(error) => {
                self.evidence.readback_ok = false;
                self.error = Some(format!("the rules cannot be taken away, the host is still isolated: {error}"));
                let _ = self.probe();
                return Outcome::TryAgain;
            }
        }
        if self.posture != Posture::Open {
            self.since = Utc::now();
        }
        self.posture = Posture::Open;
        self.gate = None;
        self.error = None;
        self.evidence = Evidence { readback_ok: true, ..Evidence::default() };
        Outcome::Done
    }
}

/// What a look at the kernel has shown.
#[derive(Debug, Default)]
pub struct Look {
    pub differences: Vec<Difference>,
    /// Devices that no rule covers yet.
    pub come: Vec<Device>,
    pub gone: Vec<Device>,
}

impl Look {
    pub fn is_whole(&self) -> bool {
        self.differences.is_empty() && self.come.is_empty() && self.gone.is_empty()
    }

    /// What somebody must have done, for people. A device that comes is nobody's tampering.
    pub fn tampering(&self) -> Vec<String> {
        let gone = self.gone.iter().map(|device| {
            format!(
                "device {} (index {}) is gone: removed, renamed or moved to another network namespace",
                device.name, device.index
            )
        });
        self.differences.iter().map(ToString::to_string).chain(gone).take(8).collect()
    }
}

fn without(all: &[Device], some: &[Device]) -> Vec<Device> {
    all.iter().filter(|device| !some.contains(device)).cloned().collect()
}

/// The way to the kernel, with the points at which a test stops the process.
struct Stepping<'a>(&'a Kernel);

impl Firewall for Stepping<'_> {
    fn apply(&self, batch: &nftables::schema::Nftables<'_>) -> Result<(), FirewallError> {
        self.0.apply(batch)?;
        step("agent.enforced");
        Ok(())
    }

    fn check(&self, batch: &nftables::schema::Nftables<'_>) -> Result<(), FirewallError> {
        self.0.check(batch)
    }

    fn list(&self) -> Result<Option<Value>, FirewallError> {
        step("agent.severed");
        self.0.list()
    }

    fn stands(&self) -> Result<bool, FirewallError> {
        self.0.stands()
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
