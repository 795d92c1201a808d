//! The injector's certificate: made, renewed, and made known to the API server.
//!
//! The holder of the lease keeps an authority and a certificate for the injector's Service in one Secret, and writes the
//! authority into the webhook's `caBundle`. The injector only reads the Secret. What to do is decided by a pure plan
//! (`plan`) from the Secret and the time; this module carries it out.
//!
//! The order is what makes a renewal unnoticed: first the API server learns the new authority beside the old one, then the
//! Secret changes, so whichever certificate the injector shows is trusted. The old authority stays in the bundle for one
//! life of a certificate.
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
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher, watcher::watch_object},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use self::plan::{Action, Lives};
use self::{issue::Material, plan::plan};
use crate::{FIELD_MANAGER, args::CertArgs, lease::Held, metrics, metrics::Metrics};

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
        error: Box<kube::Error>,
    },
}

/// Longest pause between two looks: a wall clock that jumps must not put off a renewal for months.
const LONGEST: Duration = Duration::from_hours(1);
/// The pause after a failure, and the shortest between two certificates: whoever else writes the Secret, or a life of
/// seconds, must not make us issue without end.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the certificate.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    webhooks: Api<MutatingWebhookConfiguration>,
    secret: String,
    webhook: String,
    lives: Lives,
    held: Held,
    metrics: Metrics,
    /// The Secret as the watch last showed it, empty if there is none; nothing before that.
    found: Option<Material>,
    /// The webhook's entries as the watch last showed them, each with its bundle.
    entries: BTreeMap<String, Option<Vec<u8>>>,
    /// Before this moment no other certificate is made.
    rest: Instant,
}

impl Keeper {
    /// A keeper that works while `held` says so.
    pub(crate) fn new(client: &Client, namespace: &str, args: &CertArgs, held: Held, metrics: Metrics) -> Self {
        let dns_name = format!("{}.{namespace}.svc", args.service);
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            webhooks: Api::all(client.clone()),
            secret: args.secret.clone(),
            webhook: args.webhook.clone(),
            lives: Lives { dns_name, leaf: args.leaf_life.get(), ca: args.ca_life.get() },
            held,
            metrics,
            found: None,
            entries: BTreeMap::new(),
            rest: Instant::now(),
        }
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut secrets = objects(self.secrets.clone(), &self.secret);
        let mut webhooks = objects(self.webhooks.clone(), &self.webhook);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = self.held.changed() => {}
                () = sleep_until(next) => {}
                Some(news) = secrets.next() => match news {
                    Ok(secret) => self.found = Some(secret.map(Material::read).unwrap_or_default()),
                    Err(error) => warn!(%error, "cannot watch the certificate's Secret"),
                },
                Some(news) = webhooks.next() => match news {
                    Ok(webhook) => self.entries = webhook.map(bundles).unwrap_or_default(),
                    Err(error) => warn!(%error, "cannot watch the webhook"),
                },
            }
            let pause = self.turn().await.unwrap_or_else(|error| {
                warn!(%error, "the injector's certificate is not in order");
                self.metrics.errors.get_or_create(&metrics::of("certificate")).inc();
                RETRY
            });
            next = Instant::now() + pause;
        }
    }

    /// Does what is due, and says how long nothing will be.
    async fn turn(&mut self) -> Result<Duration, Error> {
        let Some(found) = &self.found else { return Ok(LONGEST) };
        let (now, plan) = (Timestamp::now(), plan(Timestamp::now(), found, &self.lives));
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
        let made = match plan.action {
            Action::Keep => None,
            action => Some(issue::make(action, now, found, &self.lives)?),
        };
        let bundle = made.as_ref().unwrap_or(found).bundle.clone();
        self.trust(&bundle).await?;
        if let Some(made) = made {
            info!(action = ?plan.action, "writing the injector's certificate");
            self.rest = Instant::now() + RETRY;
            self.write(&made).await?;
            self.found = Some(made);
            return Ok(RETRY);
        }
        let left = plan.next.as_second().saturating_sub(now.as_second()).max(1);
        Ok(LONGEST.min(Duration::from_secs(left.unsigned_abs())))
    }

    /// Makes the API server trust `bundle`, in every entry of the webhook that does not have it.
    async fn trust(&mut self, bundle: &str) -> Result<(), Error> {
        let right = |found: &Option<Vec<u8>>| found.as_deref() == Some(bundle.as_bytes());
        if self.entries.values().all(right) {
            return Ok(());
        }
        let ca_bundle = ByteString(bundle.as_bytes().to_vec());
        let entry = |name: &String| json!({"name": name, "clientConfig": {"caBundle": ca_bundle}});
        let entries: Vec<Value> = self.entries.keys().map(entry).collect();
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.webhook},
            "webhooks": entries,
        });
        info!(webhook = self.webhook, "writing caBundle");
        self.apply(&self.webhooks, &self.webhook, &patch).await?;
        for found in self.entries.values_mut() {
            *found = Some(bundle.as_bytes().to_vec());
        }
        Ok(())
    }

    async fn write(&self, made: &Material) -> Result<(), Error> {
        let secret = Secret { data: Some(made.data()), type_: Some("kubernetes.io/tls".into()), ..Secret::default() };
        let mut secret = serde_json::to_value(secret).unwrap_or_default();
        secret["metadata"] = json!({"name": self.secret, "labels": {crate::MANAGED_BY: crate::MANAGER}});
        self.apply(&self.secrets, &self.secret, &secret).await
    }

    async fn apply<K>(&self, api: &Api<K>, name: &str, patch: &Value) -> Result<(), Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let kind = patch["kind"].as_str().unwrap_or_default().to_owned();
        let written = api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await;
        self.metrics.writes.get_or_create(&metrics::of("certificate")).inc();
        written.map(drop).map_err(|error| Error::Write { what: format!("{kind} {name}"), error: Box::new(error) })
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
