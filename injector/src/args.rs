//! What the chart tells the injector.

use std::net::SocketAddr;

use clap::{Args, Parser};
use firebreak_crds::{
    redirect::{Cidr, PortRange},
    spec::defaults::TRACE_PERCENT,
};
use firebreak_runtime::{admin::AdminArgs, log::LogArgs};

use crate::{
    annotations::{LogLevel, Resource, Settings, Workers},
    quantity::Quantity,
    review::Config,
    sidecar::{Proxy, Tracing},
};

/// Firebreak's admission webhook: adds the proxy to pods.
#[derive(Debug, Parser)]
#[command(version)]
pub struct InjectorArgs {
    /// Address of the webhook.
    #[arg(long, env = "FIREBREAK_LISTEN", default_value = "[::]:9443")]
    pub listen: SocketAddr,
    /// Namespace that Firebreak runs in: its pods are left alone, and the certificate's Secret is there.
    #[arg(long, env = "FIREBREAK_NAMESPACE")]
    pub namespace: String,
    #[command(flatten)]
    proxy: ProxyArgs,
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The proxy that pods get, as far as their annotations do not say otherwise.
#[derive(Debug, Args)]
struct ProxyArgs {
    /// Image of the proxy.
    #[arg(long, env = "FIREBREAK_PROXY_IMAGE")]
    proxy_image: String,
    /// When that image is pulled.
    #[arg(long, env = "FIREBREAK_PROXY_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    proxy_pull_policy: String,
    /// CPU that is set aside for a proxy.
    #[arg(long)]
    proxy_cpu_request: Option<Quantity>,
    /// CPU that a proxy may use.
    #[arg(long)]
    proxy_cpu_limit: Option<Quantity>,
    /// Memory that is set aside for a proxy.
    #[arg(long)]
    proxy_memory_request: Option<Quantity>,
    /// Memory that a proxy may use.
    #[arg(long)]
    proxy_memory_limit: Option<Quantity>,
    /// Level of the proxy's log.
    #[arg(long, default_value = "info")]
    proxy_log_level: LogLevel,
    /// Worker threads of the proxy.
    #[arg(long, default_value = "1")]
    proxy_workers: Workers,
    /// Collector that proxies send spans to (OTLP over HTTP), such as `http://collector.observability:4318`. Without it they trace
    /// nothing.
    #[arg(long, value_parser = endpoint)]
    proxy_otlp_endpoint: Option<String>,
    /// Of a hundred requests that come to a proxy without a trace, so many begin one.
    #[arg(long, default_value_t = TRACE_PERCENT, value_parser = percent)]
    proxy_trace_percent: f32,
    /// Ports, or ranges, whose incoming connections go straight to the application.
    #[arg(long, value_delimiter = ',')]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports, or ranges, whose outgoing connections go straight to their destination.
    #[arg(long, value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Networks whose outgoing connections go straight to their destination.
    #[arg(long, value_delimiter = ',')]
    skip_outbound_cidrs: Vec<Cidr>,
}

impl InjectorArgs {
    /// What the decisions need to know.
    pub fn config(&self) -> Config {
        let proxy = &self.proxy;
        Config {
            own_namespace: self.namespace.clone(),
            proxy: Proxy {
                image: proxy.proxy_image.clone(),
                pull_policy: proxy.proxy_pull_policy.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                defaults: proxy.settings(),
                tracing: proxy
                    .proxy_otlp_endpoint
                    .clone()
                    .map(|endpoint| Tracing { endpoint, percent: proxy.proxy_trace_percent }),
            },
        }
    }
}

impl ProxyArgs {
    fn settings(&self) -> Settings {
        Settings {
            cpu: Resource { request: self.proxy_cpu_request.clone(), limit: self.proxy_cpu_limit.clone() },
            memory: Resource { request: self.proxy_memory_request.clone(), limit: self.proxy_memory_limit.clone() },
            log_level: self.proxy_log_level.clone(),
            workers: self.proxy_workers,
            skip_inbound_ports: self.skip_inbound_ports.clone(),
            skip_outbound_ports: self.skip_outbound_ports.clone(),
            skip_outbound_cidrs: self.skip_outbound_cidrs.clone(),
        }
    }
}

/// As the proxy reads it, which would not start with anything else.
fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").and_then(|rest| rest.split(['/', ':']).next());
    if host.is_none_or(str::is_empty) || text.contains(char::is_whitespace) {
        return Err("must be http://HOST:PORT, such as http://collector.observability:4318".to_owned());
    }
    Ok(text.to_owned())
}

fn percent(text: &str) -> Result<f32, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "must be a number from 0 to 100".to_owned())
}
