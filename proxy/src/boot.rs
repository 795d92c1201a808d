//! Starting and stopping: one control thread, any number of workers.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use firebreak_crds::{
    pod::{Ports, Probe},
    spec::Labels,
    wire,
};
use http::Uri;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    admin::{self, Admin},
    config::{
        endpoints::FromConfig,
        publish::{Publisher, Report},
    },
    http::replay::{self, Replay},
    net::{
        accept::Kind,
        connections::{self, Connections, Waits},
        listen,
    },
    telemetry::{
        access_log::{self, Taker},
        metrics::Registry,
        otlp::{self, Exporter, Queue, Spans},
        trace::Sampling,
    },
    upstream::checker::{self, Checked},
    verdict::recorder::{self, Recorder},
    worker::{self, Command, Common, Phase},
};

/// How long the last records and spans may take to be told, all together.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the proxy is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that serve traffic.
    pub workers: usize,
    /// Who it is.
    pub identity: Identity,
    /// Where the admin port listens; port 0 picks one.
    pub admin: Vec<SocketAddr>,
    /// Ports of the pod that the admin port answers for when it is probed. None: it dials nothing.
    pub probe_ports: Vec<u16>,
    /// How the kubelet's probes of the pod look that come as requests: what is enforced beside the application is not for them.
    pub probes: Vec<Probe>,
    /// Where redirected connections arrive, and which way they were going.
    pub redirected: Vec<(SocketAddr, Kind)>,
    /// Most connections that callers may have open at once; one more is reset.
    pub max_connections: usize,
    /// Most bytes of requests' bodies that are kept for another try.
    pub replay_bytes: usize,
    /// How long callers may keep their connections waiting.
    pub waits: Waits,
    /// How long requests under way may take to end when the proxy stops.
    pub grace: Duration,
    /// Who takes the records of requests that failed. Nobody: only the flight recorder has them.
    pub records: Option<Taker>,
    /// Where spans go, and of which requests. Nowhere: nothing is traced.
    pub tracing: Option<Tracing>,
}

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// An OTLP/HTTP collector: `http://HOST:PORT`, and a path unless it is `/v1/traces`.
    pub endpoint: Uri,
    /// Of requests that come without a trace, so many begin one.
    pub sampling: Sampling,
}

/// One worker without a listener or a name.
impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            identity: Identity::default(),
            admin: Vec::new(),
            probe_ports: Vec::new(),
            probes: Vec::new(),
            redirected: Vec::new(),
            max_connections: connections::DEFAULT_LIMIT,
            replay_bytes: replay::limit_for(None),
            waits: Waits::default(),
            grace: Duration::from_secs(10),
            records: None,
            tracing: None,
        }
    }
}

/// Who a proxy is: what `from` selects by, and what it calls itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Its name in `Proxy-Status`: the pod's, with its namespace.
    pub name: String,
    /// The pod's labels.
    pub labels: Labels,
    /// The pod's addresses, at which its application listens.
    pub addresses: Vec<IpAddr>,
    /// The pod's ports by their names, where they are known.
    pub ports: Option<Ports>,
}

/// A listener of local mode, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// Where it listens.
    pub address: SocketAddr,
    /// The endpoint that it stands beside; none where it is for callers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<SocketAddr>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A proxy that runs until it is told to stop.
#[derive(Debug)]
pub struct Proxy {
    publisher: Arc<Publisher>,
    registry: Arc<Registry>,
    admin: Vec<SocketAddr>,
    common: Arc<Common>,
    phase: watch::Sender<Phase>,
    stop: mpsc::Sender<()>,
    grace: Duration,
    local: Mutex<HashMap<SocketAddr, Kind>>,
    control: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Why the proxy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address is taken or not allowed.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's answer.
        error: io::Error,
    },
    /// A thread or runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

