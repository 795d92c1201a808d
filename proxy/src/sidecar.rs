//! The proxy in a pod: settings from the environment, config from projected files, and an orderly end.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use firebreak_crds::spec::Labels;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Identity, Proxy, Settings,
    args::{ADMIN, INBOUND, OUTBOUND, RunArgs},
    boot::Tracing,
    config::file::Files,
    http::replay,
    net::{
        accept::Kind,
        connections::{self, Waits, limit_for},
    },
    telemetry::{access_log::Taker, output::Output, trace::Sampling},
};

/// How long a hook may take to reach the proxy beside it.
const HOOK: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then lets requests under way end. Records of requests that failed are lines of `log`.
///
/// # Errors
/// When the proxy cannot start or stop in order.
pub fn run(args: RunArgs, log: Output) -> anyhow::Result<()> {
    let files = Files { config: args.config_dir.clone(), labels: args.labels_file.clone() };
    let proxy = Proxy::start(settings(args, files.read_labels(), log))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving; everything is forwarded until a config is there");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let publisher = proxy.publisher();
    let publish = |document: &[u8]| {
        let (report, listeners) = proxy.publish(document);
        for listener in listeners.iter().filter(|listener| listener.error.is_some()) {
            tracing::error!(?listener, "a listener of the config could not be opened");
        }
        report
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            () = files.follow(&publisher, publish) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    })?;
    tracing::info!("stopping");
    proxy.shutdown().context("while stopping")
}

/// What the command line and the pod say of how the proxy is to run.
fn settings(args: RunArgs, labels: Labels, log: Output) -> Settings {
    let replay_bytes = replay::limit_for(args.memory_limit);
    Settings {
        workers: args.workers.into(),
        identity: Identity {
            name: args.namespace.map_or(args.pod.clone(), |ns| format!("{}.{ns}", args.pod)),
            labels,
            addresses: args.pod_ips,
            ports: args.ports,
        },
        admin: everywhere(ADMIN),
        probe_ports: args.probe_ports,
        probes: args.probes.0,
        redirected: [(OUTBOUND, Kind::Outbound), (INBOUND, Kind::Inbound)]
            .into_iter()
            .flat_map(|(port, kind)| everywhere(port).into_iter().map(move |address| (address, kind)))
            .collect(),
        max_connections: args
            .max_connections
            .or_else(|| args.memory_limit.map(|memory| limit_for(memory, replay_bytes)))
            .unwrap_or(connections::DEFAULT_LIMIT),
        replay_bytes,
        waits: Waits {
            head: Duration::from_secs(args.head_timeout_seconds),
            idle: Duration::from_secs(args.idle_timeout_seconds),
        },
        grace: Duration::from_secs(args.grace_seconds),
        records: Some(Taker::Output(log)),
        tracing: args
            .otlp_endpoint
            .map(|endpoint| Tracing { endpoint, sampling: Sampling { share: f64::from(args.trace_percent) / 100.0 } }),
    }
}

/// The port at all addresses of both families; IPv6 only where the kernel has it.
fn everywhere(port: u16) -> Vec<SocketAddr> {
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let v6 = has_v6.then(|| (Ipv6Addr::UNSPECIFIED, port).into());
    std::iter::once((Ipv4Addr::UNSPECIFIED, port).into()).chain(v6).collect()
}

/// Sends one request to the admin port of the proxy in this pod; succeeds if it is answered with 200.
///
/// # Errors
/// When it is not.
pub fn ask(method: &str, path: &str) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN));
    let mut stream =
        TcpStream::connect_timeout(&address, HOOK).context("the proxy does not answer on its admin port")?;
    stream.set_read_timeout(Some(HOOK))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    bail!("{method} {path}: {}", answer.lines().next().unwrap_or("no answer"))
}
