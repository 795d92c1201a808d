//! When the operator is ready: it knows the world, the webhook has its caBundle, and the injector's Service has answered it.
//!
//! A pod that shall have the proxy is refused until the API server reaches an injector by its Service's address. An injector
//! that is ready is not yet reached: the nodes learn of it a moment later, and a pod created in that moment, right after
//! `helm install --wait`, would get a `FailedCreate` first. No injector can wait for that itself, since its Service leads to
//! it only once it is ready. The operator can: nobody but installers and rollouts waits for it to be ready; it leads, renders
//! and makes the injector's certificate all the same.
//!
//! Nor does the API server trust an injector before the holder of the lease has written the caBundle. After an installation over
//! the Secrets of an earlier one the injector is ready at once, while the lease of the operator that was uninstalled has to
//! run out first.
//!
//! It is one node's view, and a network policy may forbid it, so it is waited for only so long.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long the Service is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Says `ready` once `known` has come with the address of the injector's Service, the API server `trusts` it, and that has
/// answered, or could not be waited for any longer. Without an address there is nothing to wait for.
pub(crate) async fn ready_once_reached(
    known: oneshot::Receiver<Option<SocketAddr>>,
    mut trusts: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let reached = async {
        let Ok(injector) = known.await else { return };
        if let Some(injector) = injector {
            let both = async {
                // Whoever says so lives as long as the operator; without it nobody else will.
                let _ = trusts.wait_for(|trusts| *trusts).await;
                answer(injector).await;
            };
            match timeout(PATIENCE, both).await {
                Ok(()) => info!(%injector, "the injector's Service is trusted and answers"),
                Err(_) => {
                    warn!(%injector, "the injector's Service is not trusted or does not answer; pods may wait for the proxy");
                }
            }
        }
        ready.send_replace(true);
    };
    stop.run_until_cancelled(reached).await;
}

/// Waits until something at `address` takes a connection.
async fn answer(address: SocketAddr) {
    while !timeout(CONNECT, TcpStream::connect(address)).await.is_ok_and(|connected| connected.is_ok()) {
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    fn wait_for(address: Option<SocketAddr>) -> watch::Receiver<bool> {
        wait_for_trust(address, watch::channel(true).1)
    }

    fn wait_for_trust(address: Option<SocketAddr>, trusts: watch::Receiver<bool>) -> watch::Receiver<bool> {
        let ((known, is_known), (ready, is_ready)) = (oneshot::channel(), watch::channel(false));
        tokio::spawn(ready_once_reached(is_known, trusts, ready, CancellationToken::new()));
        known.send(address).unwrap();
        is_ready
    }

    async fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn ready_is_said_when_the_service_answers_and_not_before() {
        let address = nobody().await;
        let mut ready = wait_for(Some(address));
        assert!(timeout(PAUSE * 3, ready.changed()).await.is_err(), "nobody answers yet");
        let _listener = TcpListener::bind(address).await.unwrap();
        timeout(PATIENCE / 2, ready.changed()).await.unwrap().unwrap();
        assert!(*ready.borrow());
    }

    #[tokio::test]
    async fn an_injector_that_answers_and_is_not_trusted_is_not_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (trust, trusts) = watch::channel(false);
        let mut ready = wait_for_trust(Some(listener.local_addr().unwrap()), trusts);
        assert!(timeout(PAUSE * 3, ready.changed()).await.is_err(), "the webhook has no caBundle yet");
        trust.send_replace(true);
        timeout(PATIENCE / 2, ready.changed()).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_never_answers_does_not_hold_the_operator_back_for_ever() {
        let (mut ready, begin) = (wait_for(Some(nobody().await)), Instant::now());
        ready.changed().await.unwrap();
        assert_eq!(Instant::now() - begin, PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_service_there_is_nothing_to_wait_for() {
        let begin = Instant::now();
        wait_for(None).changed().await.unwrap();
        assert_eq!(Instant::now(), begin);
    }
}
