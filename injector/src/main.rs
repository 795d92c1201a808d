//! `firebreak-injector`: Firebreak's admission webhook.

use clap::Parser;
use firebreak_injector::{args::InjectorArgs, run::run};
use firebreak_runtime::log;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = InjectorArgs::parse();
    log::init(&args.log)?;
    run(args).await
}
