//! What differs from gate to gate: the sets that the rules ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftables::expr::{Elem, Expression, NamedExpression};
use nftables::schema::SetType;
use nftables::stmt::Counter;
use portcullis_schemas::exclusion::{Direction, Protocol};

use super::many::{self, Split};
use super::terms::{concat, range};
use crate::cells::{self, Cell, Family, Span};
use crate::gate::{Connection, Gate, Pass, plain};

/// The names of each pair are those of IPv4 and IPv6.
pub(super) const CONTROL: [&str; 2] = ["control4", "control6"];
pub(super) const RESOLVER: [&str; 2] = ["resolver4", "resolver6"];
pub(super) const OUT: [&str; 2] = ["out4", "out6"];
pub(super) const IN: [&str; 2] = ["in4", "in6"];
pub(super) const ICMP_OUT: [&str; 2] = ["icmp-out4", "icmp-out6"];
pub(super) const ICMP_IN: [&str; 2] = ["icmp-in4", "icmp-in6"];
pub(super) const STANDING: [&str; 2] = ["standing4", "standing6"];
pub(super) const FRAGMENTS: [&str; 2] = ["fragments4", "fragments6"];
/// All passes for a user or unit together; what comes in carries neither.
pub(super) const BOUND_OUT: [&str; 2] = ["bound-out4", "bound-out6"];
pub(super) const BOUND_IN: [&str; 2] = ["bound-in4", "bound-in6"];

/// A set of ours, with what is in it.
#[derive(Clone, Debug)]
pub(crate) struct SetOf {
    pub name: String,
    pub types: Vec<SetType>,
    pub is_interval: bool,
    /// Each element counts what it lets pass.
    pub counts: bool,
    /// Each with the passes that it is a part of, by their places in the gate.
    pub elements: Vec<(Expression<'static>, Vec<usize>)>,
}

impl SetOf {
    /// Whether it holds [`Gate::standing`].
    pub fn is_of_standing(&self) -> bool {
        STANDING.contains(&self.name.as_str())
    }

    /// The elements as they are written.
    pub fn rendered(&self) -> Vec<Expression<'static>> {
        let render = |(key, _): &(Expression<'static>, _)| {
            // nft 1.0.6 leaves it out, of what it reads as JSON; rules that reach the kernel directly have it.
            let counter = Some(Counter::Anonymous(None));
            let elem = Elem { val: Box::new(key.clone()), timeout: None, expires: None, comment: None, counter };
            if self.counts { Expression::Named(NamedExpression::Elem(elem)) } else { key.clone() }
        };
        self.elements.iter().map(render).collect()
    }
}

/// The sets of the inet table.
pub(crate) fn inet(gate: &Gate) -> Vec<SetOf> {
    let mut sets = common(gate, true);
    for (rank, (place, pass)) in bound(gate).into_iter().enumerate() {
        for family in families(pass) {
            let cells = cells::cells([(place, pass)].into_iter(), pass.direction, family);
            sets.push(of_cells(bound_name(rank, family), cells, family, true));
        }
    }
    sets.retain(is_asked);
    sets
}

/// Nothing would be found in an empty one. What stood is known last, and is looked for wherever something may stand.
fn is_asked(set: &SetOf) -> bool {
    !set.elements.is_empty() || set.is_of_standing()
}

/// The sets of the netdev table, which knows neither users nor connections.
pub(super) fn netdev(gate: &Gate) -> Vec<SetOf> {
    let mut sets = common(gate, false);
    for (index, family) in FAMILIES.into_iter().enumerate() {
        let spans = cells::protocols_and_remotes(gate, family);
        let is_many = spans.len() > many::FEW;
        let (mut senders, mut elements) = (Vec::new(), Vec::new());
        for (protocol, remote) in spans {
            match many::single(protocol, remote).filter(|_| is_many) {
                Some((protocol, remotes)) => {
                    senders.extend(remotes.map(|remote| (concat([number(protocol), address(remote, family)]), Vec::new())));
                }
                None => elements.push((concat([range(protocol, number), address_span(remote, family)]), Vec::new())),
            }
        }
        for (name, is_interval, elements) in [(FRAGMENTS[index], true, elements), (many::SENDERS[index], false, senders)] {
            let types = vec![SetType::InetProto, address_type(family)];
            sets.push(SetOf { name: name.to_owned(), types, is_interval, counts: false, elements });
        }
    }
    sets.retain(is_asked);
    sets
}

