//! The proxy in this process, and the stage that feeds it.

use std::{net::SocketAddr, time::Duration};

use firebreak_proxy::{
    Identity, Listener, Proxy, Report, Settings, StartError,
    telemetry::{
        access_log::{Record, Taker},
        metrics::Direction,
    },
};
use jiff::Timestamp;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::stage::{Caller, NoScene, Scene, Stage};
use crate::manifest::Manifests;

/// Records of failed requests that may wait to be told.
const RECORDS: usize = 1024;
/// What the proxy calls itself in `Proxy-Status`, having no pod.
const NAME: &str = "firebreak";

/// A proxy that enforces what manifests say.
#[derive(Debug)]
pub(crate) struct Engine {
    stage: Stage,
    proxy: Proxy,
    records: mpsc::Receiver<Record>,
}

/// What became of manifests.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) scene: Scene,
    pub(crate) report: Report,
    /// Those of the scene that could not be opened.
    pub(crate) deaf: Vec<Listener>,
}

/// Why manifests are not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotApplied {
    #[error(transparent)]
    Scene(#[from] NoScene),
    #[error("the config cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl Engine {
    /// Starts the proxy, which does nothing yet. At its end, requests under way get `grace`.
    pub(crate) fn start(caller: Caller, admin: SocketAddr, grace: Duration) -> Result<Self, StartError> {
        let (sender, records) = mpsc::channel(RECORDS);
        let identity = Identity { name: NAME.to_owned(), labels: caller.labels.clone(), ..Identity::default() };
        let records_to = Some(Taker::Channel(sender));
        let settings = Settings { identity, admin: vec![admin], grace, records: records_to, ..Settings::default() };
        Ok(Self { stage: Stage::new(caller), proxy: Proxy::start(settings)?, records })
    }

    /// Where metrics and config are served.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.proxy.admin().first().copied()
    }

    /// Puts manifests in force, or leaves what is in force as it is.
    pub(crate) fn apply(&mut self, manifests: &Manifests) -> Result<Applied, NotApplied> {
        let scene = self.stage.set(manifests, Timestamp::now())?;
        let (document, _) = scene.config.encode()?;
        let (report, listeners) = self.proxy.publish(document.as_bytes());
        let deaf = listeners.into_iter().filter(|listener| listener.error.is_some()).collect();
        Ok(Applied { scene, report, deaf })
    }

    /// The next request of a caller that failed. Never, once the proxy is gone. What becomes of its tries beside their endpoints is in the
    /// flight recorder.
    pub(crate) async fn failure(&mut self) -> Option<Record> {
        loop {
            let record = self.records.recv().await?;
            if record.direction == Direction::Outbound.name() {
                return Some(record);
            }
        }
    }

    /// Lets requests under way end, and stops.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        // The proxy waits in a runtime of its own, which must not be inside ours.
        Ok(spawn_blocking(move || self.proxy.shutdown()).await??)
    }
}
