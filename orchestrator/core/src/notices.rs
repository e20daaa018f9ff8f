//! Which notices go out: each once in a while, and not at every repetition of its cause.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_schemas::events::Notice;
use portcullis_schemas::ids;
use portcullis_schemas::subjects::FLEET;

use crate::deadlines::Monotonic;

/// The same notice is not sent again within this time.
const QUIET: Duration = Duration::from_secs(3600);
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub struct Notices {
    sent: HashMap<String, Monotonic>,
}

impl Notices {
    /// The id of the notice's event, if it is to be sent at `now`.
    pub fn admit(&mut self, notice: &Notice, now: Monotonic) -> Option<String> {
        let kind = format!("{:?}", notice.kind);
        let host = notice.host.as_ref().map_or(FLEET, |host| host.as_str());
        let text = format!("{}{}", notice.incident.as_deref().unwrap_or_default(), notice.text);
        let id = ids::digest([kind.as_str(), host, &text]);
        if self.sent.get(&id).is_some_and(|sent| now.saturating_sub(*sent) < QUIET) {
            return None;
        }
        if self.sent.len() >= REMEMBERED {
            self.sent.retain(|_, sent| now.saturating_sub(*sent) < QUIET);
        }
        self.sent.insert(id.clone(), now);
        Some(id)
    }
}
