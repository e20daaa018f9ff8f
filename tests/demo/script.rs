//! The story: open, detected, isolated, released.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portcullis_dev::{AgentConfig, DNS_PORT, ECHO_PORT, Lab, LabConfig, Netns, OUTSIDE_V4, OUTSIDE_V6, RESOLVER_V4, clean_stale};
use portcullis_schemas::events::{HostClaim, Posture, ReleaseDue, StateCause, Verdict};
use portcullis_schemas::{Stream, Timestamp};
use portcullis_tests::bus::{Bus, ransomware};
use portcullis_tests::http;
use portcullis_tests::place::{Folder, free_port, nats_server, program};
use portcullis_tests::probe::{Kind, PATIENCE, Way, echoes};
use portcullis_tests::process::Process;
use portcullis_tests::until::until;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::stage::{Show, Stage};

/// The product's policy with a deadline that a demo can wait for.
const POLICY: &str = "\
version: 1
rules:
  - name: ransomware
    match: { severity: \">= high\", technique: [T1486] }
    then: isolate
    release_after: 6s
  - name: rest
    then: observe
";

pub async fn run(show: Show) -> anyhow::Result<bool> {
    let mut stage = Stage::new(show);
    let began = Instant::now();
    stage.title("a broker, an orchestrator, and three hosts with agents");
    for name in clean_stale()? {
        stage.say(&format!("removed what a dead lab had left: {name}"));
    }
    let folder = Folder::new("demo")?;
    let site = up(&folder).await?;
    let bus = Bus::connect(&site.nats).await?;
    let agent = AgentConfig::new(program("portcullis-agent")?);
    let broker = site.nats.trim_start_matches("nats://").parse()?;
    let config = LabConfig {
        broker: Some(broker),
        agent: Some(agent),
        ..LabConfig::new(format!("demo-{}", std::process::id()), 3, folder.path().join("lab"))
    };
    let lab = Lab::start(config).await?;
    bus.known(&["h1", "h2", "h3"]).await?;
    stage.stage("start", began);

    let began = Instant::now();
    stage.title("everything is open: each probe sees traffic");
    let before = ruleset(&lab.host(1).netns)?;
    let mut standing = standing(&lab).await?;
    let untouched = ways(&lab, 2);
    ask(&mut stage, "open", &ways(&lab, 1), true).await;
    talk(&mut stage, "open", &mut standing, true).await;
    resolver(&mut stage, "open", &lab.host(1).netns).await;
    stage.stage("open", began);

    let began = Instant::now();
    stage.title("ransomware is detected on h1");
    let sent = Instant::now();
    let claim = HostClaim { hostname: None, id: None, ips: vec![lab.host(1).ipv4.to_string(), "127.0.0.1".into()] };
    let id = bus.detect("siem", ransomware(claim)).await?;
    stage.say(&format!("detection {id} by siem: {} is encrypting its files", lab.host(1).ipv4));
    let state = bus.state("h1", 1, Posture::Isolated).await?;
    let seen = sent.elapsed();
    let decision = bus.decision(&id).await?;
    let order = bus.orders("h1").await?.into_iter().next().context("an order")?;
    let detected = order.event.data.issued_at;
    let since = |at: Timestamp| (at - detected).num_microseconds().unwrap_or(0) as f64 / 1000.0;
    stage.figures.detection_to_order_ms = since(order.at);
    stage.figures.detection_to_enforced_ms = since(state.event.data.enforced_at);
    let evidence = &state.event.data.evidence;
    stage.say("   0.0 ms  detection stored");
    stage.say(&format!(
        "{:6.1} ms  verdict {} by rule {}, order {} stored",
        since(order.at),
        decision.verdict.as_str(),
        decision.rule.as_deref().unwrap_or("?"),
        order.event.data.generation
    ));
    stage.say(&format!("{:6.1} ms  enforced in the kernel of h1", since(state.event.data.enforced_at)));
    stage.say(&format!(
        "{:6.1} ms  reported: {} sockets severed, {} flows flushed, read back: {}",
        since(state.at),
        evidence.sockets_killed,
        evidence.flows_flushed,
        if evidence.readback_ok { "as wanted" } else { "NOT as wanted" }
    ));
    stage.say(&format!("           (seen here after {:.1} ms)", seen.as_secs_f64() * 1000.0));
    let well = decision.verdict == Verdict::Isolate && evidence.readback_ok && evidence.sockets_killed > 0;
    stage.probe("isolated", "decided, enforced, read back, standing sockets severed", true, well);
    ask(&mut stage, "isolated", &ways(&lab, 1), false).await;
    talk(&mut stage, "isolated", &mut standing, false).await;
    resolver(&mut stage, "isolated", &lab.host(1).netns).await;
    let answered = Command::new(program("portcullis-agent")?)
        .arg("status")
        .arg("--state-dir")
        .arg(&lab.host(1).state_dir)
        .arg("--json")
        .output()?;
    let connected = String::from_utf8_lossy(&answered.stdout).replace(' ', "").contains("\"connected\":true");
    stage.probe("isolated", "the agent is still connected to its broker", true, connected);
    ask(&mut stage, "isolated, others", &untouched, true).await;
    stage.stage("isolated", began);

    let began = Instant::now();
    stage.title("the deadline comes");
    let opened = bus.state("h1", 2, Posture::Open).await?;
    let due = bus.all::<ReleaseDue>(Stream::Releases, &bus.prefix.of(Stream::Releases, "h1")).await?;
    let due = due.first().context("a release-due")?;
    let late = (due.at - due.event.data.due_at).num_microseconds().unwrap_or(0) as f64 / 1000.0;
    stage.figures.release_late_ms = late;
    stage.figures.deadline_to_open_ms = (opened.at - due.event.data.due_at).num_microseconds().unwrap_or(0) as f64 / 1000.0;
    stage.say(&format!("{late:6.1} ms  after the deadline: release-due stored"));
    stage.say(&format!("{:6.1} ms  h1 says that it is open", stage.figures.deadline_to_open_ms));
    stage.probe(
        "released",
        "released at the deadline, not before it",
        true,
        late >= 0.0 && opened.event.data.cause == StateCause::Order,
    );
    ask(&mut stage, "released", &ways(&lab, 1), true).await;
    resolver(&mut stage, "released", &lab.host(1).netns).await;
    stage.probe("released", "the ruleset of h1 is as it was before", true, ruleset(&lab.host(1).netns)? == before);
    stage.stage("released", began);

    let well = stage.end()?;
    if stage.keeps() {
        println!("\nIt goes on running, the policy with its deadline of 6 s. Try, in another terminal:\n");
        let beside = program("portcullis")?;
        let beside = beside.display();
        println!(
            "  {beside} --nats {} hosts\n  {beside} --nats {} isolate h2 --for 10m --reason 'a look around'\n  ip netns exec {} nft list ruleset\n  {beside} --nats {} tail --since 10m\n\nCtrl-C ends it and cleans up.",
            site.nats,
            site.nats,
            lab.host(2).netns.name(),
            site.nats
        );
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
    }
    lab.stop().await?;
    Ok(well)
}

struct Site {
    nats: String,
    // Ends with the demo.
    _process: Process,
}

async fn up(folder: &Folder) -> anyhow::Result<Site> {
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, POLICY)?;
    let (port, http) = (free_port()?, free_port()?);
    let mut command = Command::new(program("portcullis")?);
    command.arg("up").arg("--data").arg(folder.path().join("data")).args(["--port", &port.to_string()]);
    command.args(["--http", &format!("127.0.0.1:{http}")]).arg("--policy").arg(&policy).arg("--nats-server").arg(nats_server()?);
    let process = Process::start(&mut command, &folder.path().join("up.log"))?;
    until("`portcullis up` is ready", Duration::from_secs(30), || async {
        Ok((http::get(http, "/readyz").await?.0 == 200).then_some(()))
    })
    .await
    .with_context(|| process.said())?;
    Ok(Site { nats: format!("nats://127.0.0.1:{port}"), _process: process })
}

