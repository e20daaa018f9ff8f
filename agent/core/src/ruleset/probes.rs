//! Questions to the kernel, as transactions that are checked and never made.

use std::net::SocketAddr;

use nftables::batch::Batch;
use nftables::schema::{Chain, Element, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, Table};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use portcullis_schemas::exclusion::{Direction, IcmpType, Protocol};

use super::terms::{accept, base_chain, rule};
use super::{EVERY_DEVICE, Layer, NETDEV, batch, inet, inet_layer, netdev_layer, terms};
use crate::gate::{ControlGroup, Gate, Local, Netdev, Pass, Proof};

/// What is only asked has another name: ours may stand, with an owner and other flags.
pub const PROBE: &str = "portcullis-probe";

/// Asks whether the kernel has a hook on devices; to be checked, never applied.
pub fn probe(hook: NfHook) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NETDEV, name: PROBE.into(), handle: None }));
    let chain = Chain {
        _type: Some(NfChainType::Filter),
        hook: Some(hook),
        prio: Some(0),
        policy: Some(NfChainPolicy::Accept),
        dev: Some("lo".into()),
        table: PROBE.into(),
        ..terms::chain(NETDEV, "probe")
    };
    batch.add(NfListObject::Chain(chain));
    batch.to_nftables()
}

/// Asks whether a chain can stand on every device. Nothing leads on from it, so that whoever lists it and cannot read it is not led astray.
pub fn every_device_probe() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NETDEV, name: PROBE.into(), handle: None }));
    let chain = Chain { dev: Some(EVERY_DEVICE.into()), table: PROBE.into(), ..base_chain("probe", NfHook::Ingress, 0) };
    batch.add(NfListObject::Chain(Chain { family: NETDEV, policy: Some(NfChainPolicy::Accept), ..chain }));
    batch.to_nftables()
}

/// Takes away what was made to be asked about.
pub fn probed() -> Nftables<'static> {
    let mut batch = Batch::new();
    let table = Table { family: NETDEV, name: PROBE.into(), handle: None };
    batch.add(NfListObject::Table(table.clone()));
    batch.delete(NfListObject::Table(table));
    batch.to_nftables()
}

/// Asks whether rules can be about the control group of a socket; to be checked, never applied.
pub fn group_probe() -> Nftables<'static> {
    let mut batch = Batch::new();
    let group = ControlGroup { path: String::new(), id: 1, below: Vec::new() };
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: PROBE.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain { table: PROBE.into(), ..base_chain("output", NfHook::Output, inet::PRIORITY) }));
    let asked = rule(NfFamily::INet, "output", vec![terms::group(&group), accept()]);
    batch.add(NfListObject::Rule(Rule { table: PROBE.into(), ..asked }));
    batch.to_nftables()
}

/// Asks whether the kernel takes a table's flags; to be checked, never applied.
pub fn lock_probe() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family: NfFamily::INet, name: PROBE.into(), handle: None }));
    batch.to_nftables()
}

/// Asks whether the kernel takes the sets and chains of an isolation, each kind of them, on no device, with or without the proof that devices ask
/// for; to be checked, never applied.
pub fn whole_probe(netdev: Option<Netdev>, proves: bool) -> Nftables<'static> {
    let netdev = netdev.map(|netdev| Netdev { devices: Vec::new(), ..netdev });
    let gate = Gate { proof: proves.then(|| Proof::new(1)), ..example(netdev) };
    let layers = [Some(inet_layer(&gate)), gate.netdev.as_ref().map(|netdev| netdev_layer(&gate, netdev))];
    let staged = batch(layers.iter().flatten(), Layer::prepared);
    Nftables { objects: staged.objects.into_owned().into_iter().map(elsewhere).collect() }
}

/// With a pass for each kind of set.
pub(crate) fn example(netdev: Option<Netdev>) -> Gate {
    let remotes = || ["192.0.2.0/24", "2001:db8::/32"].iter().filter_map(|net| net.parse().ok()).collect();
    let pass = |direction, protocol| Pass {
        name: String::new(),
        direction,
        protocol,
        remotes: remotes(),
        remote_ports: Vec::new(),
        local_ports: Vec::new(),
        icmp_types: Vec::new(),
        local: Local::default(),
    };
    let bound = |direction| Pass { local: Local { uid: Some(1), group: None }, ..pass(direction, Protocol::Tcp) };
    let typed = |direction| Pass { icmp_types: vec![IcmpType::EchoRequest], ..pass(direction, Protocol::Icmp) };
    let of = |direction| [pass(direction, Protocol::Tcp), typed(direction), bound(direction)];
    let addresses = ["192.0.2.1:4222", "[2001:db8::1]:4222"].iter().filter_map(|address| address.parse().ok());
    let control: Vec<SocketAddr> = addresses.collect();
    Gate {
        resolvers: control.iter().map(SocketAddr::ip).collect(),
        control,
        passes: [of(Direction::Out), of(Direction::In)].concat(),
        netdev,
        ..Gate::default()
    }
}

/// The same in a table of the other name.
fn elsewhere(object: NfObject<'static>) -> NfObject<'static> {
    let NfObject::CmdObject(NfCmd::Add(object)) = object else { return object };
    let table = PROBE.into();
    let object = match object {
        NfListObject::Table(of) => NfListObject::Table(Table { name: table, ..of }),
        NfListObject::Chain(of) => NfListObject::Chain(Chain { table, ..of }),
        NfListObject::Set(of) => NfListObject::Set(Box::new(Set { table, ..*of })),
        NfListObject::Element(of) => NfListObject::Element(Element { table, ..of }),
        NfListObject::Rule(of) => NfListObject::Rule(Rule { table, ..of }),
        other => other,
    };
    NfObject::CmdObject(NfCmd::Add(object))
}
