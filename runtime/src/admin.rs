//! The admin port: `/metrics` (`OpenMetrics` text for Prometheus), `/ready` and `/live`.
//!
//! Ready says whether requests or work should come here; live says only that the process answers. A component that waits
//! for something else (the API server, a certificate) is not ready but alive: restarting it would mend nothing.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// Where the admin port listens.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Address of `/metrics`, `/ready` and `/live`.
    #[arg(long = "admin", env = "FIREBREAK_ADMIN", default_value = "[::]:9090")]
    pub address: SocketAddr,
}

/// What the admin port shows.
#[derive(Clone)]
struct Shown {
    metrics: Arc<Registry>,
    ready: watch::Receiver<bool>,
}

/// Serves the admin port until `stop` is cancelled.
///
/// `ready` is what `/ready` answers; a sender that is gone leaves its last word in force.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Registry>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(metrics, ready)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(metrics: Arc<Registry>, ready: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/ready", get(serve_ready))
        .route("/live", get(|| async { "live\n" }))
        .with_state(Shown { metrics, ready })
}

async fn serve_metrics(State(shown): State<Shown>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shown.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn serve_ready(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    if *shown.ready.borrow() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_follows_the_component_and_live_does_not() {
        let (tell, ready) = watch::channel(false);
        let router = router(Arc::default(), ready);
        assert_eq!(ask(&router, "/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(&router, "/live").await.0, StatusCode::OK);
        tell.send_replace(true);
        assert_eq!(ask(&router, "/ready").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let mut registry = Registry::with_prefix("firebreak_operator");
        let renders = Counter::<u64>::default();
        registry.register("renders", "Configs rendered", renders.clone());
        renders.inc();
        let router = router(Arc::new(registry), watch::channel(true).1);
        let (status, text) = ask(&router, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("\nfirebreak_operator_renders_total 1\n"), "{text}");
    }
}
