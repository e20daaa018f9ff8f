//! Exclusions beyond addresses and ports: other protocols, types of ICMP, one user, one unit, and the agent's own questions to name servers.

use std::fs;
use std::net::IpAddr;

use portcullis_agent::firewall::Kernel;
use portcullis_agent::host::groups;
use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_agent_core::verify::{self, Passed};
use portcullis_schemas::exclusion::{Direction, IcmpType, Protocol};

use crate::net::{AGENT_UID, FRIEND, HOST, Namespace, Net, SILENCE, SOON, STRANGER, at, gate, pass};

const USER: u32 = 64_991;

#[test]
fn one_user_gets_through_and_root_does_not() {
    let net = Net::new();
    let mine = Pass { local: Local { uid: Some(USER), group: None }, ..pass(Direction::Out, Protocol::Tcp, 8100, 0) };
    net.isolate(&Gate { passes: [gate().passes, vec![mine]].concat(), ..gate() });
    for friend in FRIEND {
        let listener = net.outside.listen(at(friend, 8100));
        assert!(connects(&net, &format!("os.setgid({USER}); os.setuid({USER})"), friend, 8100), "{friend}");
        assert!(!connects(&net, "pass", friend, 8100), "{friend}: root");
        assert!(!connects(&net, &format!("os.setgid({USER}); os.setuid({USER})"), friend, 8101), "{friend}: another port");
        drop(listener);
    }
    assert!(!connects(&net, &format!("os.setuid({USER})"), STRANGER[0], 8100), "somebody else");
}

#[test]
fn a_server_of_one_user_answers_and_nobody_else_in_its_place() {
    let net = Net::new();
    let mine = Pass { local: Local { uid: Some(USER), group: None }, ..pass(Direction::In, Protocol::Tcp, 0, 8200) };
    net.isolate(&Gate { passes: [gate().passes, vec![mine]].concat(), ..gate() });
    for (host, user, through) in [(HOST[0], USER, true), (HOST[1], USER, true), (HOST[0], 0, false)] {
        let server = format!(
            "import os, socket\nos.setuid({user})\ns = socket.create_server(('{host}', 8200), family=socket.AF_INET{})\n\
             print('ready', flush=True)\ns.settimeout(5)\nc, _ = s.accept()\nc.sendall(b'x')\n",
            if host.contains(':') { "6" } else { "" }
        );
        let mut server = Program::new(&net.host, &server);
        assert_eq!(server.line(), "ready");
        let reached =
            net.outside.run(|| std::net::TcpStream::connect_timeout(&at(host, 8200), if through { SOON } else { SILENCE }));
        assert_eq!(reached.is_ok(), through, "{host} by {user}: {reached:?}");
    }
}

#[test]
fn one_unit_gets_through_with_what_is_below_it_until_it_is_another_one() {
    let net = Net::new();
    let unit = Unit::new("one");
    let gate_of = |unit: &Unit| {
        let of_unit =
            Pass { local: Local { uid: None, group: Some(unit.found()) }, ..pass(Direction::Out, Protocol::Tcp, 8100, 0) };
        Gate { passes: [gate().passes, vec![of_unit]].concat(), ..gate() }
    };
    net.isolate(&gate_of(&unit));
    let listeners = FRIEND.map(|friend| net.outside.listen(at(friend, 8100)));
    let other = Unit::new("other");
    for friend in FRIEND {
        assert!(connects(&net, &unit.enter(""), friend, 8100), "{friend}");
        assert!(connects(&net, &unit.enter("inner"), friend, 8100), "{friend}: below");
        assert!(!connects(&net, "pass", friend, 8100), "{friend}: outside of the unit");
        assert!(!connects(&net, &other.enter(""), friend, 8100), "{friend}: another unit");
    }
    // A restart makes another group of the same name.
    unit.remake();
    assert!(!connects(&net, &unit.enter(""), FRIEND[0], 8100), "the old number is nobody's");
    net.isolate(&gate_of(&unit));
    assert!(connects(&net, &unit.enter(""), FRIEND[0], 8100));
    drop(listeners);
}

#[test]
fn standing_connections_stand_for_their_user_and_unit_only() {
    let net = Net::new();
    let unit = Unit::new("standing");
    let passes = vec![
        Pass { local: Local { uid: Some(USER), group: None }, ..pass(Direction::Out, Protocol::Tcp, 8300, 0) },
        Pass { local: Local { uid: None, group: Some(unit.found()) }, ..pass(Direction::Out, Protocol::Tcp, 8301, 0) },
    ];
    let listeners = [8300, 8301].map(|port| net.outside.listen(at(FRIEND[0], port)));
    let mut held: Vec<_> =
        [(format!("os.setuid({USER})"), 8300), ("pass".to_owned(), 8300), (unit.enter(""), 8301), ("pass".to_owned(), 8301)]
            .into_iter()
            .map(|(who, port)| holding(&net, &who, port))
            .collect();
    let dropped = net.isolate(&Gate { passes, ..gate() });
    assert_eq!((dropped.rules.gate().standing.len(), dropped.severed.sockets_killed), (2, 2));
    held.iter_mut().for_each(Program::tell);
    assert_eq!(held.iter_mut().map(Program::line).collect::<Vec<_>>(), ["alive", "severed", "alive", "severed"]);
    drop(listeners);
}

