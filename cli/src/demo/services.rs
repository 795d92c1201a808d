//! The sample services: `service2`, which can be made to fail or to hang, and `service3`, which is well and which service2
//! calls for every answer it gives. `web` is the demo itself.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::http::{self, answer};

/// For service3's answer: it has nothing to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// How service2 is doing.
#[derive(Debug)]
pub(crate) struct Mood {
    /// Requests of a hundred that are answered 503.
    failing: AtomicU32,
    hanging: watch::Sender<bool>,
    /// Where service3 is reached: through the proxy. Known once that listens.
    next: watch::Sender<Option<Uri>>,
    /// Requests that were sent on to service3.
    passed_on: AtomicU64,
}

/// Both services, until dropped.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) service2: SocketAddr,
    pub(crate) service3: SocketAddr,
    pub(crate) mood: Arc<Mood>,
    _servers: JoinSet<std::convert::Infallible>,
}

impl Services {
    pub(crate) async fn start() -> std::io::Result<Self> {
        let mood = Arc::new(Mood {
            failing: AtomicU32::new(0),
            hanging: watch::Sender::new(false),
            next: watch::Sender::new(None),
            passed_on: AtomicU64::new(0),
        });
        let (one, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (service2, service3) = (one.local_addr()?, other.local_addr()?);
        let mut servers = JoinSet::new();
        let felt = Arc::clone(&mood);
        servers.spawn(http::serve(one, move |request| as_felt(Arc::clone(&felt), request)));
        servers.spawn(http::serve(other, |_| async { answer(200, "service3\n") }));
        Ok(Self { service2, service3, mood, _servers: servers })
    }
}

impl Mood {
    /// Answers this share with 503 from now on.
    pub(crate) fn fail(&self, percent: u32) {
        self.failing.store(percent, Relaxed);
    }

    /// Takes requests and does not answer, until told otherwise.
    pub(crate) fn hang(&self, hanging: bool) {
        self.hanging.send_replace(hanging);
    }

    /// Tells service2 where service3 is.
    pub(crate) fn introduce(&self, service3: Uri) {
        self.next.send_replace(Some(service3));
    }

    /// How many requests service2 has sent to service3.
    pub(crate) fn passed_on(&self) -> u64 {
        self.passed_on.load(Relaxed)
    }
}

async fn as_felt(mood: Arc<Mood>, _: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut hanging = mood.hanging.subscribe();
    if hanging.wait_for(|hanging| !hanging).await.is_err() || fastrand::u32(..100) < mood.failing.load(Relaxed) {
        return answer(503, "service2 is not well\n");
    }
    let next = mood.next.borrow().clone();
    let Some(next) = next else { return answer(200, "service2\n") };
    mood.passed_on.fetch_add(1, Relaxed);
    match http::get(&next, PATIENCE).await {
        Ok(theirs) => answer(theirs.status, "service2, with the help of service3\n"),
        Err(_) => answer(502, "service3 did not answer\n"),
    }
}
