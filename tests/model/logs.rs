//! The logs of a world, decided again at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_core::machine::Log;
use portcullis_core::replay::{Recording, replay};
use portcullis_policy::Policy;
use portcullis_schemas::Stream;

use crate::broker::{Broker, prefix};

/// Invariant (k): what was decided is a function of the logs.
pub fn replayed(broker: &Broker, policies: &[Arc<Policy>]) -> Result<(), String> {
    let mut streams: BTreeMap<Stream, BTreeMap<u64, _>> = BTreeMap::new();
    let mut keep = |stream, message: portcullis_core::machine::Message| {
        streams.entry(stream).or_default().insert(message.sequence, message);
    };
    for log in [Log::Orders, Log::Decisions] {
        broker.read(log, 0).into_iter().for_each(|message| keep(log.stream(), message));
    }
    (0..broker.states.len()).for_each(|index| keep(Stream::States, broker.state(index)));
    (0..broker.inventories.len()).for_each(|index| keep(Stream::Inventory, broker.inventory(index)));
    for index in 0..broker.inputs.len() {
        let delivered = broker.delivered(index, false);
        keep(delivered.stream, delivered.message);
    }
    let policies = policies.iter().map(|policy| (policy.hash().to_owned(), Arc::clone(policy))).collect();
    let done = replay(&Recording { prefix: prefix(), streams, policies });
    done.differences.first().map_or(Ok(()), |one| Err(format!("(k) {one}")))
}
