//! A lab of real namespaces: everything reaches what it should, and nothing stays behind. Needs root.

// A test may panic: that is how it fails.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_dev::{
    AgentConfig, BROKER_PORT, DNS_PORT, ECHO_PORT, Error, HUB_V4, HUB_V6, Lab, LabArgs, LabConfig, Netns, OUTSIDE_V4, OUTSIDE_V6,
    RESOLVER_V4, RESOLVER_V6, clean_stale,
};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn everybody_reaches_what_they_should() {
    let (name, dir) = names("reach");
    let lab = Lab::start(LabConfig::new(&name, 2, &dir)).await.unwrap();
    let outside: [IpAddr; 2] = [OUTSIDE_V4.into(), OUTSIDE_V6.into()];
    for host in lab.hosts() {
        let on_host: [IpAddr; 2] = [host.ipv4.into(), host.ipv6.into()];
        let on_container: [IpAddr; 2] = [host.container_ipv4.into(), host.container_ipv6.into()];
        for (from, to) in [
            (&host.netns, outside),
            (&host.container, outside),
            (lab.outside(), on_host),
            (lab.outside(), on_container),
            (&lab.host(1).container, on_container),
        ] {
            for to in to {
                prove(from, to);
            }
        }
        for resolver in [IpAddr::from(RESOLVER_V4), RESOLVER_V6.into()] {
            prove_dns(&host.netns, resolver);
        }
    }
    end(lab, &dir).await;
}

#[tokio::test]
async fn labs_with_different_names_share_nothing() {
    let (one, dir) = names("one");
    let (two, _) = names("two");
    let (a, b) = tokio::join!(Lab::start(LabConfig::new(&one, 1, &dir)), Lab::start(LabConfig::new(&two, 1, &dir)),);
    let (a, b) = (a.unwrap(), b.unwrap());
    prove(&a.host(1).netns, OUTSIDE_V4.into());
    drop(b);
    assert_eq!(namespaces(&two), [""; 0]);
    prove(&a.host(1).netns, OUTSIDE_V4.into());
    match Lab::start(LabConfig::new(&one, 1, &dir)).await {
        Err(Error::Owned { name, pid }) => {
            assert_eq!((name, pid), (one.clone(), std::process::id().to_string()));
        }
        other => panic!("a living lab's name was given away: {other:?}"),
    }
    end(a, &dir).await;
}

#[tokio::test]
async fn the_door_leads_to_the_broker_and_can_be_shut() {
    let (name, dir) = names("door");
    let broker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap();
    let config = LabConfig { broker: Some(address), ..LabConfig::new(&name, 1, &dir) };
    let lab = Lab::start(config).await.unwrap();
    let host = &lab.host(1).netns;
    for door in doors() {
        let mut client = host.tcp_connect(door, SOON).unwrap();
        let (mut server, _) = broker.accept().unwrap();
        exchange(&mut server, &mut client);
        exchange(&mut client, &mut server);

        lab.cut_broker(true).await.unwrap();
        assert_closed(&mut client);
        assert_closed(&mut server);
        let refused = host.tcp_connect(door, SOON).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        lab.cut_broker(false).await.unwrap();
        lab.cut_broker(false).await.unwrap();
        let mut client = host.tcp_connect(door, SOON).unwrap();
        let (mut server, _) = broker.accept().unwrap();
        exchange(&mut client, &mut server);
    }

    drop(broker);
    assert_closed(&mut host.tcp_connect(doors()[0], SOON).unwrap());
    let broker = std::net::TcpListener::bind(address).unwrap();
    let mut client = host.connect(doors()[0], SOON).await.unwrap().into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    let (mut server, _) = broker.accept().unwrap();
    exchange(&mut client, &mut server);
    end(lab, &dir).await;
}

