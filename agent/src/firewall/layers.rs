//! Which layers this kernel has, and what the one on the devices has to cover now.

use std::io;

use nftables::types::{NfFamily, NfHook};
use portcullis_agent_core::gate::Netdev;
use portcullis_agent_core::ruleset;
use portcullis_schemas::events::Level;

use super::Firewall;
use crate::host::devices;

/// The layers of rules that are used on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    ingress: bool,
    egress: bool,
    /// Devices can ask whether the inet table has let a packet out.
    proves: bool,
    /// One chain can stand on every device.
    every_device: bool,
    /// The kernel has the netdev family, whether it is used or not.
    has_netdev: bool,
    /// Rules can ask for the control group of a socket.
    has_groups: bool,
    /// The kernel does not take an isolation's sets and rules at all.
    refuses: bool,
}

impl Layers {
    /// Asks the kernel for each hook. `most` leaves out what is above it, for tests and for kernels whose netdev hooks do harm.
    pub fn probe(firewall: &dyn Firewall, most: Level) -> Self {
        let has = |hook| firewall.check(&ruleset::probe(hook)).is_ok();
        let (ingress, egress) = (has(NfHook::Ingress), has(NfHook::Egress));
        let has_netdev = ingress;
        let (partial, full) = (most >= Level::Partial, most >= Level::Full);
        let has_groups = firewall.check(&ruleset::group_probe()).is_ok();
        let netdev = (ingress && partial).then(|| Netdev { egress: egress && full, ..Netdev::default() });
        let takes = |proves| firewall.check(&ruleset::whole_probe(netdev.clone(), proves)).is_ok();
        let (ingress, egress) = (ingress && partial, ingress && egress && full);
        let proves = egress && takes(true);
        let every_device = ingress && firewall.covers_every_device();
        Self { ingress, egress, proves, every_device, has_netdev, has_groups, refuses: !proves && !takes(false) }
    }

    pub fn level(self) -> Level {
        match (self.ingress, self.proves) {
            _ if self.refuses => Level::None,
            (true, true) => Level::Full,
            (true, false) => Level::Partial,
            (false, _) => Level::Inet,
        }
    }

    /// Whether packets can carry a proof from the inet table to the devices (CONFIG_NETWORK_SECMARK, CONFIG_CGROUP_NET_CLASSID). Without it frames
    /// that leave are judged by their source address, which their sender chooses.
    pub fn proves(self) -> bool {
        self.proves
    }

    /// Whether rules can ask for the control group of a socket (kernel 5.13).
    pub fn has_groups(self) -> bool {
        self.has_groups
    }

    /// The families in which tables of ours may stand.
    pub fn families(self) -> &'static [NfFamily] {
        if self.has_netdev { &[NfFamily::INet, NfFamily::NetDev] } else { &[NfFamily::INet] }
    }

    /// The layer on the devices, with those that are there now.
    pub fn netdev(self) -> io::Result<Option<Netdev>> {
        if !self.ingress {
            return Ok(None);
        }
        Ok(Some(Netdev { egress: self.egress, every_device: self.every_device, devices: devices::list()? }))
    }
}

#[cfg(test)]
mod tests {
    use nftables::schema::{NfCmd, NfListObject, NfObject, Nftables};
    use portcullis_agent_core::verify::Listing;

    use super::*;
    use crate::firewall::FirewallError;

    /// A kernel before 5.6: it has the hooks on devices, and no sets of ranges of several fields.
    struct WithoutRanges;

    impl Firewall for WithoutRanges {
        fn apply(&self, _: &Nftables<'_>) -> Result<(), FirewallError> {
            unreachable!("a question changes nothing")
        }

        fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
            let is_range = |object: &NfObject<'_>| matches!(object, NfObject::CmdObject(NfCmd::Add(NfListObject::Set(set))) if set.flags.is_some());
            if batch.objects.iter().any(is_range) { Err(FirewallError::Silent) } else { Ok(()) }
        }

        fn stands(&self) -> Result<bool, FirewallError> {
            Ok(false)
        }

        fn list(&self) -> Result<Option<Listing>, FirewallError> {
            Ok(None)
        }
    }

    #[test]
    fn a_kernel_that_takes_no_isolation_has_no_level() {
        for most in [Level::Full, Level::Partial, Level::Inet] {
            assert_eq!(Layers::probe(&WithoutRanges, most).level(), Level::None);
        }
    }
}
