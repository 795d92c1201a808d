//! The admin port. What says something about the pod to its neighbours (`/metrics`, `/ready`, probes) is served to anybody
//! who can reach the pod; what shows the config or changes the proxy's life is served on loopback only. Probes are answered
//! for the ports that the pod's own ask about: dialling any other would let every neighbour try out this pod's ports.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{json, value::RawValue};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{
    config::publish::Publisher,
    telemetry::{exposition, metrics::Registry},
    verdict::recorder::{Filter, Recorder},
    worker::Phase,
};

/// How long an application may take to accept a probe's connection; the kubelet has its own, shorter or longer, patience.
const PROBE: Duration = Duration::from_secs(10);

/// What the handlers need.
#[derive(Clone, Debug)]
pub struct Admin {
    publisher: Arc<Publisher>,
    registry: Arc<Registry>,
    recorder: Recorder,
    phase: watch::Sender<Phase>,
    addresses: Arc<[IpAddr]>,
    probed: Arc<[u16]>,
}

impl Admin {
    /// `addresses` are the pod's, where its application listens.
    pub fn new(
        publisher: &Arc<Publisher>,
        registry: &Arc<Registry>,
        recorder: Recorder,
        phase: watch::Sender<Phase>,
        addresses: Vec<IpAddr>,
    ) -> Self {
        Self {
            publisher: Arc::clone(publisher),
            registry: Arc::clone(registry),
            recorder,
            phase,
            addresses: if addresses.is_empty() { [Ipv4Addr::LOCALHOST.into()].into() } else { addresses.into() },
            probed: [].into(),
        }
    }

    /// The same, answering probes of `ports`; without this, of none.
    #[must_use]
    pub fn answering_for(self, ports: Vec<u16>) -> Self {
        Self { probed: ports.into(), ..self }
    }
}

/// Serves one listener until the runtime ends.
pub async fn serve(listener: TcpListener, state: Admin) {
    let private = Router::new()
        .route("/config", get(config))
        .route("/recorder", get(recorder))
        .route("/drain", post(drain))
        .layer(middleware::from_fn(loopback_only));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/probe/tcp/{port}", get(probe))
        .merge(private)
        .with_state(state)
        .into_make_service_with_connect_info::<SocketAddr>();
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin port ended");
    }
}

async fn loopback_only(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "served on loopback only: use kubectl port-forward\n").into_response()
    }
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let with_exemplars = accepted.into_iter().any(|accept| accept.contains(exposition::MEDIA_TYPE));
    match exposition::text(&admin.registry, with_exemplars) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    match *admin.phase.borrow() {
        Phase::Serving => (StatusCode::OK, "ready\n").into_response(),
        Phase::Draining | Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

/// Answers for a tcpSocket probe: connected to the sidecar, it would always succeed.
async fn probe(State(admin): State<Admin>, Path(port): Path<u16>) -> Response {
    if !admin.probed.contains(&port) {
        let why =
            format!("no probe of this pod asks about port {port}: only ports of its tcpSocket probes are dialled\n");
        return (StatusCode::NOT_FOUND, why).into_response();
    }
    let connect = async {
        for address in &*admin.addresses {
            if TcpStream::connect((*address, port)).await.is_ok() {
                return true;
            }
        }
        false
    };
    if timeout(PROBE, connect).await == Ok(true) {
        (StatusCode::OK, "accepted\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("nobody accepts connections at port {port}\n")).into_response()
    }
}

async fn config(State(admin): State<Admin>) -> Response {
    let document = admin.publisher.document().and_then(RawValue::from_string);
    match document {
        Ok(document) => Json(json!({"report": admin.publisher.report(), "config": document})).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The last requests that did not simply succeed. Their paths and ids are nobody else's business.
async fn recorder(State(admin): State<Admin>, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let refuse = |why: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response();
    match filter {
        Ok(Query(filter)) => match admin.recorder.find(&filter) {
            Ok(found) => Json(found).into_response(),
            Err(error) => refuse(&error),
        },
        Err(error) => refuse(&error),
    }
}

async fn drain(State(admin): State<Admin>) -> &'static str {
    admin.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Draining)) < Phase::Draining);
    "draining\n"
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    };

    use crate::{Proxy, Settings};

    /// A proxy that answers probes of `ports`, and where to ask it.
    fn proxy(ports: Vec<u16>) -> (Proxy, SocketAddr) {
        let admin = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        let proxy = Proxy::start(Settings { admin, probe_ports: ports, ..Settings::default() }).unwrap();
        let address = proxy.admin()[0];
        (proxy, address)
    }

    /// Status and body of the answer to a probe of `port`.
    fn probed(admin: SocketAddr, port: u16) -> (u16, String) {
        let mut stream = TcpStream::connect(admin).unwrap();
        write!(stream, "GET /probe/tcp/{port} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn a_probe_is_answered_as_the_application_would() {
        let (listening, port) = listener();
        let (proxy, admin) = proxy(vec![port]);
        assert_eq!(probed(admin, port), (200, "accepted\n".to_owned()));
        drop(listening);
        assert_eq!(probed(admin, port), (503, format!("nobody accepts connections at port {port}\n")));
        proxy.shutdown().unwrap();
    }

    #[test]
    fn ports_that_no_probe_of_the_pod_asks_about_are_not_dialled() {
        let ((listening, port), (_probed, other)) = (listener(), listener());
        listening.set_nonblocking(true).unwrap();
        for ports in [vec![other], vec![]] {
            let (proxy, admin) = proxy(ports);
            let (status, why) = probed(admin, port);
            assert_eq!(status, 404);
            assert!(why.starts_with(&format!("no probe of this pod asks about port {port}")), "{why}");
            proxy.shutdown().unwrap();
        }
        assert!(listening.accept().is_err(), "nobody has connected");
    }
}