#[test]
fn protocols_by_number_pass_and_others_do_not() {
    let net = Net::new();
    let gre = pass(Direction::Out, Protocol::Number(47), 0, 0);
    net.isolate(&Gate { passes: [gate().passes, vec![gre]].concat(), ..gate() });
    for friend in FRIEND {
        assert!(raw_arrives(&net, 47, friend), "{friend}");
        assert!(!raw_arrives(&net, 50, friend), "{friend}: another protocol");
    }
    let any = pass(Direction::Out, Protocol::Any, 0, 0);
    net.isolate(&Gate { passes: vec![gate().passes[2].clone(), any], ..gate() });
    for friend in FRIEND {
        assert!(raw_arrives(&net, 50, friend), "{friend}: any");
        let (client, server) = net.connected(&net.host, &net.outside, at(friend, 9999));
        drop((client, server));
        assert!(net.host.pings(at(friend, 0), SOON));
    }
    assert!(!raw_arrives(&net, 50, STRANGER[0]));
    assert!(!net.outside.pings(at(HOST[0], 0), SILENCE), "the other direction");
}

#[test]
fn named_types_of_icmp_pass_and_no_others() {
    let net = Net::new();
    let only = |kind| Pass { icmp_types: vec![kind], ..pass(Direction::Out, Protocol::Icmp, 0, 0) };
    let marker = gate().passes[2].clone();
    for (kind, pings, timestamps) in [(IcmpType::EchoRequest, true, false), (IcmpType::TimestampRequest, false, true)] {
        net.isolate(&Gate { passes: vec![marker.clone(), only(kind)], ..gate() });
        assert_eq!(net.host.pings(at(FRIEND[0], 0), if pings { SOON } else { SILENCE }), pings);
        assert_eq!(net.host.pings(at(FRIEND[1], 0), if pings { SOON } else { SILENCE }), pings);
        assert_eq!(timestamp_is_answered(&net), timestamps, "{kind:?}");
        assert!(!net.outside.pings(at(HOST[0], 0), SILENCE));
    }
}

#[test]
fn the_agent_alone_asks_name_servers_and_hears_only_answers() {
    let net = Net::new();
    let resolvers: Vec<IpAddr> = FRIEND.map(|ip| ip.parse().unwrap()).into();
    net.isolate(&Gate { resolvers, ..gate() });
    for (index, friend) in FRIEND.into_iter().enumerate() {
        let server = net.outside.udp(at(friend, 53));
        let _ = net.host.udp(at(HOST[index], 0)).send_to(b"root asks", at(friend, 53));
        assert!(Namespace::silent(&server), "{friend}");
        let asking = format!(
            "import os, socket\nos.setuid({AGENT_UID})\ns = socket.socket(socket.AF_INET{}, socket.SOCK_DGRAM)\ns.settimeout(5)\n\
             s.bind(('', 0))\ns.sendto(b'the agent asks', ('{friend}', 53))\nprint('ready', flush=True)\n\
             print(s.recv(10).decode(), flush=True)\n",
            if friend.contains(':') { "6" } else { "" }
        );
        let mut agent = Program::new(&net.host, &asking);
        assert_eq!(agent.line(), "ready");
        let mut buffer = [0; 20];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"the agent asks");
        server.send_to(b"answer", from).unwrap();
        assert_eq!(agent.line(), "answer");
        // A datagram that only looks like an answer: nobody has asked from there.
        let bystander = net.host.udp(at(HOST[index], 5399));
        server.send_to(b"x", at(HOST[index], 5399)).unwrap();
        assert!(Namespace::silent(&bystander), "{friend}");
    }
}

#[test]
fn each_exclusion_counts_what_it_lets_pass() {
    let net = Net::new();
    net.isolate(&gate());
    let (mut client, mut server) = net.connected(&net.host, &net.outside, at(FRIEND[0], 8000));
    crate::cut::exchange(&mut client, &mut server);
    let listing = net.host.run(|| portcullis_agent::firewall::Firewall::list(&Kernel::open().unwrap()).unwrap().unwrap());
    let passed = verify::passed(&listing, &gate());
    let used = |passed: &Option<Passed>| passed.is_some_and(|passed| passed.packets >= 4 && passed.bytes > passed.packets * 40);
    assert!(used(&passed[0]), "{passed:?}");
    assert_eq!(passed[3], Some(Passed::default()), "nobody came in");
}

