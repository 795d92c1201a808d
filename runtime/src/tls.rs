//! TLS for servers whose certificate changes while they run.
//!
//! Certificates are renewed without a restart: a server asks [`Certificates`] at each handshake and so has the newest one
//! with its next connection. A certificate that does not fit its key, does not parse or has expired is refused and the
//! last good one stays in force; without any the server accepts nobody, and says through [`Certificates::ready`] that it
//! is not ready. Where certificates come from is not decided here.

use std::{fmt, io, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use x509_parser::parse_x509_certificate;

/// Time that a client has for its handshake, and for each request's head.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time that requests in flight have when the server ends.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause before accepting again when the system had no means to.
const SHORTAGE: Duration = Duration::from_millis(100);
/// Connections at a time: the API server keeps a few and reuses them.
const MOST_CONNECTIONS: usize = 512;

/// The certificate in force, exchanged while servers use it.
pub struct Certificates {
    current: ArcSwapOption<CertifiedKey>,
    ready: watch::Sender<bool>,
    provider: Arc<CryptoProvider>,
}

/// Why a certificate was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The chain is not PEM, or empty.
    #[error("the certificate chain is not PEM with at least one CERTIFICATE: {0}")]
    Chain(String),
    /// The key is not PEM, or of a kind that is not known.
    #[error("the private key is not PEM with one PRIVATE KEY: {0}")]
    Key(String),
    /// Certificate and key do not belong together, or are not of a kind that can be used.
    #[error("certificate and private key cannot be used together: {0}")]
    Pair(#[source] rustls::Error),
    /// The certificate's time is over.
    #[error("the certificate has expired: it was valid until {0} (seconds since 1970)")]
    Expired(u64),
    /// The provider of cryptography does not support the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Protocol(#[source] rustls::Error),
}

impl Certificates {
    /// No certificate yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwapOption::empty(),
            ready: watch::Sender::new(false),
            provider: Arc::new(aws_lc_rs::default_provider()),
        })
    }

    /// Whether there is a certificate; never becomes false again.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Puts a certificate chain (leaf first) and its key, both PEM, in force for the next handshakes.
    ///
    /// Returns the end of the leaf's validity, in seconds since 1970. On an error the last certificate stays.
    pub fn install(&self, chain: &[u8], key: &[u8]) -> Result<u64, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TlsError::Chain(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| TlsError::Chain("there is none".to_owned()))?;
        let end = not_after(leaf)?;
        if end < UnixTime::now().as_secs() {
            return Err(TlsError::Expired(end));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(error.to_string()))?;
        let pair = CertifiedKey::from_der(chain, key, &self.provider).map_err(TlsError::Pair)?;
        self.current.store(Some(Arc::new(pair)));
        self.ready.send_replace(true);
        Ok(end)
    }

    /// A server's configuration that asks these certificates at each handshake: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Protocol)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("ready", &*self.ready.borrow()).finish_non_exhaustive()
    }
}

fn not_after(leaf: &CertificateDer<'_>) -> Result<u64, TlsError> {
    let (_, parsed) = parse_x509_certificate(leaf).map_err(|error| TlsError::Chain(error.to_string()))?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

/// Serves `router` over TLS until `stop` is cancelled, then lets requests in flight end for up to ten seconds.
pub async fn serve(listener: TcpListener, config: ServerConfig, router: Router, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        // The place comes first: who finds none waits in the kernel's queue.
        let (place, stream) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Files or memory have run out: trying at once would only burn what is left.
                    debug!(%error, "a connection could not be accepted");
                    sleep(SHORTAGE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, acceptor, router, watcher).await {
                debug!(error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        debug!("requests were still in flight at the end");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    listener.accept().await.map(|(stream, _)| (place, stream))
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, router: Router, watcher: Watcher) -> Result<(), String> {
    let stream = timeout(PATIENCE, acceptor.accept(stream))
        .await
        .map_err(|_| "no handshake in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(Some(PATIENCE * 6));
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
