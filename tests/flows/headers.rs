//! Malformed NATS headers, which the server stores and delivers as they came: rejected whole, and nobody's work stops over them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Posture, Verdict};
use portcullis_schemas::rejected::header;
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::place::program;
use portcullis_tests::process::Process;
use portcullis_tests::until::until;
use portcullis_tests::wire::{self, MALFORMED};
use portcullis_tests::world::{POLICY, World, said};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn malformed_inputs_are_rejected_whole_and_the_good_ones_between_them_decided() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let pid = world.orchestrator().process.pid();
    for block in MALFORMED {
        wire::publish(world.nats.port, &[("portcullis.detection.siem", block, b"the body")]).await?;
        wire::publish(world.nats.port, &[("portcullis.request.mallory.h1", block, b"a request")]).await?;
        let id = world.bus.detect("siem", ransomware(by_id("nobody"))).await?;
        ensure!(world.bus.decision(&id).await?.verdict != Verdict::Isolate);
    }
    for (subject, body) in [("siem", "the body"), ("mallory.h1", "a request")] {
        let subject = world.bus.prefix.of(Stream::Rejected, subject);
        let kept = until("all are rejected", SOON, || async {
            Ok(Some(world.bus.raw(Stream::Rejected, &subject).await?).filter(|kept| kept.len() == MALFORMED.len()))
        })
        .await?;
        for (message, block) in kept.iter().zip(MALFORMED) {
            let headers = message.headers.as_ref().context("headers")?;
            let of = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
            ensure!(message.payload == body.as_bytes(), "{:?}", message.payload);
            ensure!(of(header::REASON) == "bad_headers", "{headers:?}");
            ensure!(of(header::HEADER_BLOCK) == base64(block), "{headers:?}");
        }
    }
    // Each was acknowledged: the consumers have nothing left.
    for stream in [Stream::Detections, Stream::Requests] {
        until("nothing waits", SOON, || async {
            let (last, floor) = world.bus.floor(stream).await?;
            Ok((last == floor).then_some(()))
        })
        .await?;
    }
    ensure!(world.orchestrator().process.ended()?.is_none() && world.orchestrator().process.pid() == pid);
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn a_whole_event_behind_malformed_headers_isolates_its_host() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    for (n, block) in MALFORMED.into_iter().enumerate() {
        let event = portcullis_tests::bus::event(format!("behind-{n}"), "s", ransomware(by_id("h1")));
        let body = portcullis_schemas::envelope::encode(&event)?;
        wire::publish(world.nats.port, &[("portcullis.detection.siem", block, body.as_slice())]).await?;
        let decision = world.bus.decision(&event.id).await?;
        ensure!(decision.verdict == Verdict::Isolate, "{decision:?}");
        ensure!(decision.facts.input_faults.iter().any(|fault| fault.contains("malformed NATS headers")), "{decision:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_of_them_does_not_keep_an_operator_waiting_nor_does_a_restart_meet_them_again() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let burst: Vec<(&str, &[u8], &[u8])> = (0..200).map(|n| ("portcullis.detection.siem", MALFORMED[n % 4], &b"x"[..])).collect();
    wire::publish(world.nats.port, &burst).await?;
    said(&world.verb(&["isolate", "h1", "--wait", "30s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    // A new process begins with what the old one left.
    world.orchestrator().process.kill9()?;
    wire::publish(world.nats.port, &burst[..20]).await?;
    world.orchestrate(&[]).await?;
    let subject = world.bus.prefix.of(Stream::Rejected, "siem");
    until("each is rejected once", Duration::from_secs(60), || async {
        Ok((world.bus.raw(Stream::Rejected, &subject).await?.len() == 220).then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1", "--wait", "30s"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn hosts_are_heard_and_followed_in_spite_of_them() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let subjects = ["hello.h9", "state.h1", "state.h9", "order.h9", "inventory.h9", "decision.h9", "notice.h9"];
    for block in MALFORMED {
        let messages: Vec<(String, &[u8])> = subjects.iter().map(|subject| (format!("portcullis.{subject}"), block)).collect();
        let messages: Vec<(&str, &[u8], &[u8])> =
            messages.iter().map(|(subject, block)| (subject.as_str(), *block, &b"{}"[..])).collect();
        wire::publish(world.nats.port, &messages).await?;
    }
    said(&world.verb(&["isolate", "h1", "--wait", "30s"])?, 0)?;
    said(&world.verb(&["release", "h1", "--wait", "30s"])?, 0)?;
    let subject = world.bus.prefix.of(Stream::Rejected, "h1");
    until("the states are rejected", SOON, || async {
        Ok((world.bus.raw(Stream::Rejected, &subject).await?.len() >= MALFORMED.len()).then_some(()))
    })
    .await?;
    // A new process reads all of it back, and a host that comes now is heard.
    world.orchestrator().process.kill9()?;
    world.orchestrate(&[]).await?;
    said(&world.verb(&["isolate", "h1", "--wait", "30s"])?, 0)?;
    for verb in [&["hosts"][..], &["show", "h1"], &["decisions"]] {
        let output = world.verb(verb)?;
        ensure!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{verb:?}: {output:?}");
        ensure!(output.status.success() && !output.stdout.is_empty(), "{verb:?}: {output:?}");
    }
    let mut tail = Command::new(program("portcullis")?);
    tail.args(["tail", "--since", "1h", "--nats", &world.nats.url()]);
    let tail = Process::start(&mut tail, &world.log("tail"))?;
    until("tail shows all of it", SOON, || async {
        let said = tail.said();
        ensure!(!said.contains("panicked"), "{said}");
        let all = ["rejected", "unreadable", "bad_headers", "isolated until"].iter().all(|word| said.contains(word));
        Ok(all.then_some(()))
    })
    .await
    .with_context(|| tail.said())
}

#[tokio::test]
async fn an_agent_gets_another_client_and_hears_the_next_order() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    for (n, block) in MALFORMED.into_iter().enumerate() {
        wire::publish(world.nats.port, &[("portcullis.live.h1", block, b"{}")]).await?;
        let (verb, posture) = if n % 2 == 0 { ("isolate", Posture::Isolated) } else { ("release", Posture::Open) };
        said(&world.verb(&[verb, "h1", "--wait", "30s"])?, 0)?;
        ensure!(world.enforced(1)? == posture);
        until("the agent says that it is connected", SOON, || async {
            let status: serde_json::Value = serde_json::from_str(&said(&world.agent_verb(1, "status", &["--json"])?, 0)?)?;
            Ok((status["connected"] == true).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stored_order_that_ends_each_client_keeps_no_agent_from_the_next_one() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    for (n, block) in MALFORMED.into_iter().enumerate() {
        let (verb, posture) = if n % 2 == 0 { ("isolate", Posture::Isolated) } else { ("release", Posture::Open) };
        // The last message for this host: whoever reads it loses the client.
        wire::publish(world.nats.port, &[("portcullis.order.h1", block, b"{}")]).await?;
        world.lab().agent(1).kill9()?;
        world.lab().agent(1).start(&[])?;
        said(&world.verb(&[verb, "h1", "--wait", "30s"])?, 0)?;
        ensure!(world.enforced(1)? == posture);
    }
    Ok(())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        let digit = |n: usize| if n > chunk.len() { '=' } else { char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]) };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}
