//! `firebreak local`: the user's own YAML at work on loopback, without a cluster and without rights.
//!
//! The folder is read, rendered by the operator's own code, and handed to the proxy in this process. When a file changes it
//! is read again; a folder with an error in it leaves the last good config in force, as a cluster would.

pub(crate) mod engine;
pub(crate) mod ports;
pub(crate) mod say;
pub(crate) mod stage;
mod watch;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use firebreak_proxy::StartError;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    engine::{Applied, Engine, NotApplied},
    say::{Said, Voice},
    stage::{Caller, NoScene, Scene, Stage},
    watch::Watch,
};
use crate::{
    args::LocalArgs,
    manifest::{self, Manifests},
};

/// How long requests under way may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until a signal. Exit code 1 means that the folder had errors at the start.
pub(crate) async fn run(args: &LocalArgs) -> anyhow::Result<ExitCode> {
    let voice = Voice { json: args.json };
    let caller = Caller { namespace: args.namespace.clone(), labels: args.labels.iter().cloned().collect() };
    is_folder(&args.folder)?;
    // Watched before it is read, so that no change falls between.
    let watch = Watch::new(&args.folder).with_context(|| format!("cannot watch {}", args.folder.display()))?;
    if args.check {
        return check(args, caller, voice);
    }
    let mut engine = Engine::start(caller, args.admin, GRACE).map_err(|error| unstarted(error, args))?;
    let Some(first) = apply(&mut engine, args, voice)? else { return Ok(ExitCode::FAILURE) };
    // Before `ready`, which programs wait for.
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    voice.scene(None, &first.scene, &first.deaf);
    engine.admin().into_iter().for_each(|address| voice.say(&Said::Admin { address }));
    voice.say(&Said::Ready { revision: &first.report.revision });
    if first.scene.listeners.is_empty() {
        voice.hint("nothing is served: the folder has no Service with a TCP port yet; examples/local shows one");
    }
    serve(&mut engine, args, voice, watch, first.scene, signals).await;
    voice.hint(&format!("stopping: requests under way get up to {GRACE:?}"));
    engine.stop().await?;
    voice.say(&Said::Stopped);
    Ok(ExitCode::SUCCESS)
}

fn is_folder(folder: &Path) -> anyhow::Result<()> {
    let name = folder.display();
    let found = fs::metadata(folder).with_context(|| format!("cannot read {name}: name a folder with YAML files"))?;
    let around = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(found.is_dir(), "{name} is a file: name the folder that it is in, {}", around.display());
    Ok(())
}

/// The admin port is the only one that is asked for by number.
fn unstarted(error: StartError, args: &LocalArgs) -> anyhow::Error {
    let taken = matches!(error, StartError::Listen { .. });
    let error = anyhow::Error::from(error);
    if taken {
        error.context(format!("--admin {}: choose another, or port 0 for a free one", args.admin))
    } else {
        error
    }
}

/// Follows the folder until a signal.
async fn serve(
    engine: &mut Engine,
    args: &LocalArgs,
    voice: Voice,
    mut watch: Watch,
    first: Scene,
    (mut terminate, mut interrupt): (Signal, Signal),
) {
    let mut scene = first;
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            Some(record) = engine.failure() => voice.say(&Said::Failure(&record)),
            () = watch.changed() => match apply(engine, args, voice) {
                Ok(Some(now)) if now.scene.config == scene.config => voice.findings(&now.scene.warnings),
                Ok(Some(now)) => {
                    voice.scene(Some(&scene), &now.scene, &now.deaf);
                    voice.say(&Said::Applied { revision: &now.report.revision });
                    scene = now.scene;
                }
                Ok(None) => voice.say(&Said::Kept),
                Err(error) => {
                    voice.say(&Said::Refused { message: &format!("{error:#}") });
                    voice.say(&Said::Kept);
                }
            },
        }
    }
}

fn check(args: &LocalArgs, caller: Caller, voice: Voice) -> anyhow::Result<ExitCode> {
    match Stage::new(caller).set(&read(args)?, Timestamp::now()) {
        Ok(scene) => {
            voice.scene(None, &scene, &[]);
            Ok(ExitCode::SUCCESS)
        }
        Err(NoScene::Findings(findings)) => {
            voice.findings(&findings);
            Ok(ExitCode::FAILURE)
        }
        Err(other) => Err(other.into()),
    }
}

fn read(args: &LocalArgs) -> anyhow::Result<Manifests> {
    Ok(Manifests::parse(&manifest::read_folder(&args.folder)?))
}

/// Puts the folder in force. Nothing comes back when its files have errors, which have been told.
fn apply(engine: &mut Engine, args: &LocalArgs, voice: Voice) -> anyhow::Result<Option<Applied>> {
    match engine.apply(&read(args)?) {
        Ok(applied) => {
            let report = &applied.report;
            report.refused.iter().chain(&report.problems).for_each(|message| voice.say(&Said::Refused { message }));
            Ok(Some(applied))
        }
        Err(NotApplied::Scene(NoScene::Findings(findings))) => {
            voice.findings(&findings);
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}
