//! The operator put together: tasks, and the order in which they begin and end.

use std::{io, num::NonZeroU32, sync::Arc};

use firebreak_runtime::{admin, shutdown};
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::{
    args::{Args, CertMode},
    certs,
    control::{Control, State},
    events::Teller,
    index::Key,
    lease,
    metrics::Metrics,
    poke::Poker,
    reach,
    watch::Watches,
};

/// Name of the Lease.
const LEASE: &str = "firebreak-operator";
/// News that may wait for the control task; then the watches wait.
const NEWS: usize = 1_024;

/// The operator could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cluster is configured, or its configuration cannot be used.
    #[error("cannot find the cluster: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration makes no client.
    #[error("cannot connect to the cluster: {0}")]
    Client(#[from] kube::Error),
    /// The admin port or the signals are not to be had.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
}

/// Runs until the process is asked to end.
pub async fn run(args: Args) -> Result<(), Error> {
    let stop = shutdown::token().map_err(|error| Error::Io { what: "cannot wait for signals".into(), error })?;
    let listener = TcpListener::bind(args.admin.address).await;
    let listener = listener.map_err(|error| Error::Io { what: format!("--admin {}", args.admin.address), error })?;
    let client = Client::try_from(kube::Config::infer().await?)?;
    let own_namespace: Arc<str> = args.namespace.as_str().into();
    let (metrics, registry) = Metrics::new();
    let tasks = TaskTracker::new();
    let (ready, is_ready) = watch::channel(false);
    tasks.spawn(admin::serve(listener, registry, is_ready, stop.clone()));
    let (known, is_known) = oneshot::channel();
    // Where somebody else keeps the certificate, there is nothing to be seen of it here.
    let (trust, trusts) = watch::channel(args.certs.mode != CertMode::Managed);
    tasks.spawn(reach::ready_once_reached(is_known, trusts, ready, stop.clone()));

    let (keeper, held) = lease::Keeper::new(client.clone(), &args.namespace, LEASE, &args.identity, metrics.clone());
    tasks.spawn(keeper.run(stop.clone()));
    if args.certs.mode == CertMode::Managed {
        let certs = certs::Keeper::new(&client, &args.namespace, &args.certs, held.clone(), trust, metrics.clone());
        tasks.spawn(certs.run(stop.clone()));
    }
    let (teller, telling) = Teller::new(client.clone(), &args.identity, metrics.clone(), stop.clone());
    tasks.spawn(telling);
    let pokes = NonZeroU32::new(args.pokes_per_second).map(|per_second| {
        let (poker, pokes) = Poker::new(client.clone(), per_second, held.clone(), metrics.clone());
        tasks.spawn(poker.run(stop.clone()));
        pokes
    });
    let (news, incoming) = mpsc::channel(NEWS);
    let watches = Watches {
        client: client.clone(),
        own_namespace: own_namespace.clone(),
        metrics: metrics.clone(),
        news,
        stop: stop.clone(),
    };
    watches.start(&tasks);
    drop(watches);
    let (known, injector) = (Some(known), Key::new(args.namespace.as_str(), args.certs.service.as_str()));
    let state = State::default();
    let control = Control { client, own_namespace, held, teller, pokes, known, injector, metrics, state };
    info!(identity = args.identity, namespace = args.namespace, version = env!("CARGO_PKG_VERSION"), "operator begins");
    control.run(incoming, stop.clone()).await;
    // The watches end with their channel; the lease is given back; whatever is left hears the token.
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    info!("operator ends");
    Ok(())
}
