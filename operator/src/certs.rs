//! The injector's certificate: made, renewed, and made known to the API server.
//!
//! The holder of the lease keeps an authority and a certificate for the injector's Service, and writes the authority into
//! the webhook's `caBundle`. Each has a Secret of its own: the authority's key can sign for the injector's name, so nobody
//! but the operator may read it; the injector reads its certificate and that one's key, and nothing else is in its Secret.
//! What to do is decided by a pure plan (`plan`) from the Secrets and the time; this module carries it out.
//!
//! The order is what makes a renewal unnoticed. The authority is put away first, since what an authority signed whose key is
//! lost could never be renewed quietly. Then the API server learns it beside whoever signed the certificate that is shown
//! now. The certificate changes last, and a few seconds later, since each API server learns by a watch of its own. So
//! whichever one the injector shows is trusted, also if this process ends in between. The old authority stays in the bundle
//! for one life of a certificate.
//!
//! Where there is no authority, as after an upgrade from a version that kept its key in the injector's Secret, a new one is
//! made and trusted beside the one that the API server knows: a key that others could read signs nothing any more. The
//! Secret of the certificate is written whole, and so loses that key.
//!
//! The chart leaves `caBundle` out, so that this field has one owner only, by server-side apply.

mod issue;
mod plan;

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use self::plan::{Action, Lives};
use self::{
    issue::{Authority, Kept, Leaf, Material},
    plan::plan,
};
use crate::{FIELD_MANAGER, args::CertArgs, lease::Held, metrics, metrics::Metrics, publish};

/// Something of the certificate could not be made or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The certificate could not be made.
    #[error("cannot make the certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The API server did not take it.
    #[error("cannot write {what}: {error}")]
    Write {
        /// Which object.
        what: String,
        /// Why.
        error: Box<publish::Error>,
    },
    /// Another replica may be writing by now.
    #[error("the lease was lost before {what} was written")]
    Lost {
        /// Which object.
        what: String,
    },
}

/// Longest pause between two looks: a wall clock that jumps must not put off a renewal for months.
const LONGEST: Duration = Duration::from_hours(1);
/// The pause after a failure, the shortest between two certificates, and what API servers have to learn an authority before
/// its certificate is shown. Whoever else writes the Secret, or a life of seconds, must not make us issue without end.
const RETRY: Duration = Duration::from_secs(5);

/// A Secret as it was last seen.
#[derive(Clone, Debug, Default)]
struct Seen<T> {
    what: T,
    /// The version that a write is based on; none if there is no Secret.
    version: Option<String>,
}

/// Keeps the certificate.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    names: CertArgs,
    lives: Lives,
    held: Held,
    /// Whether the API server trusts an authority in every entry of the webhook.
    trusts: watch::Sender<bool>,
    metrics: Metrics,
    /// The operator's Secret, empty if there is none; nothing before the watch has shown it.
    authority: Option<Seen<Authority>>,
    /// The injector's Secret, likewise.
    leaf: Option<Seen<Leaf>>,
    /// The webhook's entries, each with its bundle, likewise.
    entries: Option<BTreeMap<String, Option<Vec<u8>>>>,
    /// Before this moment no other certificate is made.
    rest: Instant,
}

