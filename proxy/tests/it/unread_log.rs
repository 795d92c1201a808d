//! A log that nobody reads: the proxy serves as before, says how many lines it has dropped, and writes the others when somebody does.

use std::{
    io::{BufRead, BufReader, pipe},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use firebreak_proxy::{
    Settings,
    telemetry::{access_log::Taker, output::Output},
};
use http::Request;
use serde_json::json;

use super::support::{Body, Callee, Mesh, connect_h1, read};

/// More lines than a pipe of 64 KiB and two buffers of 256 KiB hold.
const REQUESTS: u64 = 4000;

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing_and_what_is_dropped_is_counted() {
    let callee = Callee::answering(&[500]).await;
    let (unread, writer) = pipe().unwrap();
    let output = Output::start(writer).unwrap();
    let settings = Settings { records: Some(Taker::Output(output.clone())), ..Settings::default() };
    let mesh = Mesh::set(settings, &[callee.address], json!({"protocol": "Http"}), &[]);
    let mut sender = connect_h1(mesh.address).await;
    for _ in 0..REQUESTS {
        let request = Request::get("/").header("host", "callee").body(Body::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(read(answer, tokio::time::Instant::now()).await.unwrap().status, 500);
    }
    // The control thread answers, and has told all records by then.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while recorded(&mesh).await < REQUESTS {
        assert!(tokio::time::Instant::now() < deadline, "{}", mesh.metrics().await);
        tokio::task::yield_now().await;
    }
    let dropped = mesh.proxy.registry().log_dropped.load(Relaxed);
    assert!(dropped > 0 && mesh.metrics().await.contains(&format!("firebreak_log_lines_dropped_total {dropped}\n")));

    let written = usize::try_from(REQUESTS - dropped).unwrap();
    let lines = tokio::task::spawn_blocking(move || BufReader::new(unread).lines().take(written).count());
    assert_eq!(lines.await.unwrap(), written, "each line was written or counted");
    assert!(output.flush(Duration::from_secs(20)));
}

/// Records that came to the flight recorder, or would have.
async fn recorded(mesh: &Mesh) -> u64 {
    let metrics = mesh.metrics().await;
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("firebreak_recorder_{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    ["records", "evicted_total", "dropped_total"].map(value).iter().sum()
}