/// Every way in, out and through a host, IPv4 and IPv6.
fn ways(lab: &Lab, n: usize) -> Vec<Way> {
    let host = lab.host(n);
    let (outside, id) = (lab.outside(), &host.id);
    vec![
        Way::new(format!("{id} to the outside, TCP, IPv4"), &host.netns, OUTSIDE_V4, Kind::Tcp),
        Way::new(format!("{id} to the outside, TCP, IPv6"), &host.netns, OUTSIDE_V6, Kind::Tcp),
        Way::new(format!("{id} to the outside, UDP, IPv4"), &host.netns, OUTSIDE_V4, Kind::Udp),
        Way::new(format!("{id} to the outside, UDP, IPv6"), &host.netns, OUTSIDE_V6, Kind::Udp),
        Way::new(format!("the outside to {id}, TCP, IPv4"), outside, host.ipv4, Kind::Tcp),
        Way::new(format!("the outside to {id}, UDP, IPv6"), outside, host.ipv6, Kind::Udp),
        Way::new(format!("forwarded: a container of {id} to the outside, IPv4"), &host.container, OUTSIDE_V4, Kind::Tcp),
        Way::new(format!("forwarded: a container of {id} to the outside, IPv6"), &host.container, OUTSIDE_V6, Kind::Udp),
        Way::new(format!("forwarded: the outside to a container of {id}, IPv4"), outside, host.container_ipv4, Kind::Tcp),
    ]
}