impl Proxy {
    /// Starts a proxy that forwards until a config is published. It serves when this returns.
    ///
    /// # Errors
    /// When a listener or a thread cannot be had.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let count = settings.workers.max(1);
        let connections = Connections::new(settings.max_connections);
        let replay = Replay::new(settings.replay_bytes);
        let dropped = settings.records.as_ref().map(Taker::dropped).unwrap_or_default();
        let registry = Registry::beside(count, connections.clone(), replay.clone(), dropped);
        let sampling = settings.tracing.as_ref().map(|tracing| tracing.sampling);
        let (spans, exporter) = exporter(settings.tracing, &settings.identity, &registry).unzip();
        let publisher = Publisher::new(&registry, settings.identity.labels, Box::new(FromConfig));
        let publisher = Arc::new(publisher.knowing(settings.identity.ports));
        let (phase, phases) = watch::channel(Phase::Serving);
        let recorder = Recorder::new(recorder::LIMIT, Arc::clone(&registry.recorder), &settings.identity.name);
        let (log, records) = access_log::new(Arc::clone(&registry), recorder.clone(), settings.records, spans);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let common = Arc::new(Common {
            lineage: Arc::default(),
            probes: settings.probes.into(),
            name: settings.identity.name.into(),
            snapshot: publisher.current(),
            log,
            sampling,
            phase: phases,
            connections,
            waits: settings.waits,
            replay,
            workers: senders.into(),
        });
        let listeners = bind_admin(&settings.admin)?;
        let admin = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let (stop, stopped) = mpsc::channel(1);
        let state = Admin::new(&publisher, &registry, recorder, phase.clone(), settings.identity.addresses);
        let state = state.answering_for(settings.probe_ports);
        let checked = publisher.checked();
        let tidied = Arc::clone(&publisher);
        let control = move || control(listeners, &state, (records, exporter), (checked, tidied), stopped);
        let control = thread::Builder::new().name("control".into()).spawn(control)?;
        let workers = receivers.into_iter().enumerate().map(|(id, commands)| work(id, &common, commands));
        let workers = workers.collect::<io::Result<_>>()?;
        let local = Mutex::default();
        let grace = settings.grace;
        let proxy = Self { publisher, registry, admin, common, phase, stop, grace, local, control, workers };
        for (address, kind) in settings.redirected {
            proxy.listen(address, kind).map_err(|error| StartError::Listen { address, error })?;
        }
        Ok(proxy)
    }

    /// Where the admin port listens.
    pub fn admin(&self) -> &[SocketAddr] {
        &self.admin
    }

    /// Puts configs in force.
    pub fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(&self.publisher)
    }

    /// What is counted.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// Puts a document in force and opens the listeners of local mode that it names. Listeners that it no longer names are
    /// closed; connections that they accepted live on.
    pub fn publish(&self, document: &[u8]) -> (Report, Vec<Listener>) {
        // Tries go to those beside endpoints as soon as the config is in force.
        let report = self.publisher.publish_after(document, |config| {
            let mut local = self.local.lock();
            let beside = local_listeners(config).into_values().filter(|listener| listener.beside.is_some());
            beside.for_each(|listener| drop(self.listen_at(listener, &mut local)));
        });
        (report, self.listen_locally(self.publisher.with_config(local_listeners)))
    }

    fn listen_locally(&self, wanted: HashMap<SocketAddr, Listener>) -> Vec<Listener> {
        let mut local = self.local.lock();
        let (closed, all_closed) = std::sync::mpsc::channel();
        for gone in local.extract_if(|address, kind| wanted.get(address).map(Listener::kind) != Some(*kind)) {
            self.tell(|| Command::Unlisten(gone.0, closed.clone()));
        }
        drop(closed);
        // Nothing is sent: the channel ends when every worker has let go, and only then the address can be had again.
        let _ = all_closed.recv();
        let mut listeners: Vec<_> = wanted.into_values().map(|listener| self.listen_at(listener, &mut local)).collect();
        listeners.sort_by(|a, b| (&a.service, a.port, a.address).cmp(&(&b.service, b.port, b.address)));
        listeners
    }

    /// Opens it, unless it is open.
    fn listen_at(&self, listener: Listener, open: &mut HashMap<SocketAddr, Kind>) -> Listener {
        let (address, kind) = (listener.address, listener.kind());
        let error = if open.contains_key(&address) { None } else { self.listen(address, kind).err() };
        if error.is_none() {
            open.entry(address).or_insert(kind);
        }
        Listener { error: error.map(|error| error.to_string()), ..listener }
    }

    /// Asks callers to go elsewhere; what they have under way, and what the pod itself calls, goes on.
    pub fn drain(&self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Draining)) < Phase::Draining);
    }

    /// Stops: requests under way may end within the grace period, then everything is closed.
    ///
    /// # Errors
    /// When the runtime to wait in cannot be built.
    pub fn shutdown(self) -> io::Result<()> {
        self.phase.send_replace(Phase::Stopping);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let ended = runtime.block_on(async { timeout(self.grace, self.common.connections.none()).await });
        if ended.is_err() {
            tracing::warn!(
                open = self.common.connections.open(),
                "connections were cut at the end of the grace period"
            );
        }
        self.tell(|| Command::Stop);
        drop(self.common);
        // The control thread ends last: it writes what the workers have put into the log at their end.
        for thread in self.workers {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
        drop(self.stop);
        let _ = self.control.join();
        Ok(())
    }

    fn listen(&self, address: SocketAddr, kind: Kind) -> io::Result<()> {
        let sockets = listen::bind_all(address, self.common.workers.len())?;
        for (worker, socket) in self.common.workers.iter().zip(sockets) {
            // A worker that is gone was told to stop.
            let _ = worker.send(Command::Listen(socket, kind));
        }
        Ok(())
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.common.workers {
            let _ = worker.send(command());
        }
    }
}

