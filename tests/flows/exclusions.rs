//! Exclusions by origin: the policy's list for automatic isolation, `manual_default` for manual; neither touches the other. And what profiles and
//! conditions of the policy come to on a host.

use anyhow::{Context, ensure};
use portcullis_core::status::{Status, View, status};
use portcullis_dev::{Netns, OUTSIDE_V4, OUTSIDE_V6};
use portcullis_schemas::envelope::{self, CONTENT_TYPE};
use portcullis_schemas::events::Posture;
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::probe::{Kind, PATIENCE, Way, echoes};
use portcullis_tests::world::{POLICY, World, said};
use serde_json::json;

/// The outside's echo over TCP, excluded for one origin only.
fn policy(automatic: &str, manual: &str) -> String {
    format!("{POLICY}exclusions:\n  automatic: {automatic}\n  manual_default: {manual}\n")
}

fn echo() -> String {
    format!("[{{ name: echo, direction: out, protocol: tcp, remote: [{OUTSIDE_V4}/32, \"{OUTSIDE_V6}/128\"], remote_ports: 7 }}]")
}

async fn passes(netns: &Netns) -> (bool, bool, bool) {
    let tcp = Way::new("tcp", netns, OUTSIDE_V4, Kind::Tcp);
    let six = Way::new("tcp, IPv6", netns, OUTSIDE_V6, Kind::Tcp);
    let udp = Way::new("udp", netns, OUTSIDE_V4, Kind::Udp);
    (tcp.open().await, six.open().await, udp.open().await)
}

#[tokio::test]
async fn the_policys_list_counts_for_automatic_isolation_only() -> anyhow::Result<()> {
    let world = World::start(1, Some(&policy(&echo(), "[]"))).await?;
    let netns = world.lab().host(1).netns.clone();
    ensure!(passes(&netns).await == (true, true, true), "closed while open");
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(passes(&netns).await == (true, true, false), "the echo over TCP is excluded, and nothing else");
    // A person isolates as well: now the manual ones count, and there are none.
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    ensure!(passes(&netns).await == (false, false, false));
    Ok(())
}

#[tokio::test]
async fn an_empty_list_of_the_policy_does_not_touch_manual_isolation() -> anyhow::Result<()> {
    let world = World::start(2, Some(&policy("[]", &echo()))).await?;
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(passes(&world.lab().host(1).netns).await == (false, false, false));
    said(&world.verb(&["isolate", "h2"])?, 0)?;
    ensure!(passes(&world.lab().host(2).netns).await == (true, true, false));
    // What is in force can be seen on the host itself, and only while it is isolated.
    let list = said(&world.agent_verb(2, "exclusions", &[])?, 0)?;
    ensure!(list.contains("echo") && list.contains(&OUTSIDE_V4.to_string()), "{list}");
    said(&world.verb(&["release", "h2"])?, 0)?;
    said(&world.agent_verb(2, "exclusions", &[])?, 4)?;
    Ok(())
}

/// As on a name server.
const UNTRACKED: &str = "nft 'add table inet dns; add chain inet dns pre { type filter hook prerouting priority raw; }; add rule inet dns pre udp dport 53 notrack'";

#[tokio::test]
async fn an_order_that_opens_everything_never_looks_like_an_isolation() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    ensure!(world.in_host(1, UNTRACKED)?.status.success());
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let says = said(&world.agent_verb(1, "exclusions", &[])?, 0)?;
    ensure!(says.contains("exempt from conntrack") && says.contains("inet dns pre"), "{says}");
    let state = world.bus.state("h1", 1, Posture::Isolated).await?.event.data;
    let small = state.evidence.opens.context("the share is told")?;
    ensure!(state.error.is_none() && !small.is_wide(), "{state:?}");
    world.orchestrator = None;
    // As a buggy orchestrator, or whoever can speak on the broker, would order it.
    let mut order = world.bus.orders("h1").await?.pop().context("an order")?.event;
    order.data.generation = 2;
    let any = json!({ "name": "x", "direction": "out", "protocol": "any", "remote": "any" });
    let near = json!({ "name": "y", "direction": "in", "protocol": "tcp", "remote": "any", "local_ports": ["1-65534"] });
    order.data.exclusions = [any, near].map(serde_json::from_value).into_iter().collect::<Result<_, _>>()?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let subject = world.bus.prefix.live(&order.data.host);
    world.bus.client.publish_with_headers(subject, headers, envelope::encode(&order)?.into()).await?;
    let state = world.bus.state("h1", 2, Posture::Isolated).await?.event.data;
    let error = state.error.as_deref().unwrap_or_default();
    ensure!(error.contains("100% outwards, 99.99% inwards") && error.contains("isolates from nothing"), "{state:?}");
    ensure!(state.evidence.opens.is_some_and(|opens| (opens.outwards, opens.inwards) == (1_000_000, 999_985)), "{state:?}");
    let order = order.data;
    let view = View { order: Some(&order), state: Some(&state), inventory: None };
    ensure!(status(view, order.issued_at) == Status::Failed);
    for verb in ["exclusions", "status"] {
        let says = said(&world.agent_verb(1, verb, &[])?, 0)?;
        ensure!(says.contains("isolates from nothing"), "{says}");
    }
    Ok(())
}

