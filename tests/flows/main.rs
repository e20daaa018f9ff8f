//! Flows: the whole product from the outside, on a real nats-server and real nftables.

mod automatic;
mod bad_input;
mod brokers;
mod clock;
mod crowded;
mod devices;
mod disk;
mod exclusions;
mod flood;
mod floods;
mod headers;
mod lab;
mod local;
mod lost_log;
mod manual;
mod own_user;
mod posture;
mod probes;
mod readback;
mod relays;
mod restore;
mod roles;
mod serve;
mod tamper;
mod two;
mod up;
