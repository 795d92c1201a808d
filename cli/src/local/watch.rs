//! Tells when a folder's files have changed, once for what belongs together.

use std::{path::Path, time::Duration};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::timeout};

/// Editors write in several steps; this long without another is the end of them.
const QUIET: Duration = Duration::from_millis(50);

/// A folder under watch.
pub(crate) struct Watch {
    changes: mpsc::Receiver<()>,
    /// A change was heard of and not told yet.
    untold: bool,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch `folder` and everything below it.
    pub(crate) fn new(folder: &Path) -> notify::Result<Self> {
        // One waiting change says all: whoever wakes up reads everything.
        let (sender, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an access too.
            if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(folder, RecursiveMode::Recursive)?;
        Ok(Self { changes, untold: false, _watcher: watcher })
    }

    /// Waits for a change and for the quiet after it. May be dropped while it waits: nothing is lost.
    pub(crate) async fn changed(&mut self) {
        if !self.untold {
            self.untold = self.changes.recv().await.is_some();
        }
        while let Ok(Some(())) = timeout(QUIET, self.changes.recv()).await {}
        self.untold = false;
    }
}
