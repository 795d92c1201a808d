//! The command line of the sidecar. The image has no shell, so hooks and probes are subcommands too.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use firebreak_crds::{
    pod::{self, Ports, Probes},
    spec::defaults::{CALLER_IDLE, REQUEST_HEAD_TIME, TRACE_PERCENT},
};
use http::Uri;
use serde::de::DeserializeOwned;

use crate::redirect::{InitArgs, ValidateArgs};

/// Port for connections on their way out of the pod.
pub const OUTBOUND: u16 = 15001;
/// Port for connections on their way into the pod.
pub const INBOUND: u16 = 15006;
/// Port of metrics, readiness and probes.
pub const ADMIN: u16 = 15020;

/// Firebreak's proxy, which runs beside every pod.
#[derive(Debug, Parser)]
#[command(name = "firebreak-proxy", version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve traffic until the pod ends.
    Run(Box<RunArgs>),
    /// Redirect the pod's connections to the proxy (init container; needs NET_ADMIN).
    Init(InitArgs),
    /// Check that the redirect is in place.
    Validate(ValidateArgs),
    /// Ask the running proxy to send callers elsewhere (preStop hook).
    Drain,
    /// Succeed when the running proxy serves traffic (probe).
    Ready,
}

/// How to serve. In a pod all of it comes from the environment that the injector sets.
#[derive(Debug, Parser)]
pub struct RunArgs {
    /// Folder of the config: the ConfigMap's volume.
    #[arg(long, env = "FIREBREAK_CONFIG_DIR", default_value = "/etc/firebreak/config")]
    pub config_dir: PathBuf,
    /// File with the pod's labels, as the downward API writes them.
    #[arg(long, env = "FIREBREAK_LABELS_FILE", default_value = "/etc/firebreak/pod/labels")]
    pub labels_file: PathBuf,
    /// The pod's name.
    #[arg(long, env = "FIREBREAK_POD", default_value = "firebreak")]
    pub pod: String,
    /// The pod's namespace.
    #[arg(long, env = "FIREBREAK_NAMESPACE")]
    pub namespace: Option<String>,
    /// The pod's addresses.
    #[arg(long, env = "FIREBREAK_POD_IPS", value_delimiter = ',')]
    pub pod_ips: Vec<IpAddr>,
    /// Ports that `/probe/tcp/PORT` answers for: those that the pod's own probes ask about. It answers for no others.
    #[arg(long, env = "FIREBREAK_PROBE_PORTS", value_delimiter = ',')]
    pub probe_ports: Vec<u16>,
    /// How the kubelet's probes look that come as requests, as JSON: `[{"port": 8080, "path": "/healthz"}]`. The inbound side lets them
    /// around limits and faults, and nobody else.
    #[arg(long, env = pod::PROBES, value_parser = json::<Probes>, default_value = "[]")]
    pub probes: Probes,
    /// The pod's ports by their names, as JSON: `{"http": 8080}`. Where they are not said, the config's guess counts.
    #[arg(long, env = pod::PORTS, value_parser = json::<Ports>)]
    pub ports: Option<Ports>,
    /// Threads that serve traffic.
    #[arg(long, env = "FIREBREAK_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// Bytes of memory that the container may use: how many connections are served at once follows from it.
    #[arg(long, env = "FIREBREAK_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
    /// Most connections that callers may have open at once, whatever the memory limit says.
    #[arg(long, env = "FIREBREAK_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Seconds that the rest of a request's head may take from its first byte; then the caller gets 408.
    #[arg(long, env = "FIREBREAK_HEAD_TIMEOUT_SECONDS", default_value_t = REQUEST_HEAD_TIME.as_secs(), value_parser = seconds())]
    pub head_timeout_seconds: u64,
    /// Seconds after which a caller's HTTP connection is closed that carries no request.
    #[arg(long, env = "FIREBREAK_IDLE_TIMEOUT_SECONDS", default_value_t = CALLER_IDLE.as_secs(), value_parser = seconds())]
    pub idle_timeout_seconds: u64,
    /// Seconds that requests may take to end after SIGTERM.
    #[arg(long, env = "FIREBREAK_GRACE_SECONDS", default_value_t = 10)]
    pub grace_seconds: u64,
    /// Collector that spans are sent to by OTLP over HTTP, such as `http://collector.observability:4318`. Without it nothing is traced.
    #[arg(long, env = "FIREBREAK_OTLP_ENDPOINT", value_parser = endpoint)]
    pub otlp_endpoint: Option<Uri>,
    /// Of a hundred requests that come without a trace, so many begin one. Where there is one, whoever began it has decided.
    #[arg(long, env = "FIREBREAK_TRACE_PERCENT", default_value_t = TRACE_PERCENT, value_parser = percent)]
    pub trace_percent: f32,
    /// What is logged: a level, or directives such as `info,firebreak_proxy::config=debug`.
    #[arg(long, env = "FIREBREAK_LOG", default_value = "info")]
    pub log: String,
}

/// A collector's address. The proxy has no certificates to check a collector's by, so only plain HTTP is understood.
pub fn endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err("must be http://HOST:PORT, such as http://collector.observability:4318".to_owned());
    }
    Ok(uri)
}

/// From a second to a year.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=365 * 24 * 60 * 60)
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("must be JSON as the injector writes it: {error}"))
}

fn percent(text: &str) -> Result<f32, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "must be a number from 0 to 100".to_owned())
}
