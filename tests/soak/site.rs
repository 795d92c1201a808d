//! The good callees: what they answer, and what they know of the requests that came.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use firebreak_tests::app::grpc;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::oneshot, time::sleep};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A large answer: more than the buffers on its way take.
pub(crate) const LARGE_FRAMES: usize = 384;
pub(crate) const LARGE_FRAME: usize = 16 * 1024;
/// What the slow callee takes at most: longer than a try may.
const SLOW_MILLIS: u64 = 400;
/// The request's number, in trailers there and back.
pub(crate) const TRAILER: &str = "x-soak";
/// Length and sum of the body, said by whoever sends it.
pub(crate) const SUM: &str = "x-soak-sum";
/// The protocol of upgrades: bytes come back as they are.
pub(crate) const PROTOCOL: &str = "soak-echo";

/// What callees know.
#[derive(Default)]
pub(crate) struct Site {
    /// Those who wait until their requests have arrived, by the requests' numbers.
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    /// Requests that have come and are not at their end.
    busy: AtomicUsize,
    defects: Mutex<Vec<String>>,
}

/// A request that is at a callee.
struct Busy(Arc<Site>);

impl Busy {
    fn new(site: &Arc<Site>) -> Self {
        site.busy.fetch_add(1, SeqCst);
        Self(Arc::clone(site))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, SeqCst);
    }
}

impl Site {
    /// Resolves when this request has arrived at a callee.
    pub(crate) fn arrival(&self, id: u64) -> oneshot::Receiver<()> {
        let (arrived, wait) = oneshot::channel();
        self.waiting.lock().insert(id, arrived);
        wait
    }

    fn arrived(&self, id: u64) {
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            // Whoever waited may have got an answer instead.
            let _ = waiting.send(());
        }
    }

    /// It need not be waited for any more.
    pub(crate) fn forget(&self, id: u64) {
        self.waiting.lock().remove(&id);
    }

    /// Requests that have come and are not at their end.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(SeqCst)
    }

    /// What came and was not as it had been sent.
    pub(crate) fn defects(&self) -> Vec<String> {
        self.defects.lock().clone()
    }

    /// That a body which came to its end is the whole of what was sent, where its sender said what it was.
    fn check(&self, id: &str, said: Option<&HeaderValue>, came: &str) {
        if let Some(said) = said
            && said.as_bytes() != came.as_bytes()
        {
            self.defects.lock().push(format!("request {id}: a body of {said:?} came to its end as {came}"));
        }
    }
}

/// Length and sum of a body (FNV-1a): enough to tell one that was cut, mixed or is another's.
pub(crate) fn sum(body: &[u8]) -> String {
    let sum = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{} {sum:016x}", body.len())
}

/// Serves a connection. How it ends is the proxy's business.
pub(crate) async fn serve(site: Arc<Site>, slow: bool, stream: TcpStream) {
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(answer(&site, slow, request).await) }
    });
    let _ = Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

async fn answer(site: &Arc<Site>, slow: bool, request: Request<Incoming>) -> Response<Body> {
    let busy = Busy::new(site);
    if slow {
        sleep(Duration::from_millis(fastrand::u64(..SLOW_MILLIS))).await;
    }
    let path = request.uri().path().to_owned();
    let (what, id) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match what {
        "hold" => {
            site.arrived(id.parse().unwrap_or_default());
            pending().await
        }
        "large" => large(busy),
        "upgrade" => upgrade(request, busy),
        "fickle" if fastrand::bool() => refuse(request, id.to_owned(), busy),
        "streamed" => {
            let body = Bytes::from(format!("{id} {}", sum(b"")));
            Response::new(StreamBody::new(stream::iter([Ok(Frame::data(body))])).boxed_unsync())
        }
        _ if grpc::is(request.headers()) => message(id),
        _ => echo(site, id, request).await,
    }
}

fn large(busy: Busy) -> Response<Body> {
    let frame = Bytes::from(vec![b'x'; LARGE_FRAME]);
    let frames = stream::repeat(frame).take(LARGE_FRAMES).map(move |frame| {
        let _under_way = &busy;
        Ok(Frame::data(frame))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// Says what came, and sends its trailers back.
async fn echo(site: &Arc<Site>, id: &str, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return failure() };
    let trailers = body.trailers().and_then(|trailers| trailers.get(TRAILER).cloned());
    let came = came(site, id, &head.headers, body);
    let text = Bytes::from(format!("{id} {came}"));
    let Some(trailer) = trailers else { return Response::new(Full::from(text).boxed_unsync()) };
    let trailers = HeaderMap::from_iter([(header::HeaderName::from_static(TRAILER), trailer)]);
    let frames = [Ok(Frame::data(text)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static(TRAILER));
    response
}

fn came(site: &Site, id: &str, headers: &HeaderMap, body: Collected<Bytes>) -> String {
    let came = sum(&body.to_bytes());
    site.check(id, headers.get(SUM), &came);
    came
}

/// Answers 503 before the body has come, and reads it all the same, as applications do.
fn refuse(request: Request<Incoming>, id: String, busy: Busy) -> Response<Body> {
    tokio::spawn(async move {
        let (head, body) = request.into_parts();
        if let Ok(body) = body.collect().await {
            came(&busy.0, &id, &head.headers, body);
        }
    });
    failure()
}

fn failure() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// From now on bytes come back as they are, until either side is done.
fn upgrade(request: Request<Incoming>, busy: Busy) -> Response<Body> {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            drop(tokio::io::copy(&mut reader, &mut writer).await);
        }
        drop(busy);
    });
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// One message, and the status in the trailers.
fn message(id: &str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(grpc::framed(id.as_bytes()))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