/// Passes that are for a user or unit, with their places in the gate; the same ones have the same order.
pub(super) fn bound(gate: &Gate) -> Vec<(usize, &Pass)> {
    let mut bound: Vec<_> = chosen(gate, |pass| !pass.local.is_anybody()).collect();
    bound.sort_unstable_by_key(|(_, pass)| *pass);
    bound
}

/// The families that a pass has addresses of.
pub(super) fn families(pass: &Pass) -> impl Iterator<Item = Family> {
    let has = |family: Family| pass.remotes.iter().any(|net| net.addr().is_ipv4() == (family == Family::V4));
    FAMILIES.into_iter().filter(move |family| has(*family))
}

pub(super) fn bound_name(rank: usize, family: Family) -> String {
    format!("bound-{rank}-{}", if family == Family::V4 { 4 } else { 6 })
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn chosen(gate: &Gate, choice: impl Fn(&Pass) -> bool) -> impl Iterator<Item = (usize, &Pass)> {
    gate.passes.iter().enumerate().filter(move |(_, pass)| choice(pass))
}

/// What both tables ask; one of them counts.
fn common(gate: &Gate, counts: bool) -> Vec<SetOf> {
    let mut sets = Vec::new();
    for (index, family) in FAMILIES.into_iter().enumerate() {
        let kind = address_type(family);
        let ours = |address: IpAddr| address.is_ipv4() == (family == Family::V4);
        let mut exact = |name: &str, types: Vec<SetType>, elements: Vec<Expression<'static>>| {
            let elements = elements.into_iter().map(|element| (element, Vec::new())).collect();
            sets.push(SetOf { name: name.to_owned(), types, is_interval: false, counts: false, elements });
        };
        let servers = distinct(gate.control.iter().map(|server| plain(*server)).filter(|server| ours(server.ip())));
        let servers = servers.iter().map(|server| concat([ip(server.ip()), port(server.port())])).collect();
        exact(CONTROL[index], vec![kind, SetType::InetService], servers);

        let resolvers = distinct(gate.resolvers.iter().map(IpAddr::to_canonical).filter(|address| ours(*address)));
        let resolvers = resolvers.into_iter().map(|address| concat([ip(address), port(DNS)])).collect();
        exact(RESOLVER[index], vec![kind, SetType::InetService], resolvers);

        sets.extend(standing_of(gate, index, family));
        exclusions(gate, index, family, counts, &mut sets);
    }
    sets
}

/// The sets that hold [`Gate::standing`], the same in both tables.
pub(crate) fn standing(gate: &Gate) -> Vec<SetOf> {
    FAMILIES.into_iter().enumerate().filter_map(|(index, family)| standing_of(gate, index, family)).collect()
}

fn standing_of(gate: &Gate, index: usize, family: Family) -> Option<SetOf> {
    let (kind, ours) = (address_type(family), |address: IpAddr| address.is_ipv4() == (family == Family::V4));
    let standing = distinct(gate.standing.iter().map(|c| Connection::new(c.protocol, c.local, c.remote)));
    // A connection between the two families does not exist, and would fail the whole transaction.
    let standing = standing.iter().filter(|c| ours(c.local.ip()) && ours(c.remote.ip()));
    let elements: Vec<_> = standing.map(|connection| (tuple_element(connection), Vec::new())).collect();
    if elements.is_empty() && !gate.passes.iter().any(|pass| families(pass).any(|of| of == family)) {
        return None;
    }
    let types = vec![SetType::InetProto, kind, SetType::InetService, kind, SetType::InetService];
    Some(SetOf { name: STANDING[index].to_owned(), types, is_interval: false, counts: false, elements })
}

const DNS: u16 = 53;

