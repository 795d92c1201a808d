//! The webhook's HTTP side: two paths, one for each entry of the webhook configuration, limits, and counting.
//!
//! A pod is small (etcd holds 1.5 MiB); a body above [`MOST_BYTES`] is refused before it is read whole, and one that
//! trickles in is given up before the API server's own time-out.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::{
    metrics::{Admission, Metrics},
    review::{Answer, Config, Entry, Outcome, review},
};

/// Largest body: an `AdmissionReview` holds the pod once, and managed fields beside it.
pub const MOST_BYTES: usize = 3 * 1024 * 1024;
/// Time for one request, body included; the webhook configuration gives 5 seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a request needs.
#[derive(Clone, Debug)]
struct Shared {
    config: Arc<Config>,
    metrics: Metrics,
}

/// The paths `/mutate/namespace` and `/mutate/pod`.
pub fn router(config: Config, metrics: Metrics) -> Router {
    let shared = Shared { config: Arc::new(config), metrics };
    Router::new()
        .route(
            "/mutate/namespace",
            post(|State(shared), body: Bytes| async move { mutate(&shared, &body, Entry::Namespace) }),
        )
        .route("/mutate/pod", post(|State(shared), body: Bytes| async move { mutate(&shared, &body, Entry::Pod) }))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

fn mutate(shared: &Shared, body: &[u8], entry: Entry) -> Response {
    let started = Instant::now();
    let answered = review(body, entry, &shared.config);
    shared.metrics.seconds.observe(started.elapsed().as_secs_f64());
    let (result, reason) = answered.as_ref().map_or(("error", ""), |answer| answer.outcome.labels());
    shared.metrics.admissions.get_or_create(&Admission { result, reason }).inc();
    match answered {
        Ok(answer) => {
            told(&answer);
            Json(answer.review).into_response()
        }
        Err(error) => {
            warn!(%error, "a request has no answer");
            (StatusCode::BAD_REQUEST, error.to_string()).into_response()
        }
    }
}

fn told(answer: &Answer) {
    let pod = &answer.pod;
    match &answer.outcome {
        Outcome::Injected => info!(pod, "injected"),
        Outcome::Skipped(reason) => info!(pod, reason = reason.code(), "skipped"),
        Outcome::Refused(refusal) => warn!(pod, reason = answer.outcome.labels().1, "refused: {refusal}"),
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    timeout(PATIENCE, next.run(request))
        .await
        .unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::review::tests::{config, pod, request};

    async fn ask(path: &str, body: Body) -> (StatusCode, Vec<u8>, String) {
        let mut registry = Registry::default();
        let router = router(config(), Metrics::new(&mut registry));
        let response = router.oneshot(Request::post(path).body(body).unwrap()).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
        let mut metrics = String::new();
        encode(&mut metrics, &registry).unwrap();
        (status, body, metrics)
    }

    #[tokio::test]
    async fn each_path_is_one_entry_of_the_webhook() {
        let body = || Body::from(request(&pod(&json!({}))).to_string());
        for (path, patched, counted) in [
            ("/mutate/namespace", true, r#"result="injected",reason="""#),
            ("/mutate/pod", false, r#"result="skipped",reason="namespace_not_enabled""#),
        ] {
            let (status, answer, metrics) = ask(path, body()).await;
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(status, StatusCode::OK);
            assert_eq!(answer["response"]["patch"].is_string(), patched, "{answer}");
            assert!(metrics.contains(&format!("firebreak_injector_admissions_total{{{counted}}} 1")), "{metrics}");
            assert!(metrics.contains("firebreak_injector_admission_seconds_count 1"), "{metrics}");
        }
    }

    #[tokio::test]
    async fn what_is_no_review_is_refused_and_counted() {
        let (status, answer, metrics) = ask("/mutate/pod", Body::from("{}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(String::from_utf8(answer).unwrap().contains("not an AdmissionReview"));
        assert!(metrics.contains(r#"result="error""#), "{metrics}");
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        let (status, ..) = ask("/mutate/pod", Body::from(vec![b' '; MOST_BYTES + 1])).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let (status, ..) = ask("/mutate/pod", endless).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }
}
