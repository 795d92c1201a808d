//! The keeper against an API server that answers a write when the test says so, or never.

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::service_fn;

use super::*;

/// A write of the lease that waits for its answer; dropped, it never gets one.
struct Write {
    lease: Value,
    answer: oneshot::Sender<()>,
}

struct Stage {
    writes: mpsc::UnboundedReceiver<Write>,
    held: Held,
    _stop: tokio_util::sync::DropGuard,
}

/// There is no lease yet; the watch of it stays silent.
fn stage() -> Stage {
    let (sender, writes) = mpsc::unbounded_channel();
    let server = service_fn(move |request: Request<Body>| answer(request, sender.clone()));
    let (client, stop) = (Client::new(server, "default"), CancellationToken::new());
    let (keeper, held) = Keeper::new(client, "firebreak-system", "lease", "a", Metrics::default());
    tokio::spawn(keeper.run(stop.clone()));
    Stage { writes, held, _stop: stop.drop_guard() }
}

async fn answer(
    request: Request<Body>,
    writes: mpsc::UnboundedSender<Write>,
) -> Result<Response<Body>, tower::BoxError> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET {
        if head.uri.query().is_some_and(|query| query.contains("watch=true")) {
            std::future::pending::<()>().await;
        }
        let none = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": {"resourceVersion": "1"}, "items": []});
        return Ok(Response::new(Body::from(none.to_string().into_bytes())));
    }
    let mut lease: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    let (answer, answered) = oneshot::channel();
    writes.send(Write { lease: lease.clone(), answer })?;
    if answered.await.is_err() {
        std::future::pending::<()>().await;
    }
    lease["metadata"]["resourceVersion"] = json!("2");
    Ok(Response::new(Body::from(lease.to_string().into_bytes())))
}

impl Stage {
    /// The lease is created; when that was sent.
    async fn hold(&mut self) -> Instant {
        let (write, sent) = self.write().await;
        write.answer.send(()).unwrap();
        assert!(self.held.changed().await);
        sent
    }

    /// The next write, and when it was sent.
    async fn write(&mut self) -> (Write, Instant) {
        let write = self.writes.recv().await.unwrap();
        assert_eq!(write.lease["spec"]["holderIdentity"], "a");
        (write, Instant::now())
    }
}

#[tokio::test(start_paused = true)]
async fn the_holder_gives_up_on_time_while_its_renewal_is_under_way() {
    let mut stage = stage();
    let renewed = stage.hold().await;
    drop(stage.write().await);
    let (under_way, sent) = stage.write().await;
    assert!(sent < renewed + RENEW_WITHIN && sent + REQUEST > renewed + RENEW_WITHIN, "it hangs beyond the end");
    assert!(!stage.held.changed().await);
    assert_eq!(Instant::now(), renewed + RENEW_WITHIN);
    assert!(!under_way.answer.is_closed(), "its answer is still waited for");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_counts_from_when_its_request_was_sent() {
    let mut stage = stage();
    let renewed = stage.hold().await;
    drop(stage.write().await);
    let (late, sent) = stage.write().await;
    assert!(!stage.held.changed().await);
    sleep_until(sent + REQUEST - Duration::from_millis(100)).await;
    assert!(Instant::now() > renewed + RENEW_WITHIN, "late");
    late.answer.send(()).unwrap();
    assert!(stage.held.changed().await, "nobody else can have taken it");
    assert!(!stage.held.changed().await);
    assert_eq!(Instant::now(), sent + RENEW_WITHIN);
}
