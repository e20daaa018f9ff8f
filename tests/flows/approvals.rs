//! What waits for a person: approved by two, asked about a protected host, paused; also across the end of the orchestrator.

use std::time::Duration;

use anyhow::ensure;
use portcullis_schemas::events::{Action, Notice, NoticeKind, Posture, Reason, Request, Verdict};
use portcullis_schemas::{Stream, subjects};
use portcullis_tests::bus::{Bus, ask, by_id, ransomware};
use portcullis_tests::http;
use portcullis_tests::until::until;
use portcullis_tests::world::World;

const TWO: &str = "\
version: 1
rules:
  - name: ransomware
    match: { technique: [T1486] }
    then: ask
    approvals: 2
  - name: rest
    then: observe
";

#[tokio::test]
async fn two_people_approve_an_isolation_also_across_a_restart() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(TWO)).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let asked = world.bus.decision(&id).await?;
    ensure!((asked.verdict, &asked.reason) == (Verdict::Ask, &Reason::Rule), "{asked:?}");
    let pending = asked.ask.expect("it is pending").id;
    told(&world.bus, "h1", NoticeKind::Ask).await?;
    let answer = |by: &str| Request { decision: Some(pending.clone()), ..Request::new(Action::Approve, by) };
    let first = world.bus.request("ann", answer("ann")).await?;
    let reason = world.bus.decision(&first).await?.reason;
    ensure!(reason == Reason::ApprovalsMissing { approved: 1, wanted: 2 }, "{reason:?}");
    let again = world.bus.request("ann", answer("ann")).await?;
    ensure!(world.bus.decision(&again).await?.verdict == Verdict::Refuse, "the same person twice");
    ensure!(world.bus.orders("h1").await?.is_empty() && world.enforced(1)? == Posture::Open);

    world.orchestrator().process.kill9()?;
    world.orchestrate(&[]).await?;
    world.bus.request("bob", answer("bob")).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    let last = world.bus.decided("the last decision", |decision| decision.asked).await?;
    ensure!(last.reason == Reason::Approved { by: vec!["ann".into(), "bob".into()] } && last.input.id == id, "{last:?}");
    told(&world.bus, "h1", NoticeKind::Answered).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_is_seen_and_holds_back_the_policy_alone() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(portcullis_tests::world::POLICY)).await?;
    let pause = Request { reason: Some("maintenance".into()), ..Request::new(Action::Pause, "ann") };
    let paused = world.bus.request("ann", pause).await?;
    ensure!(world.bus.decision(&paused).await?.verdict == Verdict::Apply);
    let port = world.orchestrator().http;
    until("/readyz shows it", Duration::from_secs(10), || async {
        let (status, text) = http::get(port, "/readyz").await?;
        Ok((status == 200 && text.contains("PAUSED by ann")).then_some(()))
    })
    .await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Ask && matches!(decision.reason, Reason::Paused { .. }), "{decision:?}");
    world.bus.request("ann", ask(Action::Isolate, "h1", "ann")?).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    until("metrics show both", Duration::from_secs(20), || async {
        let (_, text) = http::get(port, "/metrics").await?;
        Ok((text.contains("portcullis_paused 1") && text.contains("portcullis_pending_approvals 1")).then_some(()))
    })
    .await?;
    let resumed = world.bus.request("bob", Request::new(Action::Resume, "bob")).await?;
    ensure!(world.bus.decision(&resumed).await?.verdict == Verdict::Apply);
    until("/readyz shows its end", Duration::from_secs(10), || async {
        Ok((!http::get(port, "/readyz").await?.1.contains("PAUSED")).then_some(()))
    })
    .await?;
    told(&world.bus, subjects::FLEET, NoticeKind::Resumed).await
}

async fn told(bus: &Bus, host: &str, kind: NoticeKind) -> anyhow::Result<()> {
    until(&format!("a notice {kind:?}"), Duration::from_secs(20), || async {
        let notices = bus.all::<Notice>(Stream::Notices, &bus.prefix.of(Stream::Notices, host)).await?;
        Ok(notices.iter().any(|found| found.event.data.kind == kind).then_some(()))
    })
    .await
}
