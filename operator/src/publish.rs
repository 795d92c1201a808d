//! Writers: the `ConfigMap`s that carry configs, and the status of policies and faults.
//!
//! All write by server-side apply under one name, so that only our own fields are ours, and a writer that wrote twice
//! wrote once. Each write has a time limit: the next item must not wait for an API server that does not answer. Each says
//! whether it changed anything, because the watch tells only of changes.

pub(crate) mod configmap;
pub(crate) mod status;

use std::time::Duration;

use tokio::time::timeout;

/// How long one write may take.
const WRITE: Duration = Duration::from_secs(5);

/// What a write brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The object is another one now, and the watch will show it.
    Changed,
    /// The object was like that already, and no news will come.
    Nothing,
}

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

impl Effect {
    /// Of a write that was decided from the version `before` of an object, which the API server has now as `after`.
    fn of(before: &str, after: Option<&str>) -> Self {
        // An answer without a version is none that tells us anything, and what was not there was made.
        if !before.is_empty() && after == Some(before) { Self::Nothing } else { Self::Changed }
    }
}

/// What `write` brings, or [`Error::Timeout`].
pub(crate) async fn limited<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    Ok(timeout(WRITE, write).await.map_err(|_| Error::Timeout)??)
}
