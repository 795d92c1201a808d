//! `firebreak-bench-load MODE ADDRESS …`: the caller of the benchmark, where wrk and h2load do not do: a rate that does not wait
//! for answers, percentiles over HTTP/2, messages on upgraded and opaque connections, thousands of idle connections.
//!
//! Each mode prints one line of JSON.

mod ask;
mod echo;
mod idle;
mod rate;
mod rate_h1;
mod rate_h2;
mod schedule;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, LocalOptions};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Requests at a fixed rate; latency counts from when a request was due, whether it could be sent then or not.
    Rate(rate::Args),
    /// Messages there and back, each connection sending its next when it has the last again.
    Echo(echo::Args),
    /// Connections that have carried one request and then wait until standard input ends.
    Idle(idle::Args),
    /// Requests for a path, all at once or one after the other; tells status and milliseconds of each.
    Ask(ask::Args),
}

/// Where to.
#[derive(Clone, Copy, Debug, clap::Args)]
struct To {
    /// Address and port.
    address: SocketAddr,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(async {
        match args.mode {
            Mode::Rate(args) => rate::run(args).await,
            Mode::Echo(args) => echo::run(args).await,
            Mode::Idle(args) => idle::run(args).await,
            Mode::Ask(args) => ask::run(args).await,
        }
    })?;
    println!("{result}");
    Ok(())
}
