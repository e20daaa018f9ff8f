//! Devices by the thousand, and devices that come or get another name: what the layer on them costs, and that nothing gets out meanwhile.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_agent::firewall::enforce::{Enforcer, Outcome};
use portcullis_agent::firewall::{Firewall, Kernel, Layers};
use portcullis_agent::host::devices;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Gate, Netdev};
use portcullis_agent_core::ruleset::{EVERY_DEVICE, extend, open, refill};
use portcullis_agent_core::verify;
use portcullis_schemas::events::Level;
use rustix::time::{ClockId, clock_gettime};

use crate::net::{Namespace, Net, gate, render};
use crate::sniff::Sniffer;

/// Writes frames past the host's own stack, by the device's index, to the stranger at port 7000 + milliseconds since argv[1], with the pause argv[3].
/// Says how many when its input ends.
const FLOOD: &str = r#"
import select, socket, struct, sys, time
start, device, pause = float(sys.argv[1]), sys.argv[2], float(sys.argv[3])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind((device, 0x0800))
s.setblocking(False)
head = bytes.fromhex("020000000001" "020000000002" "0800")
sent = 0
print("begun", flush=True)
while sent < 1000 or sent % 16 or not select.select([sys.stdin], [], [], 0)[0]:
    select.select([sys.stdin], [], [], pause) if pause else None
    port = 7000 + min(58000, int((time.monotonic() - start) * 1000))
    udp = struct.pack("!HHHH", port, port, 8, 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes([10, 99, 0, 2]), bytes([10, 99, 0, 3]))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xffff) + (total >> 16)
    try:
        s.send(head + ip[:10] + struct.pack("!H", 0xffff ^ total) + ip[12:] + udp)
        sent += 1
    except OSError:
        sent += 1
print(sent)
"#;

struct Flood(Child);

impl Flood {
    fn begin(net: &Net, device: &str) -> Self {
        Self::with_pause(net, device, "0")
    }

    fn with_pause(net: &Net, device: &str, pause: &str) -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let start = format!("{}.{:09}", now.tv_sec, now.tv_nsec);
        let mut child = net.host.run(|| {
            let mut python = Command::new("python3");
            python.args(["-c", FLOOD, &start, device, pause]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        });
        let mut begun = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut begun).unwrap();
        Self(child)
    }

    /// How many frames were tried.
    fn end(mut self) -> u32 {
        self.0.stdin.take().unwrap().flush().unwrap();
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

/// When the flood's frames left, in milliseconds from its start.
fn left(sniffer: &Sniffer, net: &Net) -> Vec<u32> {
    let port = |seen: &String| seen.strip_prefix("udp 10.99.0.3:")?.parse::<u32>().ok();
    sniffer.seen(net).iter().filter_map(port).map(|port| port - 7000).collect()
}

/// Time of a processor that this process has used, the kernel's work for it included: a busy machine does not make it longer.
fn working() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec as u32)
}

/// As many devices of a host with containers, on one that is not the way out.
fn crowd(net: &Net, number: usize) {
    net.host.sh("ip link add crowd type veth peer name crowd-peer");
    let lines: String = (0..number).map(|n| format!("link add link crowd name m{n} type macvlan mode bridge\n")).collect();
    net.host.run(|| {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
    });
}

#[test]
fn one_device_more_costs_the_same_among_few_and_among_thousands() {
    for number in [101, 1_001, 5_001] {
        let net = Net::new();
        crowd(&net, number - 3);
        let sniffer = Sniffer::new(&net.outside);
        let begun = Instant::now();
        let flood = Flood::with_pause(&net, "eth0", "0.001");
        let (mut enforcer, took, worked) = net.host.run(|| {
            let mut enforcer = Enforcer::new(Level::Full, false);
            let (start, before) = (Instant::now(), working());
            assert_eq!(enforcer.isolate(&gate()), Outcome::Done, "{:?}", enforcer.error);
            (enforcer, start.elapsed(), working() - before)
        });
        let order = begun.elapsed() - took;
        let tried = flood.end();
        let last = left(&sniffer, &net).into_iter().max().unwrap_or(0);
        let last = Duration::from_millis(last.into()).saturating_sub(order);
        let covered = enforcer.gate().unwrap().netdev.clone().unwrap();
        assert_eq!(covered.devices.len(), number);
        let came = |name: &str| {
            net.host.sh(&format!("ip link add link crowd name {name} type macvlan mode bridge"));
            net.host.run(|| devices::list().unwrap().into_iter().find(|device| device.name == name).unwrap())
        };
        let late = came("late");
        let (covering, look) = net.host.run(|| {
            let start = Instant::now();
            assert!(enforcer.cover(&BTreeMap::from([(late.index, Some(late))])).only_came, "nothing else has changed");
            (start.elapsed(), enforcer.look().unwrap())
        });
        // What shuts the next one, alone.
        let batch = extend(&covered, &[came("later")]);
        let alone = net.host.run(|| {
            let kernel = Kernel::open().unwrap();
            let start = Instant::now();
            if !batch.objects.is_empty() {
                kernel.apply(&batch).unwrap();
            }
            start.elapsed()
        });
        assert!(look.is_whole(), "{:?}", look.differences);
        println!(
            "{number} devices: rules on them in force after {:?}, last of {tried} frames after {last:?}, read back after {took:?}, \
             {worked:?} of a processor in all; one more shut in {alone:?}, with its address done in {covering:?}",
            enforcer.took
        );
    }
}

