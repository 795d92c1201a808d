//! `firebreak local`: the user's own YAML at work on loopback, without a cluster and without rights.
//!
//! The folder is read, rendered by the operator's own code, and handed to the proxy in this process. When a file changes it
//! is read again; a folder with an error in it leaves the last good config in force, as a cluster would.

pub(crate) mod engine;
pub(crate) mod ports;
pub(crate) mod say;
pub(crate) mod stage;
mod watch;

use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

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

/// Runs until a signal. Exit code 1 means that the folder had errors at the start.
pub(crate) async fn run(args: &LocalArgs) -> anyhow::Result<ExitCode> {
    let voice = Voice { json: args.json };
    let caller = Caller { namespace: args.namespace.clone(), labels: args.labels.iter().cloned().collect() };
    // Watched before it is read, so that no change falls between.
    let watch = Watch::new(&args.folder).with_context(|| format!("cannot watch {}", args.folder.display()))?;
    if args.check {
        return check(args, caller, voice);
    }
    let mut engine = Engine::start(caller, args.admin)?;
    let Some(first) = apply(&mut engine, args, voice)? else { return Ok(ExitCode::FAILURE) };
    voice.scene(None, &first.scene, &first.deaf);
    engine.admin().into_iter().for_each(|address| voice.say(&Said::Admin { address }));
    voice.say(&Said::Ready { revision: &first.report.revision });
    serve(&mut engine, args, voice, watch, first.scene).await?;
    engine.stop().await?;
    voice.say(&Said::Stopped);
    Ok(ExitCode::SUCCESS)
}

/// Follows the folder until a signal.
async fn serve(
    engine: &mut Engine,
    args: &LocalArgs,
    voice: Voice,
    mut watch: Watch,
    first: Scene,
) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut scene = first;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
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
