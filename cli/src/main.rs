//! `firebreak`, also `kubectl firebreak`: tells people what their policies mean, without a cluster.
//!
//! Each command is a module with one `run`; what it decides is pure and tested beside it. Exit codes: 0 all is well, 1 the
//! command did its work and found something wrong, 2 it could not do its work.

mod args;
mod demo;
mod explain;
mod http;
mod lint;
mod local;
mod manifest;
mod selftest;

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anstyle::AnsiColor;
use clap::{CommandFactory, FromArgMatches};

use self::args::{Cli, Command};

/// The command could not do its work, as with clap's own errors.
const COULD_NOT: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&named().get_matches()).unwrap_or_else(|error| error.exit());
    run(&cli.command).unwrap_or_else(|error| {
        let style = AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{style}error:{style:#} {error:#}");
        ExitCode::from(COULD_NOT)
    })
}

/// The command line, under the name by which it was called.
fn named() -> clap::Command {
    let program = env::args_os().next().unwrap_or_default();
    let plugin = Path::new(&program).file_stem().is_some_and(|name| name == "kubectl-firebreak");
    if plugin { Cli::command().bin_name("kubectl firebreak") } else { Cli::command() }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Lint(args) => lint::run(args),
        Command::Local(args) => block_on(local::run(args)),
        Command::Explain(args) => block_on(explain::run(args)),
        Command::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "firebreak", &mut script);
            told(io::stdout().write_all(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            anstream::println!("firebreak {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Selftest(command) => block_on(selftest::run(command)),
    }
}

/// A reader who has seen enough and closed the pipe is no failure.
pub(crate) fn told(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Runs a command that waits for things. The proxy brings its own threads; one is enough for the rest.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // What the proxy has to say beyond its verdicts is rare and important.
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
