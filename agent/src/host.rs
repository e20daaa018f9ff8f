//! What this host is: its clocks, network devices, addresses and routes, name servers, users and units. Asks, and changes nothing of them.

pub mod addresses;
pub mod clock;
pub mod devices;
pub mod dns;
pub mod facts;
pub mod groups;
pub mod leases;
pub mod links;
pub mod memory;
pub mod places;
pub mod routes;
pub mod users;
