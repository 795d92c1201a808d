//! The sidecar's binary. See the library for what it does.

use clap::Parser;
use firebreak_proxy::{
    args::{Args, Command},
    redirect, sidecar,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = match &args.command {
        Command::Run(run) => run.log.as_str(),
        _ => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    match args.command {
        Command::Run(args) => sidecar::run(args),
        Command::Init(args) => Ok(redirect::run_init(&args)?),
        Command::Validate(args) => Ok(redirect::run_validate(&args)?),
        Command::Drain => sidecar::ask("POST", "/drain"),
        Command::Ready => sidecar::ask("GET", "/ready"),
    }
}