impl Listener {
    fn new(service: &str, port: u16, address: SocketAddr, beside: Option<SocketAddr>) -> Self {
        Self { service: service.to_owned(), port, address, beside, error: None }
    }

    fn kind(&self) -> Kind {
        self.beside.map_or(Kind::Local, Kind::Beside)
    }
}

/// The listeners of local mode that a config names, by their addresses: for callers, and beside endpoints.
fn local_listeners(config: &wire::Config) -> HashMap<SocketAddr, Listener> {
    let mut listeners = HashMap::new();
    let mut add = |listener: Listener| drop(listeners.insert(listener.address, listener));
    for entry in &config.entries {
        match &entry.body {
            wire::Body::Service(service) => service.ports.iter().for_each(|port| {
                port.listen.iter().for_each(|at| add(Listener::new(&entry.name, port.port, *at, None)));
            }),
            wire::Body::Inbound(inbound) => inbound.ports.iter().for_each(|port| {
                let beside = port.endpoints.iter().filter_map(|it| Some((it.beside?, it.address)));
                beside.for_each(|(at, endpoint)| add(Listener::new(&entry.name, port.port, at, Some(endpoint))));
            }),
            wire::Body::Policy(_) | wire::Body::Fault(_) => {}
        }
    }
    listeners
}

/// A worker's thread.
fn work(id: usize, common: &Arc<Common>, commands: mpsc::UnboundedReceiver<Command>) -> io::Result<JoinHandle<()>> {
    let common = Arc::clone(common);
    let run = move || {
        if let Err(error) = worker::run(id, common, commands) {
            tracing::error!(%error, "a worker could not be started");
        }
    };
    thread::Builder::new().name(format!("worker-{id}")).spawn(run)
}

fn bind_admin(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let bind = |address: &SocketAddr| {
        listen::bind_alone(*address).map_err(|error| StartError::Listen { address: *address, error })
    };
    addresses.iter().map(bind).collect()
}

/// What sends spans, and where they come from.
type Exporting = (Exporter, Queue);

fn exporter(tracing: Option<Tracing>, identity: &Identity, registry: &Arc<Registry>) -> Option<(Spans, Exporting)> {
    let (spans, queue) = otlp::queue();
    let label = ["app.kubernetes.io/name", "app"].into_iter().find_map(|label| identity.labels.get(label));
    let (service, name) = (label.unwrap_or(&identity.name).clone(), identity.name.clone());
    let endpoint = tracing?.endpoint;
    Some((spans, (Exporter { endpoint, service, name, registry: Arc::clone(registry) }, queue)))
}

/// The control thread: admin port, log, flight recorder, health checks, and what tidies up. Ends when the proxy is stopped.
fn control(
    listeners: Vec<TcpListener>,
    state: &Admin,
    (records, exporter): (access_log::Records, Option<Exporting>),
    (checked, publisher): (watch::Receiver<Arc<[Checked]>>, Arc<Publisher>),
    mut stopped: mpsc::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let run = async {
        let log = tokio::spawn(records.tell());
        let spans = exporter.map(|(exporter, queue)| tokio::spawn(exporter.run(queue)));
        tokio::spawn(checker::run(checked));
        tokio::spawn(async move { publisher.keep_tidy().await });
        for listener in listeners {
            tokio::spawn(admin::serve(listener, state.clone()));
        }
        // Nothing is sent: the channel closes when the proxy is dropped. The workers have gone by then, and with them
        // the log's other end.
        stopped.recv().await;
        let told = timeout(LAST_WORDS, async {
            let _ = log.await;
            if let Some(spans) = spans {
                let _ = spans.await;
            }
        });
        if told.await.is_err() {
            tracing::warn!("the last records or spans could not be told in time");
        }
    };
    match runtime {
        Ok(runtime) => {
            runtime.block_on(run);
            // A look-up of the collector's name may still be under way, and nobody waits for it.
            runtime.shutdown_background();
        }
        Err(error) => tracing::error!(%error, "the control thread could not be started"),
    }
}
