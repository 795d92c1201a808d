//! A proxy, a callee that does what a test says, and a caller.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use firebreak_proxy::{
    Identity, Proxy, Settings,
    telemetry::access_log::{Record, Taker},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

pub(crate) type Body = Full<Bytes>;

/// A callee on loopback.
pub(crate) struct Callee {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// A proxy in local mode in front of one Service, `shop/callee`, port 80.
pub(crate) struct Mesh {
    pub proxy: Proxy,
    pub address: SocketAddr,
    config: Value,
    /// What would be logged.
    _records: mpsc::Receiver<Record>,
}

/// What a caller saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    pub took: Duration,
}

impl Callee {
    /// A callee that answers with `handler(number of the request, request)`, numbers from 1.
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(usize, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serve(move |number, _, request| handler(number, request)).await
    }

    /// A callee that answers with `handler(number of the request, of its connection, request)`, numbers from 1.
    pub(crate) async fn serve<H, F, B>(handler: H) -> Self
    where
        H: Fn(usize, usize, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callee = Self { address, requests: Arc::clone(&requests), connections: Arc::clone(&connections) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.fetch_add(1, SeqCst) + 1;
                let (handler, requests) = (handler.clone(), Arc::clone(&requests));
                let service = service_fn(move |request| {
                    let answer = handler(requests.fetch_add(1, SeqCst) + 1, connection, request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        callee
    }

    /// A callee whose responses are these bytes, again and again after each `pause`: as often as the query says, or without
    /// end.
    pub(crate) async fn dripping(bytes: &'static [u8], pause: Duration) -> Self {
        Self::serve(move |_, _, request| async move {
            let drops = request.uri().query().map_or(usize::MAX, |query| query.parse().unwrap());
            let drops = futures::stream::unfold(drops, move |left| async move {
                let rest = left.checked_sub(1)?;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(bytes))), rest))
            });
            Response::new(StreamBody::new(drops))
        })
        .await
    }

    /// A callee that answers with these statuses in turn, and with the last for ever.
    pub(crate) async fn answering(statuses: &'static [u16]) -> Self {
        Self::start(move |number, _| async move {
            let status = statuses[(number - 1).min(statuses.len() - 1)];
            Response::builder().status(status).body(Body::from(format!("answer {number}"))).unwrap()
        })
        .await
    }

    /// A callee that answers 200 after `pause`.
    pub(crate) async fn slow(pause: Duration) -> Self {
        Self::start(move |_, _| async move {
            tokio::time::sleep(pause).await;
            Response::new(Body::from("ok"))
        })
        .await
    }

    /// A callee that takes requests and never answers.
    pub(crate) async fn hanging() -> Self {
        Self::start(|_, _| std::future::pending()).await
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Mesh {
    /// A proxy with one policy in front of these endpoints.
    pub(crate) fn new(endpoints: &[SocketAddr], policy: Value) -> Self {
        Self::with(endpoints, json!({"protocol": "Http"}), &[("TrafficPolicy", policy)])
    }

    /// A proxy with any entries; `port` is merged into the Service's port.
    pub(crate) fn with(endpoints: &[SocketAddr], port: Value, entries: &[(&str, Value)]) -> Self {
        Self::on(1, endpoints, port, entries)
    }

    /// The same with any number of workers.
    pub(crate) fn on(workers: usize, endpoints: &[SocketAddr], port: Value, entries: &[(&str, Value)]) -> Self {
        Self::set(Settings { workers, ..Settings::default() }, endpoints, port, entries)
    }

    /// The same with any settings.
    pub(crate) fn set(settings: Settings, endpoints: &[SocketAddr], port: Value, entries: &[(&str, Value)]) -> Self {
        let address = free_address();
        let endpoints: Vec<_> = endpoints.iter().map(|address| json!({"address": address})).collect();
        let mut service = json!({"port": 80, "listen": [address], "endpoints": endpoints,
            "policies": ["shop/test"], "faults": ["shop/test"]});
        service.as_object_mut().unwrap().extend(port.as_object().unwrap().clone());
        let mut list = vec![json!({"kind": "Service", "name": "shop/callee", "body": {"ports": [service]}})];
        list.extend(entries.iter().map(|(kind, body)| json!({"kind": kind, "name": "shop/test", "body": body})));
        let (records, taken) = mpsc::channel(1024);
        let settings = Settings {
            identity: Identity { name: "caller-pod".into(), ..Identity::default() },
            admin: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            grace: Duration::from_secs(5),
            records: Some(settings.records.unwrap_or(Taker::Channel(records))),
            ..settings
        };
        let mesh = Self {
            proxy: Proxy::start(settings).unwrap(),
            address,
            config: json!({"format": 1, "namespace": "shop", "entries": list}),
            _records: taken,
        };
        mesh.publish();
        mesh
    }

    /// Changes the config as `change` says and puts it in force.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.config);
        self.publish();
    }

    fn publish(&self) {
        let (report, listeners) = self.proxy.publish(self.config.to_string().as_bytes());
        assert_eq!((report.refused, report.problems, report.ignored), (None, vec![], vec![]));
        assert!(listeners.iter().all(|listener| listener.error.is_none()), "{listeners:?}");
    }

    /// One GET over a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Seen {
        self.send(Request::get(path)).await
    }

