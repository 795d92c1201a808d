//! Config from files that Kubernetes projects into the pod: the ConfigMap, and the pod's labels.
//!
//! The kubelet replaces a volume's content by renaming a symlink, `..data`. The folder is watched, and a slow look every
//! few seconds makes up for an event that was lost. A file that is gone changes nothing: the last good config stays.

use std::{io, path::PathBuf, time::Duration};

use firebreak_crds::{marks, spec::Labels};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc::{self, Receiver},
    time::{MissedTickBehavior, interval},
};

use super::publish::{Publisher, Report};

/// How often files are looked at without an event.
const LOOK: Duration = Duration::from_secs(5);

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Folder of the config.
    pub config: PathBuf,
    /// The pod's labels, as the downward API writes them.
    pub labels: PathBuf,
}

impl Files {
    /// The pod's labels now; none if there is no such file.
    pub fn read_labels(&self) -> Labels {
        std::fs::read_to_string(&self.labels).map(|text| parse_labels(&text)).unwrap_or_default()
    }

    /// Hands what the files say to `publish`, now and whenever they change. Never returns.
    pub async fn follow(self, publisher: &Publisher, publish: impl Fn(&[u8]) -> Report) {
        let (_watcher, mut events) = self.watch();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.look(publisher, &publish);
            tokio::select! {
                _ = looks.tick() => {}
                // Without a watcher the channel is closed, and the looks remain.
                Some(()) = events.recv() => while events.try_recv().is_ok() {},
            }
        }
    }

    fn look(&self, publisher: &Publisher, publish: &impl Fn(&[u8]) -> Report) {
        if self.labels.exists() {
            publisher.relabel(self.read_labels());
        }
        match std::fs::read(self.config.join(marks::CONFIG_KEY)) {
            Ok(document) => {
                let before = publisher.report();
                let report = publish(&document);
                if (&before.revision, &before.refused) != (&report.revision, &report.refused) {
                    log(&report);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, folder = %self.config.display(), "the config could not be read"),
        }
    }

    fn watch(&self) -> (Option<RecommendedWatcher>, Receiver<()>) {
        let (events, received) = mpsc::channel(16);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // A full channel already holds the news.
                let _ = events.try_send(());
            }
        });
        let folders = [Some(self.config.as_path()), self.labels.parent()];
        let watcher = watcher.and_then(|mut watcher| {
            for folder in folders.into_iter().flatten().filter(|folder| folder.exists()) {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "files are looked at every 5 s instead"));
        (watcher.ok(), received)
    }
}

fn log(report: &Report) {
    match &report.refused {
        Some(error) => tracing::error!(%error, "the config was refused; the last good one stays in force"),
        None => tracing::info!(revision = report.revision, "config in force"),
    }
    for problem in &report.problems {
        tracing::error!(%problem, "an entry of the config was refused; its last good form stays in force");
    }
    for field in &report.ignored {
        tracing::warn!(field, "the config has something that this version does not know");
    }
}

/// Lines of `key="value"`, the value quoted as Go quotes strings.
fn parse_labels(text: &str) -> Labels {
    let line = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // A label's value has no character that Go's quoting and JSON's treat differently.
        Some((key.to_owned(), serde_json::from_str(value).ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests;
