//! The kernel's side of an isolation, as a test can stop the agent in it.

use nftables::schema::Nftables;
use portcullis_agent_core::verify::Listing;

use crate::failpoint::step;
use crate::firewall::{Firewall, FirewallError, Kernel};
use crate::watch::Subscription;

/// The way to the kernel, with the points at which a test stops the process.
pub(super) struct Stepping<'a> {
    pub kernel: &'a Kernel,
    /// Begins when rules are in force.
    pub watch: Option<&'a Subscription>,
}

impl Firewall for Stepping<'_> {
    fn apply(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.kernel.apply(batch)?;
        step("agent.enforced");
        Ok(())
    }

    fn prepare(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.kernel.prepare(batch)?;
        step("agent.prepared");
        Ok(())
    }

    fn in_force(&self) {
        self.watch.inspect(|watch| watch.begin());
    }

    fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.kernel.check(batch)
    }

    fn list(&self) -> Result<Option<Listing>, FirewallError> {
        step("agent.severed");
        self.kernel.list()
    }

    fn stands(&self) -> Result<bool, FirewallError> {
        self.kernel.stands()
    }
}
