//! Manual isolation: the operator's verbs, their words and exit codes.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_dev::{ECHO_PORT, OUTSIDE_V4, in_netns};
use portcullis_schemas::events::{Action, Decision, Detection, For, Hold, Origin, Posture, Reason, Verdict};
use portcullis_schemas::time::Span;
use portcullis_tests::bus::{ask, by_id, ransomware};
use portcullis_tests::place::program;
use portcullis_tests::process::Process;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

#[tokio::test]
async fn an_operator_isolates_and_releases_a_host() -> anyhow::Result<()> {
    let world = World::start(2, Some(POLICY)).await?;
    let before = world.ruleset(1)?;
    let connect = || TcpStream::connect((OUTSIDE_V4, ECHO_PORT));
    let mut standing = in_netns(&world.lab().host(1).netns, connect)??;
    let text = said(&world.verb(&["isolate", "h1", "--for", "30m", "--reason", "beaconing"])?, 0)?;
    ensure!(text.contains("enforced") && text.contains("1 socket killed"), "{text}");
    ensure!(world.enforced(1)? == Posture::Isolated && world.enforced(2)? == Posture::Open);
    let state = world.bus.states("h1").await?.pop().context("a state")?.event.data;
    ensure!(state.evidence.sockets_killed == 1 && state.evidence.flows_flushed <= 1, "{state:?}");
    let heard = standing.read(&mut [0]).map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::ConnectionAborted), "{heard:?}");
    let order = world.bus.orders("h1").await?.remove(0).event.data;
    ensure!(order.holds[0].origin == Origin::Manual, "{:?}", order.holds);
    ensure!(order.release_at == Some(order.issued_at + Span::seconds(1800).delta()), "{:?}", order.release_at);

    let hosts: serde_json::Value = serde_json::from_str(&said(&world.verb(&["hosts", "--json"])?, 0)?)?;
    ensure!(hosts.to_string().contains("\"isolated\"") && hosts.to_string().contains("\"open\""), "{hosts}");
    let show = said(&world.verb(&["show", "h1"])?, 0)?;
    ensure!(show.contains("isolated") && show.contains("beaconing"), "{show}");

    said(&world.verb(&["release", "h1", "--reason", "clean"])?, 0)?;
    ensure!(world.ruleset(1)? == before, "{}", world.ruleset(1)?);
    let decisions = said(&world.verb(&["decisions"])?, 0)?;
    ensure!(decisions.contains("isolate") && decisions.contains("release"), "{decisions}");
    Ok(())
}

#[tokio::test]
async fn the_verbs_say_by_their_exit_code_what_became_of_it() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "nobody"])?, 3)?;
    said(&world.verb(&["isolate"])?, 2)?;
    // Longer than the policy allows.
    said(&world.verb(&["isolate", "h1", "--for", "30d"])?, 4)?;
    said(&world.verb(&["isolate", "h1", "--for", "never"])?, 4)?;
    ensure!(world.bus.orders("h1").await?.is_empty());
    // The host hears nothing: ordered, and not confirmed. The order stands.
    world.lab().cut_broker(true).await?;
    said(&world.verb(&["isolate", "h1", "--wait", "1s"])?, 6)?;
    ensure!(world.enforced(1)? == Posture::Open);
    world.lab().cut_broker(false).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    world.nats.kill9()?;
    said(&world.verb(&["hosts"])?, 5)?;
    Ok(())
}

#[tokio::test]
async fn a_second_isolation_drops_nothing_without_a_word() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1", "--for", "8h", "--incident", "A"])?, 0)?;
    let output = world.verb(&["isolate", "h1", "--for", "10m", "--incident", "A"])?;
    said(&output, 4)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(words.contains("already isolated until ") && words.contains(" by alice (incident A)"), "{words}");
    let json = said(&world.verb(&["isolate", "h1", "--for", "10m", "--json"])?, 4)?;
    ensure!(json.contains("\"already_isolated\""), "{json}");
    ensure!(world.bus.orders("h1").await?.len() == 1);
    let refused = |decision: &Decision| matches!(decision.reason, Reason::AlreadyIsolated { .. });
    world.bus.decided("the refusal is recorded", refused).await?;
    // Whatever differs is a hold of its own.
    let second = ["isolate", "h1", "--for", "10m", "--reason", "B", "--incident", "C", "--ticket", "T"];
    said(&world.verb(&second)?, 0)?;
    said(&world.verb(&["isolate", "h1", "--for", "9h", "--incident", "A"])?, 0)?;
    let order = world.bus.orders("h1").await?.pop().context("an order")?.event.data;
    let [first, second, third] = &order.holds[..] else { anyhow::bail!("{order:?}") };
    let said = |hold: &Hold| (hold.reason.clone(), hold.ticket.clone(), hold.incident.clone());
    ensure!(said(second) == (Some("B".into()), Some("T".into()), Some("C".into())), "{second:?}");
    ensure!(first.until < third.until && order.release_at == third.until && order.incident == "A", "{order:?}");
    Ok(())
}

