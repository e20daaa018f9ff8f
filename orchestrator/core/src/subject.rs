//! A host as policies see it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use portcullis_policy::HostView;
use portcullis_schemas::HostId;
use portcullis_schemas::events::{Hello, Inventory, Level};

use crate::host::Host;

/// What of a host a policy looks at.
pub struct Subject<'a> {
    id: &'a HostId,
    hello: Option<&'a Hello>,
    labels: Cow<'a, BTreeMap<String, String>>,
}

impl<'a> Subject<'a> {
    pub fn of(id: &'a HostId, host: &'a Host) -> Self {
        let inventory = host.inventory.as_deref();
        let labels = inventory.map_or_else(|| Cow::Owned(BTreeMap::new()), Inventory::labels);
        Self { id, hello: inventory.map(|inventory| &inventory.hello), labels }
    }

    pub fn view(&self) -> HostView<'_> {
        HostView {
            id: self.id.as_str(),
            name: self.hello.map_or("", |hello| &hello.hostname),
            labels: &self.labels,
            roles: self.hello.map_or(&[], |hello| &hello.roles),
            level: self.hello.map_or(Level::None, |hello| hello.level),
        }
    }
}
