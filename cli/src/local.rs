//! `firebreak local`: the user's own YAML at work on loopback, without a cluster and without rights.
//!
//! The folder is read, rendered by the operator's own code, and handed to the proxy in this process. When a file changes it
//! is read again; a folder with an error in it leaves the last good config in force, as a cluster would.

pub(crate) mod ports;
pub(crate) mod say;
pub(crate) mod stage;
mod watch;

use std::process::ExitCode;

use firebreak_crds::spec::Labels;
use jiff::Timestamp;

use self::{
    say::{Said, Voice},
    stage::{Caller, NoScene, Scene, Stage},
};
use crate::{
    args::LocalArgs,
    manifest::{self, Manifests},
};

/// Runs until a signal.
pub(crate) async fn run(args: &LocalArgs) -> anyhow::Result<ExitCode> {
    let voice = Voice { json: args.json };
    let labels: Labels = args.labels.iter().cloned().collect();
    let mut stage = Stage::new(Caller { namespace: args.namespace.clone(), labels });
    let Some(scene) = read(&mut stage, args, voice)? else { return Ok(ExitCode::FAILURE) };
    voice.scene(None, &scene);
    Ok(ExitCode::SUCCESS)
}

/// Reads the folder. Nothing comes back when the files have errors, which have been told.
fn read(stage: &mut Stage, args: &LocalArgs, voice: Voice) -> anyhow::Result<Option<Scene>> {
    let manifests = Manifests::parse(&manifest::read_folder(&args.folder)?);
    match stage.set(&manifests, Timestamp::now()) {
        Ok(scene) => Ok(Some(scene)),
        Err(NoScene::Findings(findings)) => {
            voice.findings(&findings);
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}
