//! What gets by the rules at each level of enforcement.

use portcullis_schemas::events::Level;

/// What gets by the rules up to which level, for people.
pub const LEAKS: &[(Level, &str)] = &[
    (Level::Partial, "frames of packet sockets, outwards"),
    (Level::Partial, "macvlan devices of other network namespaces, outwards"),
    (Level::Partial, "macvtap devices, outwards"),
    (Level::Inet, "macvlan and macvtap devices of other network namespaces, inwards"),
    (Level::Inet, "ports of a bridge, both ways"),
];

/// What a host at this level cannot hold that a higher level holds.
pub fn leaks(level: Level) -> Vec<&'static str> {
    LEAKS.iter().filter(|(until, _)| level <= *until).map(|(_, what)| *what).collect()
}
