//! Bad input: rejected whole or decided with its reason, and nothing ordered; the loop never stalls.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use chrono::{TimeDelta, Utc};
use futures_util::StreamExt;
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Detection, HostClaim, Reason, Severity, Verdict};
use portcullis_schemas::rejected::header;
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

#[tokio::test]
async fn what_cannot_be_understood_is_kept_whole_with_its_reason() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let detection = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"io.portcullis.detection.v1","data":{data}}}"#).into_bytes()
    };
    let good = r#""severity":"high","rule":{"id":"1","name":"n"},"product":"p","observed_at":"2026-01-01T00:00:00Z""#;
    // 256 KiB less what the server leaves for a reason, less headers: the largest that the stream takes.
    let largest = (256 * 1024) - (8 * 1024) - 64;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("not JSON", b"\x00\xff{".to_vec(), "not_json"),
        ("empty", Vec::new(), "not_json"),
        ("not a CloudEvent", b"{\"alert\":true}".to_vec(), "not_cloudevent"),
        ("a list", b"[]".to_vec(), "not_cloudevent"),
        ("wrong types", detection(&format!(r#"{{"host":{{"ips":"10.0.0.1"}},{good}}}"#)), "bad_data"),
        ("no host", detection(&format!(r#"{{"host":{{}},{good}}}"#)), "bad_data"),
        (
            "unknown type",
            br#"{"specversion":"1.0","id":"1","source":"s","type":"com.example.other","data":{}}"#.to_vec(),
            "unknown_type",
        ),
        ("a member twice", br#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}"#.to_vec(), "not_json"),
        ("the largest message", vec![b'x'; largest], "not_json"),
    ];
    for (n, (name, body, _)) in cases.iter().enumerate() {
        world
            .bus
            .publish_raw(world.bus.prefix.of(Stream::Detections, &format!("case{n}")), body.clone())
            .await
            .with_context(|| (*name).to_owned())?;
    }
    for (n, (name, body, code)) in cases.iter().enumerate() {
        let subject = world.bus.prefix.of(Stream::Rejected, &format!("case{n}"));
        let kept = until(name, Duration::from_secs(20), || async {
            Ok(world.bus.raw(Stream::Rejected, &subject).await?.into_iter().next())
        })
        .await?;
        ensure!(kept.payload == *body, "{name}: the body is not whole");
        let headers = kept.headers.clone().context("headers")?;
        let of = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        ensure!(of(header::REASON) == *code, "{name}: {}: {}", of(header::REASON), of(header::DETAIL));
        ensure!(of(header::STREAM) == "PORTCULLIS_DETECTIONS" && !of(header::SEQUENCE).is_empty(), "{headers:?}");
    }
    // Larger than that, the sender hears of it.
    let subject = world.bus.prefix.of(Stream::Detections, "large");
    ensure!(world.bus.publish_raw(subject, vec![b'x'; largest + 1024]).await.is_err());
    ensure!(world.bus.all_orders().await?.is_empty(), "rubbish was ordered");
    still_works(&world).await
}

#[tokio::test]
async fn what_is_out_of_its_time_or_place_is_decided_and_not_ordered() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let now = Utc::now();
    let mut old = ransomware(by_id("h1"));
    old.observed_at = now - TimeDelta::days(400);
    let mut ancient = ransomware(by_id("h1"));
    ancient.observed_at = "0001-01-01T00:00:00Z".parse()?;
    let mut future = ransomware(by_id("h1"));
    future.observed_at = now + TimeDelta::days(36_500);
    let mut unknown = ransomware(by_id("h1"));
    unknown.severity = Severity::Unknown;
    let cases = vec![
        old,
        ancient,
        future,
        unknown,
        ransomware(by_id("../../etc/passwd")),
        ransomware(by_id("h1; nft flush ruleset")),
        ransomware(by_id(&"x".repeat(10_000))),
        ransomware(HostClaim { hostname: Some("$(reboot)".into()), ..HostClaim::default() }),
        ransomware(HostClaim { ips: vec!["999.1.1.1".into(), String::new()], ..HostClaim::default() }),
    ];
    for detection in cases {
        let shown = format!("{:?} {}", detection.host, detection.observed_at);
        let id = world.bus.detect("siem", detection).await?;
        let decision = world.bus.decision(&id).await?;
        ensure!(decision.verdict != Verdict::Isolate && decision.generation.is_none(), "{shown:.200}: {decision:?}");
        // The second one on a host joins what is pending there, and says why it would be asked about itself.
        let mut reasons = std::iter::once(&decision.reason).chain(&decision.further);
        let known = reasons.any(|reason| {
            matches!(
                reason,
                Reason::Stale { .. }
                    | Reason::FromTheFuture { .. }
                    | Reason::Unresolved { .. }
                    | Reason::Rule
                    | Reason::UnknownSeverity
            )
        });
        ensure!(known, "{decision:?}");
    }
    ensure!(world.bus.all_orders().await?.is_empty());
    still_works(&world).await
}

#[tokio::test]
async fn an_input_that_ends_the_orchestrator_five_times_is_kept_unread() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.orchestrator().process.stop().await?;
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    for _ in 0..4 {
        // It may stop before it is ready.
        let mut orchestrator = world.another(&[("PORTCULLIS_STOP_AT", "orchestrator.received")])?;
        orchestrator.process.stopped().await?;
        orchestrator.process.kill9()?;
    }
    world.orchestrate(&[]).await?;
    let subject = world.bus.prefix.of(Stream::Rejected, "siem");
    let kept = until("the poison is rejected", Duration::from_secs(30), || async {
        Ok(world.bus.raw(Stream::Rejected, &subject).await?.into_iter().next())
    })
    .await?;
    let reason = kept.headers.as_ref().and_then(|headers| headers.get(header::REASON)).map(|value| value.as_str().to_owned());
    ensure!(reason.as_deref() == Some("poison"), "{reason:?}");
    ensure!(world.bus.orders("h1").await?.is_empty());
    still_works(&world).await
}

#[tokio::test]
async fn what_can_never_be_answered_holds_up_nobody() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    // An incident that an event's attribute cannot hold.
    let mut detection = ransomware(by_id("nobody"));
    detection.incident = Some("INC-7\n".repeat(200));
    let id = world.bus.detect("siem", detection).await?;
    world.bus.decision(&id).await?;
    // A hello as large as the broker takes, stored nowhere: with a reason it fits nowhere either.
    let hello = world.bus.prefix.hello(&"h9".parse()?);
    world.bus.client.publish(hello, vec![b'x'; 256 * 1024].into()).await?;
    world.bus.client.flush().await?;
    still_works(&world).await?;
    // Junk where the last word of a host stands keeps nobody from its release.
    world.bus.publish_raw(world.bus.prefix.of(Stream::Inventory, "h1"), b"[".repeat(3000)).await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn inputs_that_nobody_worked_on_are_no_poison() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let known = world.bus.detect("siem", Detection { severity: Severity::Low, ..ransomware(by_id("h1")) }).await?;
    world.bus.decision(&known).await?;
    world.orchestrator().process.signal(Signal::STOP)?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    // The broker delivers it again and again, into a process that hangs and to others that end before they begin.
    let stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Detections)).await?;
    let consumers = world.bus.consumers(Stream::Detections).await?;
    let consumer: PullConsumer = stream.get_consumer(&consumers[0].name).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    until("it was delivered five times and more", Duration::from_secs(60), || async {
        let mut again = consumer.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await?;
        let message = again.next().await.transpose().map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(message.filter(|message| message.info().is_ok_and(|info| info.delivered > 5)).map(drop))
    })
    .await?;
    world.orchestrator().process.kill9()?;
    world.orchestrate(&[]).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Isolate, "{decision:?}");
    Ok(())
}