impl Keeper {
    /// A keeper that works while `held` says so.
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        args: &CertArgs,
        held: Held,
        trusts: watch::Sender<bool>,
        metrics: Metrics,
    ) -> Self {
        let dns_name = format!("{}.{namespace}.svc", args.service);
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            webhooks: Api::all(client.clone()),
            names: args.clone(),
            lives: Lives { dns_name, leaf: args.leaf_life.get(), ca: args.ca_life.get() },
            held,
            trusts,
            metrics,
            authority: None,
            leaf: None,
            entries: None,
            rest: Instant::now(),
        }
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut authorities = objects(self.secrets.clone(), &self.names.ca_secret);
        let mut leaves = objects(self.secrets.clone(), &self.names.secret);
        let mut webhooks = objects(self.webhooks.clone(), &self.names.webhook);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = self.held.changed() => {}
                () = sleep_until(next) => {}
                Some(news) = authorities.next() => match news {
                    Ok(secret) => self.authority = Some(secret.map(Seen::of).unwrap_or_default()),
                    Err(error) => warn!(%error, "cannot watch the authority's Secret"),
                },
                Some(news) = leaves.next() => match news {
                    Ok(secret) => self.leaf = Some(secret.map(Seen::of).unwrap_or_default()),
                    Err(error) => warn!(%error, "cannot watch the certificate's Secret"),
                },
                Some(news) = webhooks.next() => match news {
                    Ok(webhook) => self.know(webhook.map(bundles).unwrap_or_default()),
                    Err(error) => warn!(%error, "cannot watch the webhook"),
                },
            }
            let Some(turned) = stop.run_until_cancelled(self.turn()).await else { return };
            let pause = turned.unwrap_or_else(|error| {
                warn!(%error, "the injector's certificate is not in order");
                self.metrics.errors.get_or_create(&metrics::of("certificate")).inc();
                RETRY
            });
            next = Instant::now() + pause;
        }
    }

    /// Takes over how the webhook's entries are, and tells whether the API server trusts anybody in each.
    fn know(&mut self, entries: BTreeMap<String, Option<Vec<u8>>>) {
        let all =
            !entries.is_empty() && entries.values().all(|bundle| bundle.as_ref().is_some_and(|it| !it.is_empty()));
        self.trusts.send_replace(all);
        self.entries = Some(entries);
    }

    /// Does what is due, and says how long nothing will be.
    async fn turn(&mut self) -> Result<Duration, Error> {
        let (Some(found), Some(trusted)) = (self.found(), self.trusted()) else { return Ok(LONGEST) };
        let (now, plan) = (Timestamp::now(), plan(Timestamp::now(), &found, &self.lives));
        if let Some(end) = found.leaf_end() {
            #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch are exact up to 2^53")]
            self.metrics.certificate_expires.set(end.as_second() as f64);
        }
        if !self.held.now() {
            return Ok(LONGEST);
        }
        let rest = self.rest.saturating_duration_since(Instant::now());
        if plan.action != Action::Keep && !rest.is_zero() {
            return Ok(rest);
        }
        let made = issue::make(plan.action, now, &found, &trusted, &self.lives)?;
        if plan.action != Action::Keep {
            info!(action = ?plan.action, "bringing the injector's certificate in order");
            self.rest = Instant::now() + RETRY;
        }
        let Material { authority, leaf } = made;
        let bundle = authority.bundle.clone();
        self.keep_authority(authority).await?;
        let told = self.trust(&bundle).await?;
        if told && plan.action != Action::Keep && found.leaf().is_some() && !trusted.is_empty() {
            // What is shown is good for that long, and the next turn finds that it is not by the authority in use.
            return Ok(RETRY);
        }
        self.keep_leaf(leaf).await?;
        if plan.action != Action::Keep {
            return Ok(RETRY);
        }
        let left = plan.next.as_second().saturating_sub(now.as_second()).max(1);
        Ok(LONGEST.min(Duration::from_secs(left.unsigned_abs())))
    }

    /// What the Secrets hold, once both are known.
    fn found(&self) -> Option<Material> {
        let (authority, leaf) = (self.authority.as_ref()?, self.leaf.as_ref()?);
        Some(Material { authority: authority.what.clone(), leaf: leaf.what.clone() })
    }

    /// The authorities that the API server trusts in one entry or another, once the webhook is known.
    fn trusted(&self) -> Option<String> {
        let bundles = self.entries.as_ref()?.values().flatten();
        Some(bundles.map(|bundle| String::from_utf8_lossy(bundle).trim().to_owned()).collect::<Vec<_>>().join("\n"))
    }

    async fn keep_authority(&mut self, authority: Authority) -> Result<(), Error> {
        let seen = self.authority.take().unwrap_or_default();
        let kept = self.keep(&self.names.ca_secret, &seen, authority).await;
        self.authority = Some(kept.as_ref().map_or(seen, Clone::clone));
        kept.map(drop)
    }

    async fn keep_leaf(&mut self, leaf: Leaf) -> Result<(), Error> {
        let seen = self.leaf.take().unwrap_or_default();
        let kept = self.keep(&self.names.secret, &seen, leaf).await;
        self.leaf = Some(kept.as_ref().map_or(seen, Clone::clone));
        kept.map(drop)
    }

    /// Makes the API server trust `bundle`, in every entry of the webhook that does not have it. Whether there was one.
    async fn trust(&mut self, bundle: &str) -> Result<bool, Error> {
        let entries = self.entries.clone().unwrap_or_default();
        if entries.values().all(|found| found.as_deref() == Some(bundle.as_bytes())) {
            return Ok(false);
        }
        let ca_bundle = ByteString(bundle.as_bytes().to_vec());
        let entry = |name: &String| json!({"name": name, "clientConfig": {"caBundle": ca_bundle}});
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.names.webhook},
            "webhooks": entries.keys().map(entry).collect::<Vec<_>>(),
        });
        let webhook = self.apply(&self.webhooks, &self.names.webhook, &patch).await?;
        self.entries = Some(bundles(webhook));
        Ok(true)
    }

    /// Makes the Secret hold `wanted` and nothing else, if it is still as it was `seen`.
    async fn keep<T: Kept + Clone + PartialEq>(&self, name: &str, seen: &Seen<T>, wanted: T) -> Result<Seen<T>, Error> {
        if seen.what == wanted {
            return Ok(seen.clone());
        }
        let secret = Secret { data: Some(wanted.data()), type_: Some(T::TYPE.into()), ..Secret::default() };
        let mut secret = serde_json::to_value(secret).unwrap_or_default();
        secret["metadata"] = json!({"name": name, "labels": {crate::MANAGED_BY: crate::MANAGER}});
        if let Some(version) = &seen.version {
            secret["metadata"]["resourceVersion"] = json!(version);
        }
        self.apply(&self.secrets, name, &secret).await.map(Seen::of)
    }

    async fn apply<K>(&self, api: &Api<K>, name: &str, patch: &Value) -> Result<K, Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let what = format!("{} {name}", patch["kind"].as_str().unwrap_or_default());
        let (mut held, params) = (self.held.clone(), PatchParams::apply(FIELD_MANAGER).force());
        let patch = Patch::Apply(patch);
        info!(what, "writing");
        self.metrics.writes.get_or_create(&metrics::of("certificate")).inc();
        tokio::select! {
            biased;
            () = held.lost() => Err(Error::Lost { what }),
            written = publish::limited(api.patch(name, &params, &patch)) => {
                written.map_err(|error| Error::Write { what, error: Box::new(error) })
            }
        }
    }
}

impl<T: Kept> Seen<T> {
    fn of(secret: Secret) -> Self {
        Self { version: secret.resource_version(), what: T::read(secret) }
    }
}

fn bundles(webhook: MutatingWebhookConfiguration) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = webhook.webhooks.unwrap_or_default().into_iter();
    entries.map(|entry| (entry.name, entry.client_config.ca_bundle.map(|bundle| bundle.0))).collect()
}

fn objects<K>(api: Api<K>, name: &str) -> BoxStream<'static, Result<Option<K>, watcher::Error>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    boxed(watch_object(api, name).default_backoff())
}

fn boxed<T>(stream: impl Stream<Item = T> + Send + 'static) -> BoxStream<'static, T> {
    stream.boxed()
}

#[cfg(test)]
mod tests;