#[test]
fn what_a_transaction_for_new_devices_leaves_is_what_a_whole_one_would() {
    let net = Net::new();
    let layers = net.host.run(|| Layers::probe(&Kernel::open().unwrap(), Level::Full));
    let now = || Gate { netdev: net.host.run(|| layers.netdev().unwrap()), ..gate() };
    let before = now();
    net.host.run(|| Kernel::open().unwrap().apply(&render(&before)).unwrap());
    net.host.sh("ip link add a0 type veth peer name a1; ip tuntap add t0 mode tun");
    let after = now();
    let found = net.host.run(|| {
        let kernel = Kernel::open().unwrap();
        let (old, now) = (before.netdev.as_ref().unwrap(), after.netdev.as_ref().unwrap());
        let new: Vec<_> = now.devices.iter().filter(|device| !old.devices.contains(device)).cloned().collect();
        assert_eq!(new.len(), 3);
        for batch in [extend(old, &new), refill(old, &after)].iter().filter(|batch| !batch.objects.is_empty()) {
            kernel.apply(batch).unwrap();
        }
        verify::read(kernel.list().unwrap().unwrap())
    });
    assert_eq!(verify::differences(CompiledRules::new(after.clone()).expected(), &found), []);
}

/// One chain for all, whether nft here could show it or not: it is not asked.
fn on_every_device(net: &Net) -> Kernel {
    net.host.run(|| {
        let kernel = Kernel::open().unwrap();
        let netdev = Netdev { egress: true, every_device: true, devices: devices::list().unwrap() };
        kernel.apply(&render(&Gate { netdev: Some(netdev), ..gate() })).unwrap();
        kernel
    })
}

fn lift(net: &Net, kernel: &Kernel) {
    net.host.run(|| kernel.apply(&open(Layers::probe(kernel, Level::Full).families())).unwrap());
}

#[test]
fn a_device_that_is_renamed_under_a_flood_lets_no_frame_out_by_the_chain_for_every_device() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let kernel = on_every_device(&net);
    left(&sniffer, &net);
    let flood = Flood::begin(&net, "eth0");
    for n in 0..50 {
        let (old, new) = (if n % 2 == 0 { "eth0" } else { "other" }, if n % 2 == 0 { "other" } else { "eth0" });
        net.host.sh(&format!("ip link set {old} name {new}"));
    }
    let tried = flood.end();
    let while_renamed = left(&sniffer, &net);
    assert!(while_renamed.is_empty(), "{} of {tried} frames got out", while_renamed.len());
    lift(&net, &kernel);
    let flood = Flood::begin(&net, "eth0");
    let open = flood.end();
    assert!(!left(&sniffer, &net).is_empty(), "the sniffer sees such frames: {open} were tried");
    println!("50 renames, {tried} frames tried, none got out");
}

#[test]
fn a_device_that_comes_lets_no_frame_out_before_anybody_hears_of_it_by_the_chain_for_every_device() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let kernel = on_every_device(&net);
    let away = Namespace::new();
    // Under a name that nobody knew, and moved here from elsewhere.
    net.host.sh("ip link set eth0 down");
    away.take(&net.host, "eth0");
    away.ip(&["link", "set", "eth0", "name", "came"]);
    net.host.take(&away, "came");
    net.host.sh("ip addr add 10.99.0.2/24 dev came; ip link set came up");
    let flood = Flood::begin(&net, "came");
    let tried = flood.end();
    let got_out = left(&sniffer, &net);
    assert!(tried > 0 && got_out.is_empty(), "{} of {tried} frames got out", got_out.len());
    lift(&net, &kernel);
    let flood = Flood::begin(&net, "came");
    flood.end();
    assert!(!left(&sniffer, &net).is_empty(), "the sniffer sees such frames");
}

#[test]
fn nobody_meets_a_chain_that_his_nft_would_read_for_ever() {
    let net = Net::new();
    let (covers, left) =
        net.host.run(|| (Kernel::open().unwrap().covers_every_device(), Kernel::open().unwrap().list().unwrap()));
    assert!(left.is_none());
    assert_eq!(net.host.sh("nft list ruleset"), "", "what is asked leaves nothing");
    net.isolate(&gate());
    let listed = net.host.sh("timeout 20 nft -j list ruleset");
    println!("one chain for every device: {covers}");
    assert_eq!(listed.contains("\"out-"), !covers, "{listed}");
    assert!(!listed.contains(EVERY_DEVICE), "no name of a device");
}
