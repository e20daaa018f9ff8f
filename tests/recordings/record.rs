//! The flow that is recorded: a detection isolates a host, an operator opens it, a deadline does, and the host itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt;
use portcullis_schemas::events::{Detection, Page, Posture, Severity, StateCause};
use portcullis_schemas::subjects::PAGES;
use portcullis_schemas::{Stream, envelope};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use serde_json::Value;

use super::{Message, folder, type_of};

#[tokio::test]
async fn this_version_is_recorded_when_that_is_asked_for() -> anyhow::Result<()> {
    if std::env::var_os("PORTCULLIS_RECORD").is_none() {
        return Ok(());
    }
    let mut world = World::bare().await?;
    let mut live = world.bus.client.subscribe(world.bus.prefix.everything()).await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    world.host(1).await?;
    let into = folder().join(env!("CARGO_PKG_VERSION"));
    if into.exists() {
        std::fs::remove_dir_all(&into)?;
    }
    std::fs::create_dir_all(&into)?;

    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    keep_posture(&world, &into, "isolated", |record| record["posture"] == "isolated").await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    keep_posture(&world, &into, "open", |record| record["posture"] == "open").await?;
    said(&world.verb(&["isolate", "h1", "--for", "2s"])?, 0)?;
    world.bus.state("h1", 4, Posture::Open).await?;
    world.bus.publish_raw(world.bus.prefix.of(Stream::Detections, "siem"), b"no event".to_vec()).await?;
    until("it is rejected", Duration::from_secs(20), || async {
        let kept = world.bus.raw(Stream::Rejected, &world.bus.prefix.all(Stream::Rejected)).await?;
        Ok((!kept.is_empty()).then_some(()))
    })
    .await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    // Without an orchestrator, whose order would take the place of the opening.
    world.orchestrator().process.stop().await?;
    said(&world.agent_verb(1, "release", &["--reason", "recorded"])?, 0)?;
    keep_posture(&world, &into, "opened", |record| !record["opened"].is_null()).await?;
    until("the opening is stored", Duration::from_secs(20), || async {
        let states = world.bus.states("h1").await?;
        Ok(states.into_iter().find(|found| found.event.data.cause == StateCause::Local))
    })
    .await?;

    // What waits for an orchestrator is answered in pages.
    for severity in [Severity::Low, Severity::Low, Severity::Critical] {
        world.bus.detect("siem", Detection { severity, ..ransomware(by_id("h1")) }).await?;
    }
    world.orchestrate(&[]).await?;
    until("they are answered in a page", Duration::from_secs(20), || async {
        let decisions = world.bus.raw(Stream::Decisions, &world.bus.prefix.all(Stream::Decisions)).await?;
        let pages = decisions.iter().filter(|message| message.subject.ends_with(PAGES));
        let read = pages.filter_map(|message| envelope::decode::<Page>(std::iter::empty(), &message.payload).ok());
        Ok(read.map(|page| page.data).find(|page| !page.plain.is_empty() && !page.decisions.is_empty()))
    })
    .await?;

    let mut kept = BTreeMap::new();
    for stream in Stream::ALL {
        for message in world.bus.raw(stream, &world.bus.prefix.all(stream)).await? {
            keep(&mut kept, message.subject.as_str(), message.headers.as_ref(), &message.payload);
        }
    }
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), live.next()).await {
        let kind = message.subject.split('.').nth(1).unwrap_or_default();
        if matches!(kind, "hello" | "rollcall") {
            keep(&mut kept, message.subject.as_str(), message.headers.as_ref(), &message.payload);
        }
    }
    for (name, message) in kept {
        std::fs::write(into.join(format!("{name}.json")), serde_json::to_string_pretty(&message)? + "\n")?;
    }
    Ok(())
}

/// Of each type, and posture where there is one, the first.
fn keep(kept: &mut BTreeMap<String, Message>, subject: &str, headers: Option<&async_nats::HeaderMap>, body: &[u8]) {
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    let headers = headers.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())));
    let message = Message { subject: subject.into(), headers: headers.collect(), body: String::from_utf8_lossy(body).into() };
    let data = serde_json::from_slice::<Value>(body).unwrap_or_default()["data"].clone();
    let posture = data["posture"].as_str().map(|posture| format!("-{posture}")).unwrap_or_default();
    let ty = type_of(&message);
    let name = ty.trim_start_matches("io.portcullis.").replace('.', "-");
    if !name.is_empty() {
        kept.entry(format!("{name}{posture}")).or_insert(message);
    }
}

/// Waits until the posture file says so, and keeps it.
async fn keep_posture(world: &World, into: &Path, name: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let folder = world.lab().host(1).state_dir.clone();
    let found = until(&format!("a posture file that is {name}"), Duration::from_secs(20), || async {
        let copies = ["posture.a", "posture.b"].map(|copy| std::fs::read(folder.join(copy)));
        let of = |file: &Vec<u8>| {
            let body = file.iter().position(|byte| *byte == b'\n')? + 1;
            serde_json::from_slice::<Value>(file.get(body..)?).ok()
        };
        Ok(copies.into_iter().flatten().find(|file| of(file).is_some_and(|record| is_so(&record))))
    })
    .await?;
    ensure!(!found.is_empty());
    Ok(std::fs::write(into.join(format!("{name}.posture")), found)?)
}
