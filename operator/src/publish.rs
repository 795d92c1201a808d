//! Writers: the `ConfigMap`s that carry configs, and the status of policies and faults.
//!
//! All write by server-side apply under one name, so that only our own fields are ours, and a writer that wrote twice
//! wrote once. Each write has a time limit: the next item must not wait for an API server that does not answer.

pub(crate) mod configmap;
pub(crate) mod status;

use std::time::Duration;

use tokio::time::timeout;

/// How long one write may take.
const WRITE: Duration = Duration::from_secs(5);

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server said no, or could not be reached.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// It said nothing.
    #[error("no answer within {WRITE:?}")]
    Timeout,
}

impl Error {
    /// Whether the object is gone, or is no longer the one that was decided about: the watch will tell.
    pub(crate) fn overtaken(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(refused)) if refused.code == 404 || refused.code == 409)
    }
}

/// What `write` brings, or [`Error::Timeout`].
pub(crate) async fn limited<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    Ok(timeout(WRITE, write).await.map_err(|_| Error::Timeout)??)
}
