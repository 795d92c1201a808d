//! The admin port. What says something about the pod to its neighbours (`/metrics`, `/ready`, probes) is served to anybody
//! who can reach the pod; what shows the config or changes the proxy's life is served on loopback only.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{json, value::RawValue};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{
    config::publish::Publisher,
    telemetry::{exposition, metrics::Registry},
    worker::Phase,
};

/// How long an application may take to accept a probe's connection; the kubelet has its own, shorter or longer, patience.
const PROBE: Duration = Duration::from_secs(10);

/// What the handlers need.
#[derive(Clone, Debug)]
pub struct Admin {
    publisher: Arc<Publisher>,
    registry: Arc<Registry>,
    phase: watch::Sender<Phase>,
    addresses: Arc<[IpAddr]>,
}

impl Admin {
    /// `addresses` are the pod's, where its application listens.
    pub fn new(
        publisher: &Arc<Publisher>,
        registry: &Arc<Registry>,
        phase: watch::Sender<Phase>,
        addresses: Vec<IpAddr>,
    ) -> Self {
        Self {
            publisher: Arc::clone(publisher),
            registry: Arc::clone(registry),
            phase,
            addresses: if addresses.is_empty() { [Ipv4Addr::LOCALHOST.into()].into() } else { addresses.into() },
        }
    }
}

/// Serves one listener until the runtime ends.
pub async fn serve(listener: TcpListener, state: Admin) {
    let private = Router::new()
        .route("/config", get(config))
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

async fn metrics(State(admin): State<Admin>) -> Response {
    match exposition::text(&admin.registry) {
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

async fn drain(State(admin): State<Admin>) -> &'static str {
    admin.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Draining)) < Phase::Draining);
    "draining\n"
}
