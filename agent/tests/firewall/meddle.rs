//! What somebody does between one step of an isolation and the next is put right, and known.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nftables::schema::Nftables;
use portcullis_agent::firewall::{Firewall, FirewallError, Kernel, Layers, drop_gate, is_down, lift_gate, prepare_gate};
use portcullis_agent_core::verify::Listing;
use portcullis_schemas::events::Level;

use crate::net::{FRIEND, Net, at, close, fitted, gate};

const DEEDS: [&str; 5] = [
    "insert rule inet portcullis input accept",
    "flush ruleset",
    "delete table inet portcullis",
    "flush chain inet portcullis arriving",
    "add chain inet portcullis theirs { type filter hook output priority -300; }",
];
/// Where the layer on the devices has been made ready.
const LATER: &str = "delete table netdev portcullis";
/// Each of the two layers made ready and put in force, the first one made ready before; then all is in force.
const STEPS: usize = 4;

/// Does something of its own after a step.
struct Meddler<'a> {
    kernel: &'a Kernel,
    steps: AtomicUsize,
    after: usize,
    deed: &'a (dyn Fn() + Sync),
}

impl Meddler<'_> {
    fn step(&self) {
        if self.steps.fetch_add(1, Ordering::Relaxed) == self.after {
            (self.deed)();
        }
    }
}

impl Firewall for Meddler<'_> {
    fn apply(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.kernel.apply(batch)?;
        self.step();
        Ok(())
    }

    fn in_force(&self) {
        self.step();
    }

    fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        self.kernel.check(batch)
    }

    fn stands(&self) -> Result<bool, FirewallError> {
        self.kernel.stands()
    }

    fn list(&self) -> Result<Option<Listing>, FirewallError> {
        self.kernel.list()
    }
}

#[test]
fn what_is_done_between_two_steps_is_put_right_and_known() {
    let net = Net::new();
    let (kernel, layers, gate) = net.host.run(|| {
        let kernel = Kernel::open().unwrap();
        let layers = Layers::probe(&kernel, Level::Full);
        (kernel, layers, fitted(layers, &gate()))
    });
    let excluded = Mutex::new(Vec::new());
    for (after, deed, connects) in (0..STEPS).flat_map(|after| {
        let later = (after > 0).then_some((after, LATER, false));
        DEEDS.map(|deed| (after, deed, false)).into_iter().chain(later).chain([(after, DEEDS[0], true)])
    }) {
        let case = format!("after step {after}: {deed}, a connection in between: {connects}");
        let meddle = || {
            assert!(Command::new("nft").arg(deed).status().unwrap().success(), "{case}");
            if connects {
                excluded.lock().unwrap().push(net.connected(&net.host, &net.outside, at(FRIEND[0], 8000)));
            }
        };
        let dropped = net.host.run(|| {
            let prepared = prepare_gate(&kernel, &gate, || ()).1;
            assert!(prepared.is_some(), "{case}");
            let meddler = Meddler { kernel: &kernel, steps: AtomicUsize::new(0), after, deed: &meddle };
            let dropped = drop_gate(&meddler, &gate, prepared).unwrap();
            assert!(meddler.steps.into_inner() > after && is_down(&kernel), "{case}");
            dropped
        });
        assert_eq!(dropped.check.as_ref().unwrap().differences, [], "{case}");
        assert!(!dropped.changed.is_empty() && dropped.partial.is_none(), "{case}: {dropped:?}");
        assert_eq!(dropped.rules.gate().standing.len(), excluded.lock().unwrap().len(), "{case}");
        // A connection that is still on its way out would be kept by the next isolation.
        excluded.lock().unwrap().drain(..).for_each(close);
        net.host.run(|| lift_gate(&kernel, layers)).unwrap();
    }
    // Nobody is accused of what the steps themselves do.
    let dropped = net.host.run(|| drop_gate(&kernel, &gate, prepare_gate(&kernel, &gate, || ()).1)).unwrap();
    assert!(dropped.changed.is_empty(), "{dropped:?}");
}
