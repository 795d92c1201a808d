//! The injector as a process: the webhook, the certificate's watch and the admin port side by side.

use std::sync::Arc;

use anyhow::{Context, Result};
use firebreak_runtime::{
    admin, shutdown,
    tls::{self, Certificates},
};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::info;

use crate::{args::InjectorArgs, certificate, metrics::Metrics, server};

/// Runs until the process is asked to end. Ready from the first certificate on.
pub async fn run(args: InjectorArgs) -> Result<()> {
    let stop = shutdown::token()?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let certificates = Certificates::new();
    let client = Client::try_default().await.context("no way to the API server")?;
    let webhook = TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    let address = args.admin.address;
    let admin_port = TcpListener::bind(address).await.with_context(|| format!("--admin {address}"))?;
    info!(webhook = %args.listen, admin = %address, namespace = args.namespace, "injector started");
    let router = server::router(args.config(), metrics.clone());
    let ((), (), admin) = tokio::join!(
        tls::serve(webhook, certificates.server_config()?, router, stop.clone()),
        certificate::follow(client, &args.namespace, &certificates, &metrics, stop.clone()),
        admin::serve(admin_port, Arc::new(registry), certificates.ready(), stop),
    );
    admin.context("the admin port failed")
}
