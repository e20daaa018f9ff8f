//! Which notices go out: each once in a while, and not at every repetition of its cause.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use portcullis_schemas::events::Notice;
use portcullis_schemas::ids;
use portcullis_schemas::subjects::FLEET;

use crate::deadlines::Monotonic;

/// The same notice is not sent again within this time.
const QUIET: Duration = Duration::from_secs(3600);
/// With more of them than this within that time, the oldest may be sent again.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub struct Notices {
    sent: HashSet<String>,
    /// The same, the oldest first.
    in_order: VecDeque<(Monotonic, String)>,
}

impl Notices {
    /// The id of the notice's event, if it is to be sent at `now`.
    pub fn admit(&mut self, notice: &Notice, now: Monotonic) -> Option<String> {
        let kind = format!("{:?}", notice.kind);
        let host = notice.host.as_ref().map_or(FLEET, |host| host.as_str());
        let text = format!("{}{}", notice.incident.as_deref().unwrap_or_default(), notice.text);
        let id = ids::digest([kind.as_str(), host, &text]);
        let is_over = |sent: &Monotonic| now.saturating_sub(*sent) >= QUIET;
        while self.in_order.front().is_some_and(|(sent, _)| is_over(sent) || self.in_order.len() >= REMEMBERED) {
            if let Some((_, oldest)) = self.in_order.pop_front() {
                self.sent.remove(&oldest);
            }
        }
        if !self.sent.insert(id.clone()) {
            return None;
        }
        self.in_order.push_back((now, id.clone()));
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_schemas::events::{Notice, NoticeKind, Severity};

    use super::{Monotonic, Notices, QUIET, REMEMBERED};

    #[test]
    fn a_notice_goes_out_once_in_a_while_and_what_is_remembered_is_bounded() {
        let notice = |text: &str| {
            let (kind, severity, text) = (NoticeKind::Ask, Severity::High, text.to_owned());
            Notice { kind, severity, host: None, incident: None, text, outputs: Vec::new() }
        };
        let (mut notices, now) = (Notices::default(), Monotonic::from_secs(1));
        assert!(notices.admit(&notice("a"), now).is_some());
        assert!(notices.admit(&notice("a"), now + QUIET / 2).is_none());
        assert!(notices.admit(&notice("a"), now + QUIET).is_some());
        for n in 0..REMEMBERED {
            assert!(notices.admit(&notice(&format!("n{n}")), now + QUIET).is_some());
        }
        assert_eq!((notices.sent.len(), notices.in_order.len()), (REMEMBERED, REMEMBERED));
        assert!(notices.admit(&notice("a"), now + QUIET).is_some(), "the oldest gave way");
    }
}
