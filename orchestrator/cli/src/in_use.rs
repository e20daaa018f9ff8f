//! Roles and labels that hosts have, for what a policy names.

use portcullis_policy::InUse;

use crate::client::HostView;

pub fn of(hosts: &[HostView]) -> InUse {
    let mut used = InUse::default();
    for inventory in hosts.iter().filter_map(|host| host.inventory.as_ref()) {
        used.roles.extend(inventory.hello.roles.iter().cloned());
        for (name, value) in inventory.labels().iter() {
            used.labels.entry(name.clone()).or_default().insert(value.clone());
        }
    }
    used
}