fn exclusions(gate: &Gate, index: usize, family: Family, counts: bool, sets: &mut Vec<SetOf>) {
    let anybody = |pass: &Pass| pass.local.is_anybody();
    let directions = [
        (Direction::Out, OUT, many::PEERS_OUT, many::HOSTS_OUT, ICMP_OUT, BOUND_OUT),
        (Direction::In, IN, many::PEERS_IN, many::HOSTS_IN, ICMP_IN, BOUND_IN),
    ];
    for (direction, of_rest, of_peers, of_hosts, of_icmp, of_bound) in directions {
        let Split { peers, hosts, rest } = many::split(cells::cells(chosen(gate, anybody), direction, family), direction);
        sets.push(of_cells(of_rest[index].to_owned(), rest, family, counts));

        let types = vec![SetType::InetProto, address_type(family), SetType::InetService];
        let key = |(protocol, remote, near, owners): (u8, u128, u16, Vec<usize>)| {
            (concat([number(protocol), address(remote, family), port(near)]), owners)
        };
        let elements = peers.into_iter().map(key).collect();
        sets.push(SetOf { name: of_peers[index].to_owned(), types: types.clone(), is_interval: false, counts, elements });

        let key =
            |(protocol, remote, owners): (u8, u128, Vec<usize>)| (concat([number(protocol), address(remote, family)]), owners);
        let elements = hosts.into_iter().map(key).collect();
        sets.push(SetOf { name: of_hosts[index].to_owned(), types: types[..2].into(), is_interval: false, counts, elements });

        let cells = cells::icmp_cells(chosen(gate, anybody), direction, family);
        let elements = cells.into_iter().map(|cell| (icmp_key(&cell, family), cell.owners)).collect();
        sets.push(SetOf { name: of_icmp[index].to_owned(), types, is_interval: true, counts, elements });

        let cells = cells::cells(chosen(gate, |pass| !anybody(pass)), direction, family);
        sets.push(of_cells(of_bound[index].to_owned(), cells, family, false));
    }
}

fn of_cells(name: String, cells: Vec<Cell>, family: Family, counts: bool) -> SetOf {
    SetOf {
        name,
        types: vec![SetType::InetProto, address_type(family), SetType::InetService, SetType::InetService],
        is_interval: true,
        counts,
        elements: cells.into_iter().map(|cell| (cell_key(&cell, family), cell.owners)).collect(),
    }
}

fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

fn address_type(family: Family) -> SetType {
    match family {
        Family::V4 => SetType::Ipv4Addr,
        Family::V6 => SetType::Ipv6Addr,
    }
}

fn address_span(span: Span<u128>, family: Family) -> Expression<'static> {
    range(span, |bits| address(bits, family))
}

fn address(bits: u128, family: Family) -> Expression<'static> {
    match family {
        Family::V4 => ip(Ipv4Addr::from_bits(bits as u32).into()),
        Family::V6 => ip(Ipv6Addr::from_bits(bits).into()),
    }
}

fn cell_key(cell: &Cell, family: Family) -> Expression<'static> {
    let (remote, remote_port, local_port) = (address_span(cell.remote, family), cell.remote_port, cell.local_port);
    concat([range(cell.protocol, number), remote, range(remote_port, port), range(local_port, port)])
}

fn icmp_key(cell: &cells::IcmpCell, family: Family) -> Expression<'static> {
    let protocol = if family == Family::V4 { 1 } else { 58 };
    concat([number(protocol), address_span(cell.remote, family), range(cell.type_and_code, port)])
}

fn tuple_element(c: &Connection) -> Expression<'static> {
    let protocol = match Protocol::from(c.protocol) {
        Protocol::Udp => 17,
        _ => 6,
    };
    concat([number(protocol), ip(c.local.ip()), port(c.local.port()), ip(c.remote.ip()), port(c.remote.port())])
}

fn ip(address: IpAddr) -> Expression<'static> {
    Expression::String(address.to_string().into())
}

fn number(number: u8) -> Expression<'static> {
    Expression::Number(number.into())
}

fn port(port: u16) -> Expression<'static> {
    Expression::Number(port.into())
}