/// Whether a TCP connection is made by a process that did `who` first.
fn connects(net: &Net, who: &str, to: &str, port: u16) -> bool {
    let family = family(to);
    let program = format!(
        "import os, socket\n{who}\ntry:\n    s = socket.socket(socket.{family}); s.settimeout(5); s.connect(('{to}', {port}))\n    print('yes')\n\
         except (ConnectionError, PermissionError, socket.timeout) as e:\n    print('no', e)\n"
    );
    python(net, &program).starts_with("yes")
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "AF_INET6" } else { "AF_INET" }
}

fn python(net: &Net, program: &str) -> String {
    let output = net.host.run(|| std::process::Command::new("python3").args(["-c", program]).output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a packet of that protocol comes to `to`, by raw sockets on both sides.
fn raw_arrives(net: &Net, protocol: u8, to: &str) -> bool {
    let family = family(to);
    let receiver = format!(
        "import socket\ns = socket.socket(socket.{family}, socket.SOCK_RAW, {protocol})\nprint('ready', flush=True)\ninput()\n\
         s.settimeout(0.3)\ntry:\n    s.recv(100)\n    print('yes')\nexcept socket.timeout:\n    print('no')\n"
    );
    let mut receiver = Program::new(&net.outside, &receiver);
    assert_eq!(receiver.line(), "ready");
    python(
        net,
        &format!(
            "import socket\ns = socket.socket(socket.{family}, socket.SOCK_RAW, {protocol})\ntry:\n    s.sendto(bytes(16), ('{to}', 0))\n\
         except PermissionError:\n    pass\n"
        ),
    );
    receiver.tell();
    receiver.line() == "yes"
}

fn timestamp_is_answered(net: &Net) -> bool {
    let program = "import socket, struct\n\
        body = bytes([13, 0, 0, 0, 0, 7, 0, 1]) + bytes(12)\n\
        total = sum(struct.unpack('!10H', body)); total = (total & 0xffff) + (total >> 16)\n\
        body = body[:2] + struct.pack('!H', ~total & 0xffff) + body[4:]\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\ns.settimeout(0.5)\n\
        try:\n    s.sendto(body, ('10.99.0.1', 0))\n    while s.recv(100)[20] != 14: pass\n    print('yes')\n\
        except (socket.timeout, PermissionError):\n    print('no')\n";
    python(net, program).starts_with("yes")
}

/// A control group, as systemd makes one for a service.
struct Unit(String);

impl Unit {
    fn new(name: &str) -> Self {
        let unit = Self(format!("pcfw-{}-{name}.service", std::process::id()));
        fs::create_dir_all(unit.path("inner")).unwrap();
        unit
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        groups::root().expect("the second hierarchy is mounted").join(&self.0).join(below)
    }

    fn found(&self) -> portcullis_agent_core::gate::ControlGroup {
        let exclusion = serde_json::from_value(serde_json::json!({
            "name": "unit", "direction": "out", "protocol": "tcp", "remote": "any", "unit": self.0
        }));
        groups::named(&[exclusion.unwrap()]).remove(&self.0).expect("the group is found by its name")
    }

    /// Python that moves its process there.
    fn enter(&self, below: &str) -> String {
        format!("open('{}', 'w').write('0')", self.path(below).join("cgroup.procs").display())
    }

    fn remake(&self) {
        self.remove();
        fs::create_dir_all(self.path("inner")).unwrap();
    }

    fn remove(&self) {
        // The last process may not be gone yet, though it has been waited for.
        let gone = |path: std::path::PathBuf| (0..1_000).any(|_| fs::remove_dir(&path).is_ok() || !path.exists());
        assert!(gone(self.path("inner")) && gone(self.path("")), "{}", self.0);
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.path("inner"));
        let _ = fs::remove_dir(self.path(""));
    }
}

/// Python in a namespace, spoken with by lines; it ends with the test.
struct Program(std::process::Child);

impl Program {
    fn new(namespace: &Namespace, text: &str) -> Self {
        let start = || {
            let mut command = std::process::Command::new("python3");
            command.args(["-c", text]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            command.spawn().unwrap()
        };
        Self(namespace.run(start))
    }

    fn tell(&mut self) {
        std::io::Write::write_all(self.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    }

    /// Byte by byte, so that nothing of the next line is taken; empty at the end.
    fn line(&mut self) -> String {
        let mut text = Vec::new();
        let out = self.0.stdout.as_mut().unwrap();
        let mut byte = [0];
        while std::io::Read::read(out, &mut byte).unwrap() == 1 && byte[0] != b'\n' {
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that holds a connection to the friend, and says what has become of it when it is told to.
fn holding(net: &Net, who: &str, port: u16) -> Program {
    let text = format!(
        "import os, socket\n{who}\ns = socket.socket(); s.settimeout(5); s.connect(('{}', {port}))\nprint('ready', flush=True)\ninput()\n\
         try:\n    s.sendall(b'x')\n    print('alive', flush=True)\nexcept OSError:\n    print('severed', flush=True)\n",
        FRIEND[0]
    );
    let mut program = Program::new(&net.host, &text);
    assert_eq!(program.line(), "ready");
    program
}