#[tokio::test]
async fn a_release_of_an_open_host_says_so_and_closes_no_incident_twice() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let text = said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(text.contains("already open") && !text.contains("enforced"), "{text}");
    said(&world.verb(&["isolate", "h1", "--incident", "A"])?, 0)?;
    ensure!(said(&world.verb(&["release", "h1"])?, 0)?.contains("enforced"));
    let id = world.bus.detect("siem", Detection { techniques: vec![], ..ransomware(by_id("h1")) }).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Observe && decision.incident.is_none(), "{decision:?}");
    Ok(())
}

#[tokio::test]
async fn who_stops_waiting_is_told_what_became_of_the_request() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    world.lab().cut_broker(true).await?;
    said(&world.verb(&["isolate", "h1", "--wait", "0s"])?, 6)?;
    let mut command = Command::new(program("portcullis")?);
    command
        .args(["--nats", &world.nats.url(), "isolate", "h1", "--for", "9h", "--wait", "10m"])
        .env("PORTCULLIS_OPERATOR", "alice");
    let mut waiting = Process::start(&mut command, &world.log("waiting"))?;
    until("its order is stored", Duration::from_secs(20), || async {
        Ok((world.bus.orders("h1").await?.len() == 2).then_some(()))
    })
    .await?;
    waiting.signal(Signal::INT)?;
    let status = until("it ends", Duration::from_secs(10), || {
        let ended = waiting.ended();
        async move { ended }
    })
    .await?;
    let words = waiting.said();
    ensure!(status.code() == Some(6), "{status:?}: {words}");
    ensure!(words.contains("stopped waiting on Ctrl-C") && words.contains("portcullis tail --host h1"), "{words}");
    world.lab().cut_broker(false).await?;
    world.bus.state("h1", 2, Posture::Isolated).await?;
    Ok(())
}

#[tokio::test]
async fn release_works_with_no_policy() -> anyhow::Result<()> {
    let world = World::start(1, None).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Ask && decision.reason == Reason::NoPolicy, "{decision:?}");
    ensure!(world.bus.orders("h1").await?.is_empty());
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_detection_stored_before_the_release_does_not_undo_it() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.orchestrator().process.stop().await?;
    // Both wait for the orchestrator: whichever it takes first, the release was stored later.
    let detection = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let release = world.bus.request("alice", ask(Action::Release, "h1", "alice")?).await?;
    world.orchestrate(&[]).await?;
    world.bus.decision(&detection).await?;
    world.bus.decision(&release).await?;
    let last = world.bus.orders("h1").await?.pop().map(|found| found.event.data.posture);
    ensure!(last == Some(Posture::Open), "{last:?}");
    Ok(())
}

#[tokio::test]
async fn an_operator_is_who_the_subject_says() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let id = world.bus.request("mallory", ask(Action::Isolate, "h1", "alice")?).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Refuse && matches!(decision.reason, Reason::OperatorMismatch { .. }), "{decision:?}");
    let mut request = ask(Action::Isolate, "h1", "alice")?;
    request.duration = Some(For::Span(Span::seconds(60)));
    let id = world.bus.request("alice", request).await?;
    ensure!(world.bus.decision(&id).await?.generation == Some(1));
    let id = world.bus.request("alice", ask(Action::Pause, "h1", "alice")?).await?;
    ensure!(matches!(world.bus.decision(&id).await?.reason, Reason::Incomplete { .. }));
    Ok(())
}
