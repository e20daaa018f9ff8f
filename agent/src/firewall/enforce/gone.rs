//! Devices that rules covered and that have left, and what became of them.

use portcullis_agent_core::gate::{Device, Netdev};

/// A device that the rules covered and that is not there any more as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneDevice {
    pub device: Device,
    /// The device that has its index now.
    now: Option<Device>,
}

impl GoneDevice {
    /// Whether the kernel has not said yet what became of it: a device is not listed any more before it says so. `left` is what it said.
    pub fn is_unexplained(&self, left: &[(u32, bool)]) -> bool {
        self.now.is_none() && left.iter().all(|(index, _)| *index != self.device.index)
    }

    /// It is in another network namespace, and nothing here can cover it.
    pub fn is_away(&self, left: &[(u32, bool)]) -> bool {
        self.now.is_none() && left.contains(&(self.device.index, true))
    }

    /// What became of it, for people.
    pub fn tampering(&self, left: &[(u32, bool)]) -> String {
        let Device { index, name, .. } = &self.device;
        match &self.now {
            Some(now) if now.name != *name => format!("device {name} (index {index}) was renamed to {}", now.name),
            Some(_) => format!("device {name} (index {index}) has another address"),
            None if self.is_away(left) => format!("device {name} (index {index}) was moved to another network namespace"),
            None => format!("device {name} (index {index}) was removed"),
        }
    }
}

pub(super) fn gone(before: &Option<Netdev>, now: &Option<Netdev>) -> Vec<GoneDevice> {
    let devices = |netdev: &Option<Netdev>| netdev.as_ref().map(|netdev| netdev.devices.clone()).unwrap_or_default();
    let now = devices(now);
    let left = devices(before).into_iter().filter(|device| !now.contains(device));
    left.map(|device| GoneDevice { now: now.iter().find(|now| now.index == device.index).cloned(), device }).collect()
}
