//! One writer among the replicas, by a Lease.
//!
//! Every replica watches and renders; only the holder writes. The rules are client-go's, and for its reasons:
//!
//! * a follower measures the holder's silence by its own clock, from when it saw the last change, so that clocks may differ;
//! * the holder gives up before others may take over: it stops [`RENEW_WITHIN`] after its last renewal was *sent*, they wait
//!   [`DURATION`] after they *saw* it. It stops then also while the next renewal is under way; if that succeeds after all, it
//!   holds the lease again, but only from when that one was sent;
//! * it changes the Lease only from the version it last saw, so of two takers one fails.
//!
//! A Lease is no fence: a process that was frozen may wake with a write in flight. So writes of which an old one could do
//! harm (the start of a fault) carry the version they are based on, and the others end in the same bytes whoever writes them.
//!
//! At the end the holder empties the Lease, and the next replica, which watches it, takes over at once.

mod step;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::step::{Claim, Seen, Step};
use crate::metrics::Metrics;

/// How long a silent holder is believed.
pub(crate) const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long after its last renewal the holder stops by itself.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How long one request may take, so that there is time for another before the holder must stop.
const REQUEST: Duration = Duration::from_secs(4);
/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Who is allowed to write.
#[derive(Clone, Debug)]
pub(crate) struct Held(watch::Receiver<bool>);

impl Held {
    /// Held whenever `told` says so.
    #[cfg(test)]
    pub(crate) fn told(told: watch::Receiver<bool>) -> Self {
        Self(told)
    }

    /// Whether this replica may write now.
    pub(crate) fn now(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until this replica may not write.
    pub(crate) async fn lost(&mut self) {
        // Who can no longer be told has lost it too.
        let _ = self.0.wait_for(|held| !held).await;
    }

    /// Waits for a change. Never returns when no change can come any more.
    pub(crate) async fn changed(&mut self) -> bool {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }
}

/// Takes and keeps the Lease.
pub(crate) struct Keeper {
    api: Api<Lease>,
    name: &'static str,
    identity: Arc<str>,
    seen: Seen,
    held: watch::Sender<bool>,
    metrics: Metrics,
}

impl Keeper {
    /// A keeper of the Lease `name`, and what tells whether it is held.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        name: &'static str,
        identity: &str,
        metrics: Metrics,
    ) -> (Self, Held) {
        let (held, receiver) = watch::channel(false);
        let api = Api::namespaced(client, namespace);
        let keeper = Self { api, name, identity: identity.into(), seen: Seen::default(), held, metrics };
        (keeper, Held(receiver))
    }

    /// Runs until `stop` is cancelled; then gives the Lease back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut news = watch_object(self.api.clone(), self.name).default_backoff().boxed();
        loop {
            let step = self.seen.step(&self.identity, Instant::now());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(lease) = news.next() => match lease {
                    Ok(lease) => self.seen.watched(lease, &self.identity, Instant::now()),
                    Err(error) => warn!(%error, "cannot watch the lease"),
                },
                () = sleep_until(step.at()) => self.act(step).await,
            }
            self.tell();
        }
        self.release().await;
    }

    async fn act(&mut self, step: Step) {
        let Step::Claim { claim, .. } = step else { return };
        let (sent, mut lease) = (Instant::now(), self.seen.claim(claim, &self.identity));
        lease.metadata.name = Some(self.name.to_owned());
        let request = async {
            match claim {
                Claim::Create => self.api.create(&PostParams::default(), &lease).await,
                Claim::Take | Claim::Renew => self.api.replace(self.name, &PostParams::default(), &lease).await,
            }
        };
        match self.on_time(timeout(REQUEST, request)).await {
            Ok(Ok(lease)) => self.seen.claimed(lease, sent),
            Ok(Err(kube::Error::Api(refused))) if refused.code == 409 => self.seen.failed(sent),
            Ok(Err(error)) => {
                warn!(%error, ?claim, "cannot write the lease");
                self.seen.failed(sent);
            }
            Err(_) => {
                warn!(?claim, "no answer to the lease");
                self.seen.failed(sent);
            }
        }
    }

    /// The answer to `request`; until it comes, the end of our own time is told when it is reached.
    async fn on_time<T>(&self, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        if let Some(end) = self.seen.end() {
            tokio::select! {
                answer = &mut request => return answer,
                () = sleep_until(end) => self.tell(),
            }
        }
        request.await
    }

    fn tell(&self) {
        let now_held = self.seen.held(Instant::now());
        if self.held.send_if_modified(|held| std::mem::replace(held, now_held) != now_held) {
            info!(held = now_held, identity = %self.identity, "lease");
            self.metrics.lease_held.set(i64::from(now_held));
        }
    }

    async fn release(&mut self) {
        let held = self.seen.held(Instant::now());
        self.held.send_replace(false);
        if !held {
            return;
        }
        let (params, lease) = (PostParams::default(), self.seen.released());
        match timeout(REQUEST, self.api.replace(self.name, &params, &lease)).await {
            Ok(Ok(_)) => info!("lease given back"),
            Ok(Err(error)) => warn!(%error, "the lease could not be given back; it ends by itself"),
            Err(_) => warn!("the lease could not be given back in time; it ends by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
