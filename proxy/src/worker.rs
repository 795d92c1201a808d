//! A worker: one thread, one current-thread runtime, its own listeners and its own connections.
//!
//! A connection lives and dies on the worker that accepted it, so most state needs neither locks nor atomics. Two
//! single-threaded workers also do 16 % more than one runtime with two threads that steal from each other.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Cache};
use firebreak_crds::pod::Probe;
use hashbrown::HashMap;
use tokio::{
    net::TcpListener,
    runtime::LocalOptions,
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_local},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    clock,
    http::{deadline::LastTold, lineage::Lineage, replay::Replay},
    net::{
        accept::{self, Kind},
        connections::{Connections, Waits},
    },
    snapshot::{Callee, Snapshot},
    telemetry::{access_log::Log, metrics::Direction, trace::Sampling},
    upstream::pool::Pool,
};

/// How often old idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Pause after an accept that failed for want of descriptors or memory: there is no event to wait for.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Where the proxy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything is served.
    Serving,
    /// The pod is going away: callers are asked to go elsewhere; calls of the pod itself go on.
    Draining,
    /// The application has ended: finish what is under way.
    Stopping,
}

/// What a worker is told by the control thread.
#[derive(Debug)]
pub enum Command {
    /// Accept connections here.
    Listen(std::net::TcpListener, Kind),
    /// Stop accepting connections at this address, then say so.
    Unlisten(SocketAddr, std::sync::mpsc::Sender<()>),
    /// Another worker needs a socket for this callee.
    GiveUpIdle(u32),
    /// Close everything and end.
    Stop,
}

/// What all workers have in common.
#[derive(Debug)]
pub struct Common {
    /// This proxy's name in `Proxy-Status`: the pod's.
    pub name: Box<str>,
    /// What is in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where failed requests are reported.
    pub log: Log,
    /// Which requests are traced; none where spans go nowhere.
    pub sampling: Option<Sampling>,
    /// Where the proxy is in its life.
    pub phase: watch::Receiver<Phase>,
    /// How the kubelet asks how the pod is.
    pub probes: Box<[Probe]>,
    /// Which requests of callers are under way.
    pub lineage: Arc<Lineage>,
    /// Open connections from callers, of all workers.
    pub connections: Connections,
    /// How long callers may keep them waiting.
    pub waits: Waits,
    /// What is kept of requests' bodies for another try.
    pub replay: Replay,
    /// How to reach each worker.
    pub workers: Box<[mpsc::UnboundedSender<Command>]>,
}

/// A worker's own state.
#[derive(Debug)]
pub struct Worker {
    /// Number, from 0: which metric shard is ours.
    pub id: usize,
    /// What all workers share.
    pub common: Arc<Common>,
    /// Open connections to callees.
    pub pool: Pool,
    /// What callees were told last of the time that is left.
    pub last_told: LastTold,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
}

/// Runs what an HTTP/2 connection spawns on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(clock::steady(future));
    }
}

impl Worker {
    /// The callee of a connection to `destination`, as the config now has it.
    pub fn callee(&self, direction: Direction, destination: &SocketAddr) -> Arc<Callee> {
        let mut snapshot = self.snapshot.borrow_mut();
        let snapshot = snapshot.load();
        Arc::clone(match direction {
            Direction::Outbound => snapshot.callee(destination),
            Direction::Inbound => snapshot.application(destination),
        })
    }

    /// Lets go of a config that is not in force any more. A worker that has nothing to do would hold it for ever.
    fn look_at_config(&self) {
        self.snapshot.borrow_mut().load();
    }

    /// Whether everything is to be forwarded without looking at it.
    pub fn transparent(&self) -> bool {
        self.snapshot.borrow_mut().load().transparent
    }

    /// Closes an idle connection to a callee, or asks the other workers to.
    pub fn give_up_idle(&self, callee: u32) {
        if self.pool.close_idle(callee) {
            return;
        }
        let others = self.common.workers.iter().enumerate().filter(|(id, _)| *id != self.id);
        for (_, worker) in others {
            // A worker that is gone has closed everything it had.
            let _ = worker.send(Command::GiveUpIdle(callee));
        }
    }

    /// Resolves when connections of this direction should end.
    pub async fn drained(&self, direction: Direction) {
        let ends = match direction {
            Direction::Inbound => Phase::Draining,
            Direction::Outbound => Phase::Stopping,
        };
        let mut phase = self.common.phase.clone();
        // The sender lives as long as the proxy; without it nothing is served either.
        let _ = phase.wait_for(|phase| *phase >= ends).await;
    }
}

/// Runs a worker until its commands end.
///
/// # Errors
/// When the runtime cannot be built.
pub fn run(id: usize, common: Arc<Common>, commands: mpsc::UnboundedReceiver<Command>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let snapshot = RefCell::new(Cache::new(Arc::clone(&common.snapshot)));
    let worker = Rc::new(Worker { id, common, pool: Pool::default(), last_told: LastTold::default(), snapshot });
    runtime.block_on(serve(worker, commands));
    Ok(())
}

async fn serve(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut listeners: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None | Some(Command::Stop) => return,
                Some(Command::GiveUpIdle(callee)) => drop(worker.pool.close_idle(callee)),
                Some(Command::Unlisten(address, closed)) => {
                    if let Some(task) = listeners.remove(&address) {
                        task.abort();
                        // The listener is closed when the task has ended, which it does by being aborted.
                        let _ = task.await;
                    }
                    drop(closed);
                }
                Some(Command::Listen(listener, kind)) => match start(&worker, listener, kind) {
                    Ok((address, task)) => drop(listeners.insert(address, task)),
                    Err(error) => tracing::error!(%error, "a listener could not be started"),
                },
            },
            _ = sweep.tick() => {
                worker.pool.sweep(Instant::now());
                worker.look_at_config();
            }
            () = poll_fn(|cx| worker.pool.poll_watch(cx)) => {}
        }
    }
}

fn start(worker: &Rc<Worker>, listener: std::net::TcpListener, kind: Kind) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    Ok((address, spawn_local(accept_all(Rc::clone(worker), listener, kind))))
}

async fn accept_all(worker: Rc<Worker>, listener: TcpListener, kind: Kind) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let counted = worker.common.connections.count();
                let worker = Rc::clone(&worker);
                spawn_local(clock::steady(async move {
                    accept::serve(&worker, stream, peer, kind, &counted).await;
                    drop(counted);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
