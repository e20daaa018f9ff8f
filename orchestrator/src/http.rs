//! The HTTP door: alive, ready, figures.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

/// How far the orchestrator has come; `/readyz` answers with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Starting,
    Ready,
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
pub async fn spawn(
    address: SocketAddr,
    figures: PrometheusHandle,
    ready: watch::Receiver<Readiness>,
    connected: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("--http: cannot listen on {address}; is another orchestrator running there?"))?;
    let readyz = move || {
        let answer = match (*connected.borrow(), *ready.borrow()) {
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the broker is away\n"),
            (true, Readiness::Starting) => (StatusCode::SERVICE_UNAVAILABLE, "reading the logs\n"),
            (true, Readiness::Ready) => (StatusCode::OK, "ready\n"),
        };
        std::future::ready(answer)
    };
    let metrics = move || {
        let text = figures.render();
        std::future::ready(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
    };
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP door closed");
        }
    });
    Ok(())
}