/// The loop goes on: a person's isolation is carried out.
async fn still_works(world: &World) -> anyhow::Result<()> {
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn text_that_an_attacker_chooses_does_not_keep_a_host_open() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let now = Utc::now().to_rfc3339();
    let data = |more: &str| {
        format!(
            r#"{{"host":{{"id":"h1"}},"severity":"critical","confidence":9.5e1,"rule":{{"id":"1","name":"n"}},"techniques":["T1486"],"product":"elastic","observed_at":"{now}"{more}}}"#
        )
    };
    let deep = format!(r#","raw":{}{}"#, "[".repeat(130), "]".repeat(130));
    let cases = [
        r#","process":"/tmp/kworker\udcff""#,
        r#","raw":{"a":1,"a":2}"#,
        r#","raw":1e400"#,
        deep.as_str(),
        r#","user":0,"future":[NaN]"#,
    ];
    for (n, more) in cases.iter().enumerate() {
        // In both modes, and the bytes that no JSON has in one more.
        let id = format!("structured-{n}");
        let body = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"io.portcullis.detection.v1","data":{}}}"#,
            data(more)
        );
        world.bus.publish_raw(world.bus.prefix.of(Stream::Detections, "siem"), body.into_bytes()).await?;
        let decision = world.bus.decision(&id).await?;
        ensure!(decision.verdict == Verdict::Isolate, "{more:.60}: {decision:?}");
        let id = format!("binary-{n}");
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", &id),
            ("ce-source", "s"),
            ("ce-type", "io.portcullis.detection.v1"),
            ("ce-ext", "%zz"),
        ] {
            headers.insert(name, value);
        }
        let body = data(more).replace("\\udcff", "\u{fffd}").into_bytes();
        let body = body.split(|byte| *byte == 0xef).collect::<Vec<_>>().join(&0xff);
        let subject = world.bus.prefix.of(Stream::Detections, "siem");
        world.bus.context.publish_with_headers(subject, headers, body.into()).await?.await?;
        let decision = world.bus.decision(&id).await?;
        ensure!(decision.verdict == Verdict::Isolate && !decision.facts.input_faults.is_empty(), "{more:.60}: {decision:?}");
    }
    world.bus.state("h1", 1, portcullis_schemas::events::Posture::Isolated).await?;
    ensure!(world.bus.raw(Stream::Rejected, &world.bus.prefix.all(Stream::Rejected)).await?.is_empty());
    // Where what decides cannot be read, a person is asked.
    let body = data("").replace("9.5e1", "\"95\"");
    let body = format!(r#"{{"specversion":"1.0","id":"doubt","source":"s","type":"io.portcullis.detection.v1","data":{body}}}"#);
    world.bus.publish_raw(world.bus.prefix.of(Stream::Detections, "siem"), body.into_bytes()).await?;
    let decision = world.bus.decision("doubt").await?;
    ensure!(decision.verdict == Verdict::Ask && decision.generation.is_none(), "{decision:?}");
    ensure!(matches!(&decision.reason, Reason::Unreadable { member, .. } if member == ".confidence"), "{decision:?}");
    Ok(())
}

