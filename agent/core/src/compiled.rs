//! The rules of one gate, compiled once: what is staged, activated, compared with and printed is made of the same value.

use std::sync::OnceLock;

use nftables::schema::Nftables;
use nftables::types::NfFamily;

use crate::gate::{Connection, Gate, Netdev};
use crate::ruleset::{Layer, NETDEV, batch, inet_layer, netdev_layer, open, standing_sets};
use crate::verify::{self, Ruleset};

/// Each layer is compiled when it is first asked for, and what reading back must give with the first comparison.
#[derive(Debug)]
pub struct CompiledRules {
    gate: Gate,
    inet: OnceLock<Layer>,
    netdev: OnceLock<Layer>,
    expected: OnceLock<(Ruleset, String)>,
}

impl CompiledRules {
    pub fn new(gate: Gate) -> Self {
        Self { gate, inet: OnceLock::new(), netdev: OnceLock::new(), expected: OnceLock::new() }
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Makes the gate the rules of this host, whatever of our tables there is now: nothing, another gate, a dormant or weakened one.
    ///
    /// Base chains are never deleted, and what is refilled is flushed in the same transaction: there is no moment without them.
    pub fn whole(&self) -> Nftables<'static> {
        batch(self.layers(), Layer::whole)
    }

    /// Of each layer, all that no packet is asked about yet: sets, and chains that nothing leads to. [`Self::finish`] is the rest. To be made where no
    /// table of ours is. It takes most of the time, and may be made before it is known what stood ([`Gate::standing`]).
    ///
    /// The kernel shows the elements of a new interval set to packets a moment after it shows the rules of the same transaction (pipapo's own
    /// commit comes last in nf_tables_commit): made in one, what is excluded would be refused in that moment.
    pub fn prepare(&self) -> impl Iterator<Item = Nftables<'static>> {
        self.layers().map(|layer| batch([layer], Layer::prepared))
    }

    /// Of each layer, what [`Self::prepare`] leaves to be done: the base chains, and connections that stood. From then on the layer asks.
    pub fn finish(&self) -> impl Iterator<Item = Nftables<'static>> {
        self.layers().map(|layer| batch([layer], Layer::finished))
    }

    /// The same as [`Self::whole`] where the kernel refuses that, since what is there under our names is of another kind: a chain on another hook or
    /// device, a set of other keys. The tables are made anew. Between the old and the new one frames may pass, so this is for what somebody has
    /// broken only.
    pub fn anew(&self) -> Nftables<'static> {
        let families: &[NfFamily] = if self.gate.netdev.is_some() { &[NfFamily::INet, NETDEV] } else { &[NfFamily::INet] };
        let objects = open(families).objects.iter().chain(self.whole().objects.iter()).cloned().collect();
        Nftables { objects }
    }

    /// What reading back must give while these rules are in force.
    pub fn expected(&self) -> &Ruleset {
        &self.read_back().0
    }

    /// SHA-256 of that.
    pub fn sha256(&self) -> &str {
        &self.read_back().1
    }

    /// Takes what was found to stand. Of the rules nothing else depends on it but two sets, and nothing else is compiled again.
    pub fn set_standing(&mut self, standing: Vec<Connection>) {
        if standing == self.gate.standing {
            return;
        }
        self.gate.standing = standing;
        self.expected.take();
        let sets = standing_sets(&self.gate);
        for layer in [&mut self.inet, &mut self.netdev] {
            if layer.get_mut().is_some_and(|layer| !layer.refill(&sets)) {
                layer.take();
            }
        }
    }

    /// Takes the devices that the second layer covers.
    pub fn set_netdev(&mut self, netdev: Option<Netdev>) {
        if netdev != self.gate.netdev {
            self.gate.netdev = netdev;
            self.forget();
        }
    }

    /// Gives up what can be compiled again.
    pub fn forget(&mut self) {
        self.inet.take();
        self.netdev.take();
        self.expected.take();
    }

    fn read_back(&self) -> &(Ruleset, String) {
        self.expected.get_or_init(|| {
            let expected = verify::of_batch(&self.whole());
            let digest = expected.digest();
            (expected, digest)
        })
    }

    /// The layer that asks for all of the host's own packets comes first.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let inet = std::iter::once_with(|| self.inet.get_or_init(|| inet_layer(&self.gate)));
        let netdev = self.gate.netdev.iter().map(|netdev| self.netdev.get_or_init(|| netdev_layer(&self.gate, netdev)));
        inet.chain(netdev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Netdev, Transport};
    use crate::ruleset::{COMPILED, example};

    #[test]
    fn one_isolation_compiles_each_layer_once() {
        let gate = example(Some(Netdev { egress: true, ..Netdev::default() }));
        let before = COMPILED.get();
        let mut rules = CompiledRules::new(gate.clone());
        let staged = rules.prepare().count();
        let stood = Connection::new(Transport::Tcp, "192.0.2.1:40000".parse().unwrap(), "192.0.2.9:443".parse().unwrap());
        rules.set_standing(vec![stood]);
        let finished: Vec<_> = rules.finish().collect();
        let compared = [rules.expected().digest(), rules.sha256().to_owned()];
        let printed = rules.whole();
        rules.set_standing(Vec::new());
        assert_eq!((staged, finished.len(), COMPILED.get() - before), (2, 2, 2));
        // They are those that would be compiled from the start.
        let anew = CompiledRules::new(Gate { standing: vec![stood], ..gate.clone() });
        assert_eq!(finished, anew.finish().collect::<Vec<_>>());
        assert_eq!((compared, printed), ([anew.sha256().to_owned(), anew.sha256().to_owned()], anew.whole()));
        assert_eq!(rules.expected(), CompiledRules::new(gate).expected());
    }
}
