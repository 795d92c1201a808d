//! The webhook's certificate, followed through the API.
//!
//! The operator makes and renews it in a Secret. A watch on that one name brings a new one within milliseconds, where a
//! mounted Secret would lag by up to a minute and a half, and starts when the Secret is not there yet. What cannot be
//! used is logged and counted, and the last good certificate serves on.

use std::sync::Arc;

use firebreak_runtime::tls::Certificates;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::metrics::Metrics;

/// Name of the Secret, of type `kubernetes.io/tls`.
pub const SECRET: &str = "firebreak-injector-tls";
/// The certificate chain, leaf first.
const CHAIN: &str = "tls.crt";
/// The private key.
const KEY: &str = "tls.key";

/// Installs what the Secret in `namespace` holds, now and whenever it changes, until `stop` is cancelled.
pub async fn follow(
    client: Client,
    namespace: &str,
    certificates: &Arc<Certificates>,
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let events = watcher(secrets, only).default_backoff().take_until(stop.cancelled_owned());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => install(&secret, certificates, metrics),
            Ok(Event::Delete(_)) => warn!(secret = SECRET, "the certificate's Secret is gone; the last one serves on"),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => warn!(%error, secret = SECRET, "the certificate's Secret cannot be watched; trying again"),
        }
    }
}

fn install(secret: &Secret, certificates: &Certificates, metrics: &Metrics) {
    let data = |key: &str| secret.data.iter().flatten().find(|(name, _)| *name == key).map_or(&[][..], |(_, v)| &v.0);
    match certificates.install(data(CHAIN), data(KEY)) {
        Ok(expires) => {
            metrics.certificate_expires.set(i64::try_from(expires).unwrap_or(i64::MAX));
            info!(secret = SECRET, expires, "certificate in force");
        }
        Err(error) => {
            metrics.certificates_refused.inc();
            error!(%error, secret = SECRET, "the certificate cannot be used; the last good one stays in force");
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use prometheus_client::registry::Registry;

    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn the_injector_is_ready_from_the_first_good_secret_on_and_counts_the_others() {
        let (certificates, metrics) = (Certificates::new(), Metrics::new(&mut Registry::default()));
        let pair = rcgen::generate_simple_self_signed(vec!["firebreak-injector.x.svc".to_owned()]).unwrap();
        let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());

        install(&Secret::default(), &certificates, &metrics);
        install(&secret(&[(CHAIN, &chain)]), &certificates, &metrics);
        assert_eq!((*certificates.ready().borrow(), metrics.certificates_refused.get()), (false, 2));

        install(&secret(&[(CHAIN, &chain), (KEY, &key)]), &certificates, &metrics);
        install(&secret(&[(CHAIN, "no certificate"), (KEY, &key)]), &certificates, &metrics);
        assert_eq!((*certificates.ready().borrow(), metrics.certificates_refused.get()), (true, 3));
        assert!(metrics.certificate_expires.get() > 0);
    }
}
