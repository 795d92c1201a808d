//! The sidecar's binary. See the library for what it does.

use std::{io::stdout, time::Duration};

use clap::Parser;
use firebreak_proxy::{
    args::{Args, Command},
    redirect, sidecar,
    telemetry::output::Output,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the last lines of the log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = match &args.command {
        Command::Run(run) => run.log.as_str(),
        _ => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    let output = Output::start(stdout())?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(output.clone()).init();
    let ended = run(args.command, &output);
    output.flush(LAST_LINES);
    ended
}

fn run(command: Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => sidecar::run(*args, output.clone()),
        Command::Init(args) => Ok(redirect::run_init(&args)?),
        Command::Validate(args) => Ok(redirect::run_validate(&args)?),
        Command::Drain => sidecar::ask("POST", "/drain"),
        Command::Ready => sidecar::ask("GET", "/ready"),
    }
}
