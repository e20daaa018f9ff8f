//! Where the brokers' names were when they were last resolved, for a start without DNS.

use std::{fs, io};

use portcullis_agent_core::record::{Broker, StoredRecord};

use crate::disk::posture_file::{self, PostureFile};

const FILE: &str = "brokers.json";

/// From a former process; as the gate dropped where that cannot be read.
pub fn recall(file: &PostureFile, stored: &StoredRecord) -> Vec<Broker> {
    let written = fs::read(file.beside(FILE)).ok().and_then(|body| serde_json::from_slice(&body).ok());
    let frozen = || stored.record().and_then(|record| record.frozen.as_ref()).map(|frozen| frozen.brokers.clone());
    written.or_else(frozen).unwrap_or_default()
}

pub(super) fn keep(file: &PostureFile, brokers: &[Broker]) {
    let path = file.beside(FILE);
    let kept = serde_json::to_vec(brokers).map_err(io::Error::other);
    if let Err(error) = kept.and_then(|body| posture_file::replace(&path, &body)) {
        tracing::warn!(%error, file = %path.display(), "brokers' addresses not written: the next start resolves them");
    }
}
