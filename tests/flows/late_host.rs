//! Detections for hosts that are not known yet.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Decision, HostClaim, Notice, NoticeKind, Posture, Reason, Verdict, WaitEnd};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn a_host_that_comes_after_its_detection_is_isolated_also_over_a_restart() -> anyhow::Result<()> {
    let mut world = World::start(0, Some(POLICY)).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let first = world.bus.decision(&id).await?;
    let waits_until = match &first.reason {
        Reason::Unresolved { waits: Some(waits), .. } => Some(waits.until),
        _ => None,
    };
    ensure!(first.verdict == Verdict::Ask && waits_until == first.facts.now.map(|at| at + TimeDelta::minutes(2)), "{first:?}");
    ensure!(said(&world.verb(&["show", &id])?, 0)?.contains("it waits until"));
    world.orchestrator().process.kill9()?;
    world.orchestrate(&[]).await?;
    world.host(1).await?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    let last = world.bus.decided("it is decided once more", |decision| decision.waited).await?;
    ensure!(last.input == first.input && last.sequence == first.sequence, "{last:?}");
    ensure!((last.verdict, last.generation, &last.reason) == (Verdict::Isolate, Some(1), &Reason::Rule), "{last:?}");
    let order = &world.bus.orders("h1").await?[0].event.data;
    ensure!(order.issued_by == first.input && Some(order.issued_at) == first.facts.now, "{order:?}");
    let notices = world.bus.all::<Notice>(Stream::Notices, &world.bus.prefix.all(Stream::Notices)).await?;
    ensure!(notices.iter().all(|found| found.event.data.kind == NoticeKind::Isolated), "{notices:?}");
    for (args, wanted) in [
        (vec!["show", &id], vec!["it waits until", "rule ransomware: isolate, order no. 1, after it waited for its host"]),
        (vec!["decisions"], vec!["it waits until", "after it waited for its host"]),
        (vec!["decisions", "--host", "h1"], vec!["after it waited for its host"]),
    ] {
        let text = said(&world.verb(&args)?, 0)?;
        ensure!(wanted.iter().all(|wanted| text.contains(wanted)), "{args:?}\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_never_comes_ends_in_a_notice_when_its_time_is_over() -> anyhow::Result<()> {
    let policy = POLICY.replace("version: 1", "version: 1\nresolve_within: 3s");
    let world = World::start(0, Some(&policy)).await?;
    let nobody = HostClaim { hostname: Some("nobody.example".into()), ..HostClaim::default() };
    let id = world.bus.detect("siem", ransomware(nobody)).await?;
    let is_over = |decision: &Decision| matches!(decision.reason, Reason::Unresolved { ended: Some(WaitEnd::TimedOut), .. });
    let last = world.bus.decided("the wait is over", is_over).await?;
    ensure!(last.input.id == id && last.verdict == Verdict::Ask && last.host.is_none(), "{last:?}");
    let subject = world.bus.prefix.of(Stream::Notices, "_fleet");
    let notice = until("a person is asked", Duration::from_secs(10), || async {
        Ok(world.bus.all::<Notice>(Stream::Notices, &subject).await?.into_iter().next())
    })
    .await?;
    ensure!(notice.event.data.text.contains("no host has name nobody.example"), "{notice:?}");
    let first = world.bus.decision(&id).await?;
    let stored = first.facts.now.context("the time of the detection")?;
    ensure!(notice.at >= stored + TimeDelta::seconds(3), "asked at {}, detected at {stored}", notice.at);
    let text = said(&world.verb(&["show", &id])?, 0)?;
    ensure!(text.contains("it waits until") && text.contains("came in time; it was not acted on"), "{text}");
    Ok(())
}