#[tokio::test]
async fn agents_run_in_their_hosts_and_are_killed_and_stopped_on_request() {
    let (name, dir) = names("agent");
    let agent = AgentConfig { env: vec![("FROM_CONFIG".into(), "yes".into())], args: vec!["--more".into()], ..fake_agent(&dir) };
    let config = LabConfig { agent: Some(agent), ..LabConfig::new(&name, 2, &dir) };
    let lab = Lab::start(config).await.unwrap();
    let (first, second) = (lab.agent(1), lab.agent(2));
    let log = || std::fs::read_to_string(&lab.host(1).log).unwrap();
    until("the agent has started", || log().contains("started"));
    for part in [
        "run --host-id h1 ",
        "nats=nats://10.213.0.1:4222 ",
        &format!(" --label lab={name} "),
        " --more\n",
        "10.213.0.11/24",
        "config=yes request=\n",
    ] {
        assert!(log().contains(part), "{part:?} is not in {}", log());
    }
    let resolv_conf = std::fs::read_to_string(dir.join("h1/resolv.conf")).unwrap();
    assert_eq!(resolv_conf, "nameserver 10.213.0.53\nnameserver fd00:213::53\n");

    let pid = first.pid().unwrap();
    assert!(matches!(first.start(&[]), Err(Error::AgentRuns(_))));
    first.kill9().unwrap();
    first.kill9().unwrap();
    assert!(!first.is_running() && second.is_running());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(first.wait(SOON).await.unwrap().to_string(), "signal: 9 (SIGKILL)");

    first.start(&[("FROM_REQUEST", "too")]).unwrap();
    until("the agent has started again", || log().contains("config=yes request=too\n"));
    assert!(matches!(first.wait(Duration::ZERO).await, Err(Error::AgentLives { .. })));
    until("the agent listens to signals", || log().matches("started").count() == 2);
    assert_eq!(first.stop().await.unwrap().code(), Some(7));
    assert!(!first.is_running());

    let pid = second.pid().unwrap();
    end(lab, &dir).await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_supervised_agent_comes_back() {
    let (name, dir) = names("super");
    let config = LabConfig { agent: Some(fake_agent(&dir)), supervise: true, ..LabConfig::new(&name, 1, &dir) };
    let lab = Lab::start(config).await.unwrap();
    let agent = lab.agent(1);
    let pid = agent.pid();
    agent.kill9().unwrap();
    until("the agent is back", || agent.pid().is_some_and(|new| Some(new) != pid));
    end(lab, &dir).await;
}

#[tokio::test]
async fn what_a_killed_lab_left_is_removed_by_the_next() {
    let (name, dir) = names("killed");
    leave_behind(&name, &dir);
    let lab = Lab::start(LabConfig::new(&name, 1, &dir)).await.unwrap();
    assert_eq!(namespaces(&name).len(), 4, "of two hosts, one is left");
    prove(&lab.host(1).netns, OUTSIDE_V6.into());
    end(lab, &dir).await;
}

#[tokio::test]
async fn clean_stale_removes_the_labs_of_the_dead_only() {
    let (dead, dir) = names("dead");
    let (living, _) = names("living");
    leave_behind(&dead, &dir);
    let lab = Lab::start(LabConfig::new(&living, 1, &dir)).await.unwrap();
    // Another test's, or another process's, cleaning may be faster.
    let cleaned = clean_stale().unwrap();
    assert!(!cleaned.contains(&living));
    until("the dead lab is gone", || namespaces(&dead).is_empty());
    prove(&lab.host(1).netns, OUTSIDE_V4.into());
    end(lab, &dir).await;
}

#[tokio::test]
async fn a_process_that_lives_in_the_lab_does_not_outlive_it() {
    let (name, dir) = names("guest");
    let lab = Lab::start(LabConfig::new(&name, 1, &dir)).await.unwrap();
    let mut guest = lab.host(1).container.command("sleep").arg("1000").spawn().unwrap();
    lab.stop().await.unwrap();
    assert_eq!(guest.wait().unwrap().to_string(), "signal: 9 (SIGKILL)");
    assert_eq!(namespaces(&name), [""; 0]);
    let _never_made = std::fs::remove_dir_all(dir);
}

#[test]
fn the_verb_says_what_there_is_and_cleans_up_when_interrupted() {
    let (name, dir) = names("verb");
    for (json, signal) in [("", Signal::INT), ("yes", Signal::TERM)] {
        let mut verb = helper("helper_that_is_interrupted", &name, &dir).env("PCLAB_HELPER_JSON", json).spawn().unwrap();
        let mut lines = BufReader::new(verb.stdout.take().unwrap()).lines().map(Result::unwrap);
        let ready = if json.is_empty() { format!("lab {name:?} is ready") } else { format!("{{\"lab\":{name:?}") };
        let said: Vec<String> = lines.by_ref().map_while(|line| (!line.starts_with(&ready)).then_some(line)).collect();
        assert_eq!(said.iter().any(|line| line.starts_with("h2 ") && line.contains("10.213.0.12")), json.is_empty());
        assert_eq!(namespaces(&name).len(), 6, "{said:?}");
        let pid = Pid::from_raw(i32::try_from(verb.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert!(verb.wait().unwrap().success());
        assert_eq!(namespaces(&name), [""; 0]);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// Not a test: the process that the test above interrupts. Run by itself it does nothing.
#[tokio::test]
async fn helper_that_is_interrupted() {
    let (Ok(name), Ok(dir)) = (std::env::var("PCLAB_HELPER_NAME"), std::env::var("PCLAB_HELPER_DIR")) else {
        return;
    };
    let args = LabArgs { hosts: 2, name, dir: Some(dir.into()), agent: None, no_agents: true };
    let json = std::env::var("PCLAB_HELPER_JSON").is_ok_and(|json| !json.is_empty());
    println!();
    portcullis_dev::run(args, "nats://127.0.0.1", Vec::new(), json).await.unwrap();
}

/// Not a test: the process that `leave_behind` kills. Run by itself it does nothing.
#[tokio::test]
async fn helper_that_is_killed() {
    let (Ok(name), Ok(dir)) = (std::env::var("PCLAB_HELPER_NAME"), std::env::var("PCLAB_HELPER_DIR")) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let config = LabConfig { agent: Some(fake_agent(&dir)), ..LabConfig::new(name, 2, &dir) };
    let lab = Lab::start(config).await.unwrap();
    println!("\nagent {}", lab.agent(1).pid().unwrap());
    std::future::pending().await
}

/// Starts a lab in another process and kills that.
fn leave_behind(name: &str, dir: &Path) {
    let mut owner = helper("helper_that_is_killed", name, dir).spawn().unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let agent = lines
        .filter_map(|line| line.strip_prefix("agent ").map(str::to_owned))
        .next()
        .expect("the helper says which agent it has started");
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the agent has died with its lab", || is_dead(&agent));
}

/// One of the helpers above, in a process of its own.
fn helper(test: &str, name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env("PCLAB_HELPER_NAME", name).env("PCLAB_HELPER_DIR", dir).stdout(Stdio::piped());
    command
}

/// An orphan is reaped by whoever is init here, in its own time: a zombie is dead enough.
fn is_dead(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

fn fake_agent(dir: &Path) -> AgentConfig {
    let program = dir.join("agent.sh");
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(&program, FAKE_AGENT).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    AgentConfig::new(program)
}

const FAKE_AGENT: &str = r#"#!/bin/sh
echo "$@"
ip -oneline address show eth0
echo "nats=$PORTCULLIS_NATS config=$FROM_CONFIG request=$FROM_REQUEST"
trap 'kill $!; exit 7' TERM
sleep 1000 &
echo started
wait
"#;

fn names(test: &str) -> (String, PathBuf) {
    let name = format!("{test}-{:x}", std::process::id());
    let dir = std::env::temp_dir().join(format!("pclab-{name}"));
    (name, dir)
}

async fn end(lab: Lab, dir: &Path) {
    let name = lab.name().to_owned();
    lab.stop().await.unwrap();
    assert_eq!(namespaces(&name), [""; 0]);
    assert!(!Path::new("/run/portcullis-lab").join(&name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&format!("pclab-{name}-")), "{mounts}");
    std::fs::remove_dir_all(dir).unwrap();
}

fn namespaces(name: &str) -> Vec<String> {
    let prefix = format!("pclab-{name}-");
    let entries = std::fs::read_dir("/run/netns").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

fn prove(from: &Netns, to: IpAddr) {
    let to = SocketAddr::new(to, ECHO_PORT);
    from.probe_tcp(to, SOON).unwrap_or_else(|error| panic!("TCP from {} to {to}: {error}", from.name()));
    from.probe_udp(to, SOON).unwrap_or_else(|error| panic!("UDP from {} to {to}: {error}", from.name()));
}

fn prove_dns(from: &Netns, resolver: IpAddr) {
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x03lab\x04test\0\0\x01\0\x01";
    let resolver = SocketAddr::new(resolver, DNS_PORT);
    let socket = from.udp_socket(if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse::<SocketAddr>().unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect(resolver).unwrap();
    socket.send(query).unwrap();
    let mut udp = [0; 512];
    let length = socket.recv(&mut udp).unwrap();
    assert!(udp[..length].ends_with(&OUTSIDE_V4.octets()));

    let mut stream = from.tcp_connect(resolver, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&[&[0, query.len() as u8], query.as_slice()].concat()).unwrap();
    let mut tcp = vec![0; 2 + length];
    stream.read_exact(&mut tcp).unwrap();
    assert_eq!(tcp[2..], udp[..length], "the same over TCP, after two bytes of length");
}

fn doors() -> [SocketAddr; 2] {
    [(HUB_V4, BROKER_PORT).into(), (HUB_V6, BROKER_PORT).into()]
}

fn exchange(from: &mut std::net::TcpStream, to: &mut std::net::TcpStream) {
    to.set_read_timeout(Some(SOON)).unwrap();
    from.write_all(b"INFO {}").unwrap();
    let mut read = [0; 7];
    to.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"INFO {}");
}

fn assert_closed(stream: &mut std::net::TcpStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    match stream.read(&mut [0; 8]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::yield_now();
    }
}
