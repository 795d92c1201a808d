//! Bodies that are kept for another try are bounded together: one too many is passed through, and sent once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use firebreak_proxy::Settings;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    http1::until,
    support::{Body, Callee, Mesh, call},
};

const BODY: usize = 60 * 1024;

/// What may be kept: one such body, and not two.
const LIMIT: usize = 100 * 1024;

/// A callee that reads bodies and fails each second request, the first too.
async fn callee() -> (Callee, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let callee = Callee::start(move |number, request| {
        let read = Arc::clone(&counted);
        async move {
            let body = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            read.fetch_add(body, SeqCst);
            Response::builder().status(if number % 2 == 1 { 503 } else { 200 }).body(Body::default()).unwrap()
        }
    })
    .await;
    (callee, read)
}

async fn upload(mesh: &Mesh) -> u16 {
    let body = Body::from(vec![b'x'; BODY]);
    call(mesh.address, Request::post("/").header("host", "callee").body(body).unwrap()).await.unwrap().status.as_u16()
}

async fn held(mesh: &Mesh, expected: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !expected(mesh.proxy.registry().replay.held()) {
        assert!(Instant::now() < deadline, "{}", mesh.proxy.registry().replay.held());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_body_too_many_goes_through_and_is_sent_once() {
    let (callee, read) = callee().await;
    let settings = Settings { replay_bytes: LIMIT, ..Settings::default() };
    let policy = json!({"retries": {"methods": "All"}});
    let mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[("TrafficPolicy", policy)]);
    assert_eq!((upload(&mesh).await, read.load(SeqCst)), (200, 2 * BODY), "it is sent again");
    held(&mesh, |held| held == 0).await;

    // One that has sent nearly all of its body takes nearly all of the room.
    let mut slow = TcpStream::connect(mesh.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: callee\r\ncontent-length: {BODY}\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&vec![b'x'; BODY - 1]).await.unwrap();
    held(&mesh, |held| held >= BODY - 1).await;
    // Its own request is the third at the callee, so that the next one is the fourth.
    while callee.requests() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(upload(&mesh).await, 200, "what is not kept goes through");
    assert_eq!(upload(&mesh).await, 503, "and is not sent again");
    let refused = mesh.proxy.registry().replay.refused();
    assert_eq!(refused, 2);
    let metrics = mesh.metrics().await;
    for line in ["firebreak_replay_refused_total 2", "firebreak_replay_limit_bytes 102400"] {
        assert!(metrics.contains(&format!("{line}\n")), "{metrics}");
    }

    // Its body is kept as before, and all comes free at its end. It is the third that the callee fails, and so sent again.
    slow.write_all(b"x").await.unwrap();
    let answer = timeout(Duration::from_secs(5), until(&mut slow, "\r\n\r\n")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    held(&mesh, |held| held == 0).await;
    assert_eq!((upload(&mesh).await, callee.requests()), (200, 8));
}