async fn ask(stage: &mut Stage, phase: &'static str, ways: &[Way], expected: bool) {
    // All at once: what is closed costs its patience once.
    let answers = futures_util::future::join_all(ways.iter().map(Way::open)).await;
    for (way, passes) in ways.iter().zip(answers) {
        stage.probe(phase, &way.name, expected, passes);
    }
}

/// Connections that stand before the detection: out of the host, and into it.
async fn standing(lab: &Lab) -> anyhow::Result<Vec<(&'static str, TcpStream)>> {
    let host = lab.host(1);
    let out =
        host.netns.connect(SocketAddr::new(OUTSIDE_V4.into(), ECHO_PORT), PATIENCE).await.context("a standing connection")?;
    let into =
        lab.outside().connect(SocketAddr::new(host.ipv6.into(), ECHO_PORT), PATIENCE).await.context("a standing connection")?;
    Ok(vec![("a standing connection out of h1, IPv4", out), ("a standing connection into h1, IPv6", into)])
}

async fn talk(stage: &mut Stage, phase: &'static str, standing: &mut [(&'static str, TcpStream)], expected: bool) {
    for (name, stream) in standing {
        let passes = echoes(stream, phase.as_bytes()).await;
        stage.probe(phase, name, expected, passes);
    }
}

/// The resolver is excluded: its answers come in every phase.
async fn resolver(stage: &mut Stage, phase: &'static str, netns: &Netns) {
    let netns = netns.clone();
    let asked = tokio::task::spawn_blocking(move || lookup(&netns)).await;
    stage.probe(phase, "h1 asks its resolver for a name (excluded: dns-client)", true, matches!(asked, Ok(Ok(()))));
}

/// Asks the lab's resolver for `www.lab.test`, A, and wants an answer to this very question (RFC 1035, section 4.1).
fn lookup(netns: &Netns) -> anyhow::Result<()> {
    let socket = netns.udp_socket(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut question = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "lab", "test"] {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&question, (RESOLVER_V4, DNS_PORT))?;
    let mut answer = [0u8; 512];
    let (length, _) = socket.recv_from(&mut answer)?;
    let answers = length > 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0 && answer[7] >= 1;
    anyhow::ensure!(answers, "no answer to the question");
    Ok(())
}

fn ruleset(netns: &Netns) -> anyhow::Result<String> {
    let output = netns.command("nft").args(["-s", "list", "ruleset"]).output().context("nft")?;
    anyhow::ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
