//! What conditions look at: one host, and the detection where there is one.

use std::cell::OnceCell;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::Detection;

use super::{HostView, Subject};

/// What a condition may name: all of a detection, or the host alone; and the groups of the policy, where they are known.
#[derive(Clone, Copy)]
pub(super) enum Sees<'g> {
    Event(&'g [String]),
    /// None within the groups themselves.
    Host(Option<&'g [String]>),
}

impl<'g> Sees<'g> {
    pub fn groups(self) -> Option<&'g [String]> {
        match self {
            Sees::Event(groups) => Some(groups),
            Sees::Host(groups) => groups,
        }
    }
}

/// Whether something holds; the error says why that cannot be told.
pub(super) type Held = Result<bool, String>;

/// Which hosts a policy has put together under a name.
pub(super) trait Membership {
    fn names(&self) -> &[String];

    /// Whether the group at this place of `names` takes the host.
    fn takes(&self, group: usize, host: HostView<'_>) -> Held;
}

/// One subject as conditions see it. Groups are looked up once, and only where a condition asks.
pub(super) struct View<'s> {
    pub host: HostView<'s>,
    /// None where hosts alone are judged.
    pub event: Option<Seen<'s>>,
    /// None within the groups themselves.
    groups: Option<&'s dyn Membership>,
    members: OnceCell<Vec<Held>>,
}

/// A detection with what the broker knows of it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'s> {
    pub detection: &'s Detection,
    pub source: &'s str,
    pub at: Timestamp,
}

impl<'s> View<'s> {
    pub fn of(subject: &Subject<'s>, groups: &'s dyn Membership) -> Self {
        let event = Seen { detection: subject.detection, source: subject.source, at: subject.at };
        Self { host: subject.host, event: Some(event), groups: Some(groups), members: OnceCell::new() }
    }

    pub fn of_host(host: HostView<'s>, groups: Option<&'s dyn Membership>) -> Self {
        Self { host, event: None, groups, members: OnceCell::new() }
    }

    /// Whether any of these groups takes the host.
    pub fn in_any(&self, groups: &[usize]) -> Held {
        let mut failed = None;
        for group in groups {
            match self.members().get(*group) {
                Some(Ok(true)) => return Ok(true),
                Some(Err(message)) => failed = failed.or(Some(message)),
                Some(Ok(false)) | None => {}
            }
        }
        failed.map_or(Ok(false), |message| Err(message.clone()))
    }

    /// The names of all groups that take the host; the error where one cannot be told.
    pub fn groups(&self) -> Result<Vec<&'s str>, String> {
        let names = self.groups.map_or(&[][..], Membership::names);
        let mut found = Vec::new();
        for (name, held) in names.iter().zip(self.members()) {
            if held.clone()? {
                found.push(name.as_str());
            }
        }
        Ok(found)
    }

    fn members(&self) -> &[Held] {
        self.members.get_or_init(|| {
            let Some(groups) = self.groups else { return Vec::new() };
            (0..groups.names().len()).map(|group| groups.takes(group, self.host)).collect()
        })
    }
}