#[tokio::test]
async fn an_excluded_connection_stands_through_isolation_and_release() -> anyhow::Result<()> {
    let world = World::start(1, Some(&policy(&echo(), "[]"))).await?;
    let netns = &world.lab().host(1).netns;
    let mut excluded = netns.connect((OUTSIDE_V4, 7), PATIENCE).await?;
    let mut other = world.lab().outside().connect((world.lab().host(1).ipv4, 7), PATIENCE).await?;
    ensure!(echoes(&mut excluded, b"open").await && echoes(&mut other, b"open").await);
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(echoes(&mut excluded, b"isolated").await, "the excluded connection was cut");
    ensure!(!echoes(&mut other, b"isolated").await, "the other connection stands");
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(echoes(&mut excluded, b"released").await);
    Ok(())
}

#[tokio::test]
async fn a_dns_server_goes_on_serving_and_a_host_that_is_none_opens_nothing() -> anyhow::Result<()> {
    let world = World::start(2, Some(POLICY)).await?;
    let outside = world.lab().outside();
    let (server, idle) = (world.lab().host(1), world.lab().host(2));
    // On the one something listens before the gate drops, on the other only behind it.
    let serving = server.netns.udp_socket(([0, 0, 0, 0], 53))?;
    for host in ["h1", "h2"] {
        world.bus.detect("siem", ransomware(by_id(host))).await?;
        world.bus.state(host, 1, Posture::Isolated).await?;
    }
    let late = idle.netns.udp_socket(([0, 0, 0, 0], 53))?;
    let client = outside.udp_socket(([0, 0, 0, 0], 0))?;
    for socket in [&serving, &late, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let mut buffer = [0; 16];
    client.send_to(b"question", (server.ipv4, 53))?;
    let (length, from) = serving.recv_from(&mut buffer)?;
    ensure!(&buffer[..length] == b"question");
    serving.send_to(b"answer", from)?;
    ensure!(client.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == b"answer"), "the answer was dropped");
    client.send_to(b"question", (idle.ipv4, 53))?;
    ensure!(late.recv_from(&mut buffer).is_err(), "a port was opened on which nothing listened");
    Ok(())
}

#[tokio::test]
async fn an_adapted_profile_lets_in_those_that_the_policy_names_and_nobody_else() -> anyhow::Result<()> {
    let profiles =
        format!("lists: {{ jump_hosts: [{OUTSIDE_V4}] }}\nprofiles:\n  ssh-jump: {{ extends: ssh-admin, from: $jump_hosts }}\n");
    let world = World::start(2, Some(&(profiles + &policy("[]", "[ssh-jump]")))).await?;
    let checked = said(&world.verb(&["policy", "check", &world.policy().display().to_string()])?, 0)?;
    ensure!(checked.contains(&format!("ssh-jump: tcp in from {OUTSIDE_V4}/32 to own port 22\n")), "{checked}");
    let (host, jump, other) = (world.lab().host(1), world.lab().outside(), &world.lab().host(2).netns);
    let _listening = (host.netns.tcp_listener(([0, 0, 0, 0], 22))?, host.netns.tcp_listener(([0, 0, 0, 0], 2222))?);
    let enters = async |from: &Netns, port: u16| from.connect((host.ipv4, port), PATIENCE).await.is_ok();
    for (from, port) in [(jump, 22), (jump, 2222), (other, 22)] {
        ensure!(enters(from, port).await, "{} cannot reach port {port} of the open host", from.name());
    }
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    ensure!(enters(jump, 22).await, "the jump host cannot get in");
    ensure!(!enters(jump, 2222).await, "another port is open to the jump host");
    ensure!(!enters(other, 22).await, "another host gets in");
    Ok(())
}

#[tokio::test]
async fn an_exclusion_for_a_user_is_for_nobody_else_and_one_by_name_is_found_by_the_host() -> anyhow::Result<()> {
    let exclusions = format!(
        "[{{ name: backup, direction: out, protocol: tcp, remote: {OUTSIDE_V4}, remote_ports: 7, user: nobody }}, \
         {{ name: siem, direction: out, protocol: udp, remote: siem.lab.test, remote_ports: 7 }}]"
    );
    let world = World::start(2, Some(&policy(&exclusions, "[]"))).await?;
    let netns = &world.lab().host(1).netns;
    let connects = |user: &str| -> anyhow::Result<bool> {
        let script = format!("setpriv --reuid={user} --clear-groups bash -c ': < /dev/tcp/{OUTSIDE_V4}/7'");
        Ok(world.in_host(1, &script)?.status.success())
    };
    let named = Way::new("udp", netns, OUTSIDE_V4, Kind::Udp);
    let unnamed = Way::new("udp", netns, world.lab().host(2).ipv4, Kind::Udp);
    ensure!(connects("nobody")? && connects("root")? && connects("daemon")?, "closed while open");
    ensure!(named.open().await && unnamed.open().await, "closed while open");
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(connects("nobody")?, "the user of the exclusion is refused");
    ensure!(!connects("root")? && !connects("daemon")?, "another user gets out");
    ensure!(named.open().await, "the host did not find siem.lab.test");
    ensure!(!unnamed.open().await, "another address passes");
    let list = said(&world.agent_verb(1, "exclusions", &[])?, 0)?;
    ensure!(list.contains("backup") && list.contains("siem"), "{list}");
    Ok(())
}
