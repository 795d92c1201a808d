//! Firebreak's operator.

use clap::Parser;
use firebreak_operator::{args::Args, run::run};
use firebreak_runtime::log;

/// Lists come and go, and their memory with them: the C library's allocator would keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log::init(&args.log)?;
    // Two threads: one may parse a long list while the other keeps the lease.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(run(args))?)
}
