//! AF_XDP sockets: what they send passes no rule, and no event of the kernel tells of them.

use std::fs;
use std::io;

/// How many sockets of each kind this network namespace has. Sockets of AF_XDP bind to devices of their own namespace alone.
const PROTOCOLS: &str = "/proc/net/protocols";

/// How many are open in the network namespace of this process, bound to a device or about to be.
pub fn open() -> io::Result<u64> {
    fs::read_to_string(PROTOCOLS).map(|text| sockets(&text))
}

/// The third field of the line of a protocol counts its sockets (net/core/sock.c, proto_seq_printf).
fn sockets(text: &str) -> u64 {
    let of = |line: &str| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "XDP").then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    text.lines().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_and_a_kernel_without_them_has_none() {
        let text = "protocol  size sockets  memory press maxhdr  slab module     cl co\n\
                    PACKET    1792      3      -1   NI       0   no   kernel      n  n\n\
                    XDP       1152      2      -1   NI       0   no   kernel      n  n\n";
        assert_eq!((sockets(text), sockets("protocol size sockets\n")), (2, 0));
    }
}
