//! gRPC calls whose status comes in trailers, and may still be repeated: nothing but a head has come.

use std::{convert::Infallible, io::Error, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::support::{Body, Callee, Mesh, Seen, call_h2, connect_h2, counts, h2_request};

/// What follows a head, and how long after it: a frame, or the end of it all.
type Then = (Duration, Option<Frame<Bytes>>);

const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

const AT_ONCE: Duration = Duration::ZERO;

fn message() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(MESSAGE))
}

fn trailers(fields: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    Frame::trailers(fields.collect())
}

fn status(status: &'static str) -> Frame<Bytes> {
    trailers(&[("grpc-status", status)])
}

/// A callee whose first answer goes on like this, and whose others are a message and success.
async fn first(then: fn() -> Vec<Then>) -> Callee {
    Callee::serve(move |number, _, _| async move {
        let frames = if number == 1 { then() } else { vec![(AT_ONCE, Some(message())), (AT_ONCE, Some(status("0")))] };
        let frames = stream::iter(frames).then(|(after, frame)| async move {
            tokio::time::sleep(after).await;
            frame.ok_or_else(|| Error::other("broken"))
        });
        Response::builder().header("content-type", "application/grpc").body(StreamBody::new(Box::pin(frames))).unwrap()
    })
    .await
}

fn retrying() -> Value {
    json!({"timeouts": {"attempt": "2s"}, "retries": {"maxRetries": 1, "conditions": ["grpc-unavailable"]}})
}

async fn call(mesh: &Mesh) -> Seen {
    let request = h2_request("/shop.Cart/Get").method("POST").header("content-type", "application/grpc");
    call_h2(mesh.address, request).await.unwrap()
}

#[tokio::test]
async fn a_call_that_failed_in_trailers_without_a_message_is_repeated() {
    let soon = || vec![(Duration::from_millis(20), Some(status("14")))];
    for then in [|| vec![(AT_ONCE, Some(status("14")))], soon] {
        let callee = first(then).await;
        let mesh = Mesh::new(&[callee.address], retrying());
        let seen = call(&mesh).await;
        assert_eq!((&seen.trailers.unwrap()["grpc-status"], callee.requests()), (&HeaderValue::from_static("0"), 2));
        assert_eq!(mesh.fates(1).await, counts(&[("succeeded_after_retry", 1)]));
        assert_eq!(mesh.attempts(2).await, counts(&[("answered", 1), ("error", 1)]));
    }
}

#[tokio::test]
async fn the_last_trys_trailers_go_to_the_caller_with_its_reason() {
    let callee =
        first(|| vec![(AT_ONCE, Some(trailers(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")])))]).await;
    let mesh = Mesh::new(&[callee.address], retrying());
    let seen = call(&mesh).await;
    let trailers = seen.trailers.unwrap();
    assert_eq!((&trailers["grpc-status"], callee.requests()), (&HeaderValue::from_static("14"), 1), "it pushed back");
    assert!(trailers["proxy-status"].to_str().unwrap().contains("firebreak-reason=callee_error;"), "{trailers:?}");
    assert_eq!(mesh.fates(1).await, counts(&[("failed", 1)]));
    let records = mesh.records("", 1).await;
    assert_eq!(records[0]["tries"][0]["grpc_status"], 14, "{}", records[0]);
}

#[tokio::test]
async fn after_a_message_nothing_is_repeated() {
    let callee = first(|| vec![(AT_ONCE, Some(message())), (AT_ONCE, Some(status("14")))]).await;
    let mesh = Mesh::new(&[callee.address], retrying());
    let seen = call(&mesh).await;
    assert_eq!((&seen.trailers.unwrap()["grpc-status"], callee.requests()), (&HeaderValue::from_static("14"), 1));
    assert_eq!(seen.body, MESSAGE, "what was read ahead is not lost");
    let seen = call(&mesh).await;
    assert_eq!(
        (seen.body, &seen.trailers.unwrap()["grpc-status"]),
        (Bytes::from_static(MESSAGE), &HeaderValue::from_static("0"))
    );
}

#[tokio::test]
async fn a_call_that_broke_off_after_its_head_is_repeated_as_unavailable() {
    let callee = first(|| vec![(Duration::from_millis(20), None)]).await;
    let mesh = Mesh::new(&[callee.address], retrying());
    assert_eq!(call(&mesh).await.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(mesh.fates(1).await, counts(&[("succeeded_after_retry", 1)]));
    assert_eq!(callee.requests(), 2);
}

#[tokio::test]
async fn a_stream_that_says_nothing_yet_has_its_head_passed_on() {
    let callee = first(|| vec![(Duration::from_hours(1), Some(message()))]).await;
    let mesh = Mesh::new(&[callee.address], retrying());
    let mut sender = connect_h2(mesh.address).await;
    let request = h2_request("/shop.Watch/Open").header("content-type", "application/grpc");
    let begun = Instant::now();
    let head = sender.send_request(request.body(Body::default()).unwrap());
    let response = timeout(Duration::from_secs(1), head).await.expect("the head does not wait for ever").unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100), "it waited to see if the call had failed");
    assert_eq!(response.headers().get("grpc-status"), None);
}

/// Neither a caller that is still sending nor a policy without gRPC's conditions makes a head wait.
#[tokio::test]
async fn a_head_does_not_wait_where_nothing_could_be_repeated() {
    let others = json!({"timeouts": {"attempt": "2s"}, "retries": {"maxRetries": 1, "conditions": ["5xx"]}});
    for (policy, still_sending) in [(retrying(), true), (others, false)] {
        let callee = first(|| vec![(Duration::from_hours(1), Some(message()))]).await;
        let mesh = Mesh::new(&[callee.address], policy);
        let mut sender = connect_h2(mesh.address).await;
        let request = h2_request("/shop.Chat/Open").method("POST").header("content-type", "application/grpc");
        let rest = if still_sending { stream::pending().boxed() } else { stream::empty().boxed() };
        let body = StreamBody::new(stream::iter([Ok::<_, Infallible>(message())]).chain(rest));
        let begun = Instant::now();
        sender.send_request(request.body(body).unwrap()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100), "still sending {still_sending}: {:?}", begun.elapsed());
    }
}