    /// The same over HTTP/1 or HTTP/2.
    pub(crate) async fn get_over(&self, http2: bool, path: &str) -> Seen {
        if http2 { call_h2(self.address, h2_request(path)).await.unwrap() } else { self.get(path).await }
    }

    /// So many GETs at once, each over a connection of its own.
    pub(crate) fn get_together(self: &Arc<Self>, count: usize) -> Vec<JoinHandle<Seen>> {
        let one = |_| {
            let mesh = Arc::clone(self);
            tokio::spawn(async move { mesh.get("/").await })
        };
        (0..count).map(one).collect()
    }

    /// One request without a body over a connection of its own.
    pub(crate) async fn send(&self, request: http::request::Builder) -> Seen {
        let request = request.header("host", "callee").body(Body::default()).unwrap();
        call(self.address, request).await.unwrap()
    }

    /// Requests by fate, once there are `total`: the books are closed a moment after the caller has its answer.
    pub(crate) async fn fates(&self, total: u64) -> BTreeMap<String, u64> {
        self.counts("firebreak_requests_total", "fate", total).await
    }

    /// Tries by outcome.
    pub(crate) async fn attempts(&self, total: u64) -> BTreeMap<String, u64> {
        self.counts("firebreak_attempts_total", "outcome", total).await
    }

    /// Failures by reason.
    pub(crate) async fn reasons(&self, total: u64) -> BTreeMap<String, u64> {
        self.counts("firebreak_failures_total", "reason", total).await
    }