#[tokio::test]
async fn a_subject_that_no_stream_takes_is_told_to_its_sender_and_kept_as_a_sample() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let strays = ["portcullis.detections.siem", "portcullis.detection"];
    let samples = world.bus.prefix.of(Stream::Rejected, "_unknown");
    for subject in strays {
        for n in 0..50 {
            world.bus.client.publish(subject, format!("{n} on {subject}").into()).await?;
        }
    }
    let kept = until("a sample of each is kept", Duration::from_secs(20), || async {
        let kept = world.bus.raw(Stream::Rejected, &samples).await?;
        // Until it has been heard once, it is as if it never was.
        for subject in strays {
            world.bus.client.publish(subject, "again".into()).await?;
        }
        Ok((kept.len() >= strays.len()).then_some(kept))
    })
    .await?;
    for subject in strays {
        let of: Vec<_> = kept
            .iter()
            .filter(|message| {
                let headers = message.headers.as_ref();
                headers.and_then(|headers| headers.get(header::SUBJECT)).is_some_and(|found| found.as_str() == subject)
            })
            .collect();
        let [one] = of.as_slice() else { anyhow::bail!("{subject}: {of:?}") };
        let reason = one.headers.as_ref().and_then(|headers| headers.get(header::REASON)).map(|reason| reason.as_str());
        ensure!(reason == Some("no_stream"), "{one:?}");
    }
    // Whoever waits for an acknowledgement gets the error, and no other subject of a sender's choice gets anything.
    let error = world.bus.publish_raw(strays[0].to_owned(), b"{}".to_vec()).await.err().map(|error| format!("{error:#}"));
    ensure!(error.as_deref().is_some_and(|error| error.contains("no stream takes")), "{error:?}");
    let order = world.bus.prefix.of(Stream::Orders, "h1");
    world.bus.client.publish_with_reply(strays[0], order.clone(), "{}".into()).await?;
    world.bus.publish_raw(strays[0].to_owned(), b"{}".to_vec()).await.err();
    ensure!(world.bus.raw(Stream::Orders, &order).await?.is_empty(), "an answer went where its sender chose");
    still_works(&world).await
}

#[tokio::test]
async fn a_request_with_text_copied_from_an_alert_is_carried_out() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    let data = r#"{"action":"isolate","host":"h1","operator":"soar","reason":"seen: /tmp/kworker\udcff","future":1e400}"#;
    let body = format!(r#"{{"specversion":"1.0","id":"asked","source":"s","type":"io.portcullis.request.v1","data":{data}}}"#);
    world.bus.publish_raw(world.bus.prefix.request("soar", "h1"), body.into_bytes()).await?;
    let decision = world.bus.decision("asked").await?;
    ensure!(decision.verdict == Verdict::Isolate, "{decision:?}");
    let state = world.bus.state("h1", 1, portcullis_schemas::events::Posture::Isolated).await?;
    let order = world.bus.orders("h1").await?.pop().context("an order")?;
    ensure!(order.event.data.reason.contains("kworker\u{fffd}"), "{order:?} {state:?}");
    Ok(())
}
