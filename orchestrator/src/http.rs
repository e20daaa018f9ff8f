//! HTTP: alive, ready, metrics.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use portcullis_core::control::Pause;
use portcullis_schemas::heartbeat::PolicyState;
use tokio::sync::watch;

use crate::lead::Role;

/// What is wrong with the policy. It is no reason to send requests elsewhere: releases and manual isolation work.
fn doubt(policy: &PolicyState) -> String {
    match (&policy.hash, &policy.refused) {
        (Some(_), None) => String::new(),
        (None, None) => "; no policy: detections wait for a person".into(),
        (None, Some(refused)) => {
            format!("; NO POLICY: {} refused, detections wait for a person: {}", refused.file, refused.problem)
        }
        (Some(_), Some(refused)) => {
            format!("; policy file {} refused, the policy before it stays active: {}", refused.file, refused.problem)
        }
    }
}

/// The pause is no reason to send requests elsewhere either.
fn said_of(pause: Option<&Pause>) -> String {
    pause.map_or_else(String::new, |pause| {
        format!("; automatic isolation is PAUSED by {} until {}", pause.by, pause.until.format("%Y-%m-%d %H:%M:%S UTC"))
    })
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
pub async fn spawn(
    address: SocketAddr,
    metrics: PrometheusHandle,
    role: watch::Receiver<Role>,
    connected: watch::Receiver<bool>,
    (policy, paused): (watch::Receiver<PolicyState>, watch::Receiver<Option<Pause>>),
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("--http: cannot listen on {address}; is another orchestrator running there?"))?;
    let readyz = move || {
        let notes = || format!("{}{}", said_of(paused.borrow().as_ref()), doubt(&policy.borrow()));
        let answer = match (*connected.borrow(), *role.borrow()) {
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "broker unreachable\n".to_owned()),
            (true, Role::Starting) => (StatusCode::SERVICE_UNAVAILABLE, "reading the logs\n".to_owned()),
            (true, Role::Leading) => (StatusCode::OK, format!("ready{}\n", notes())),
            (true, Role::Standby) => (StatusCode::OK, format!("standby: another orchestrator leads{}\n", notes())),
        };
        std::future::ready(answer)
    };
    let metrics = move || {
        let text = metrics.render();
        std::future::ready(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
    };
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "HTTP server ended");
        }
    });
    Ok(())
}