    async fn counts(&self, metric: &str, label: &str, total: u64) -> BTreeMap<String, u64> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let mut counts = BTreeMap::new();
            for line in self.metrics().await.lines().filter(|line| line.starts_with(&format!("{metric}{{"))) {
                let value = line.split(&format!("{label}=\"")).nth(1).unwrap().split('"').next().unwrap();
                *counts.entry(value.to_owned()).or_default() +=
                    line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
            }
            if counts.values().sum::<u64>() == total {
                return counts;
            }
            assert!(tokio::time::Instant::now() < deadline, "{metric}: {counts:?} instead of {total}");
            tokio::task::yield_now().await;
        }
    }

    /// What the flight recorder answers to this query.
    pub(crate) async fn recorder(&self, query: &str) -> Seen {
        let request = Request::get(format!("/recorder{query}")).header("host", "admin").body(Body::default()).unwrap();
        call(self.proxy.admin()[0], request).await.unwrap()
    }

    /// The records that `query` finds, once there are `count`.
    pub(crate) async fn records(&self, query: &str, count: usize) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let found: Value = serde_json::from_slice(&self.recorder(query).await.body).unwrap();
            let records = found["records"].as_array().unwrap().clone();
            if records.len() == count {
                assert_eq!(found["proxy"], "caller-pod");
                return records;
            }
            assert!(tokio::time::Instant::now() < deadline, "{count} records expected: {records:#?}");
            tokio::task::yield_now().await;
        }
    }

    /// The sum of the series of `metric` that have all of `labels`, each `name="value"`.
    pub(crate) async fn sum(&self, metric: &str, labels: &[&str]) -> u64 {
        let metrics = self.metrics().await;
        let start = format!("{metric}{{");
        let fits = |line: &&str| line.starts_with(&start) && labels.iter().all(|label| line.contains(label));
        metrics.lines().filter(fits).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until the metrics are `enough`; without that it fails and shows what it saw of `what`.
    pub(crate) async fn until(&self, what: &str, enough: impl Fn(&str) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let metrics = self.metrics().await;
            if enough(&metrics) {
                return;
            }
            let seen: Vec<_> = metrics.lines().filter(|line| line.starts_with(what)).collect();
            assert!(tokio::time::Instant::now() < deadline, "{what}: {seen:#?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        self.metrics_as("*/*").await
    }

    /// What a scraper gets that accepts this.
    pub(crate) async fn metrics_as(&self, accept: &str) -> String {
        let request = Request::get("/metrics").header("host", "admin").header("accept", accept);
        let request = request.body(Body::default()).unwrap();
        let seen = call(self.proxy.admin()[0], request).await.unwrap();
        String::from_utf8(seen.body.into()).unwrap()
    }
}

impl Seen {
    /// What `Proxy-Status` says, its last member.
    pub(crate) fn verdict(&self) -> &str {
        self.headers.get_all("proxy-status").iter().next_back().map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn has_reason(&self, reason: &str) -> bool {
        self.verdict().contains(&format!("firebreak-reason={reason};"))
    }
}

/// An address that nobody listens at, and no connection will begin at: below the ports that the kernel hands out.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 131;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, SeqCst)) % 20_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()));
        if StdListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// One request over HTTP/1 on a connection of its own.
pub(crate) async fn call(address: SocketAddr, request: Request<Body>) -> hyper::Result<Seen> {
    let mut sender = connect_h1(address).await;
    let started = tokio::time::Instant::now();
    read(sender.send_request(request).await?, started).await
}

/// Whether a connection is reset: while it is opened, or as soon as it is.
pub(crate) async fn is_reset(address: SocketAddr) -> bool {
    let read = async { TcpStream::connect(address).await?.read(&mut [0]).await };
    read.await.is_err_and(|error: io::Error| error.kind() == io::ErrorKind::ConnectionReset)
}

pub(crate) async fn connect_h1(address: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

pub(crate) async fn connect_h2<B>(address: SocketAddr) -> http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request over HTTP/2.
pub(crate) fn h2_request(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://callee{path}")).version(http::Version::HTTP_2)
}

/// One request without a body over an HTTP/2 connection of its own.
pub(crate) async fn call_h2(address: SocketAddr, request: http::request::Builder) -> hyper::Result<Seen> {
    let mut sender = connect_h2(address).await;
    let started = tokio::time::Instant::now();
    read(sender.send_request(request.body(Body::default()).unwrap()).await?, started).await
}

/// Reads a response to its end.
pub(crate) async fn read(response: Response<Incoming>, started: tokio::time::Instant) -> hyper::Result<Seen> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let took = started.elapsed();
    Ok(Seen { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers, took })
}

/// `{"a": 1}` as the maps that tests compare with.
pub(crate) fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// A listener whose queue is full: connecting to it hangs.
pub(crate) async fn full_listener() -> (StdListener, Vec<JoinHandle<()>>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let listener = StdListener::from(socket);
    let address = listener.local_addr().unwrap();
    let queued: Vec<_> = (0..8)
        .map(|_| tokio::spawn(async move { drop(TcpStream::connect(address).await.map(std::mem::forget)) }))
        .collect();
    while tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await.is_ok() {}
    (listener, queued)
}
