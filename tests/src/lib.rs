//! What proves Firebreak: the application that stands in for services in tests ([`app`]), the harness that drives a cluster
//! ([`cluster`]), the table of wrong YAML ([`wrong`]), and what tests need to judge what they see ([`chance`], [`wait`]).

pub mod app;
pub mod chance;
pub mod cluster;
pub mod wait;
pub mod wrong;

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::ensure;

/// A program of the workspace, built with the same profile as the running test and found beside it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let test = env::current_exe()?;
    let path = test.ancestors().nth(2).map(|folder| folder.join(name)).unwrap_or_default();
    ensure!(path.exists(), "{} is not built: cargo build --workspace with the profile of this test", path.display());
    Ok(path)
}

/// The folder of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
