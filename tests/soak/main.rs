//! The soak: a proxy in a process of its own, under load, while everything around it misbehaves and its config changes each second.
//! When the load has stopped, nothing may be left of it, and each request must be in the books exactly once.
//!
//! ```text
//! firebreak-soak [--seconds 45] [--seed N]
//! ```

mod books;
mod callers;
mod config;
mod exchange;
mod kind;
mod peers;
mod proxy;
mod raw;
mod request;
mod site;
mod tally;
mod world;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{books::Rest, peers::Peers, proxy::Child, world::World};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the load lasts before the memory that it takes is compared with that at the end: by then all that is taken once and
/// kept (buffers, the allocator's pages, the flight recorder) is there.
const WARM_UP: Duration = Duration::from_secs(12);
/// How long callers may take to end what they have begun: longer than any clock of the policies and any pause of a caller.
const PATIENCE: Duration = Duration::from_secs(25);
/// Between two looks at the numbers of another process, of which there is no event to await.
const PACE: Duration = Duration::from_millis(100);
/// Looks at the memory of a proxy at rest, of which the least counts: the allocator gives pages back when it comes to it.
const LOOKS: usize = 20;

/// Load a proxy while everything around it misbehaves, and see that nothing is left of it
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// How long the load lasts after it has warmed up
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// What chance begins with; the same seed brings the same order of what each caller does
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The proxy itself, which the soak starts; configs come by standard input
    #[command(hide = true)]
    Proxy,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::Proxy) => proxy::run(),
        None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(soak(
                Duration::from_secs(args.seconds),
                args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
            ))
        }
    }
}

async fn soak(length: Duration, seed: u64) -> anyhow::Result<()> {
    println!("soak: {length:?} after {WARM_UP:?} of warm-up, --seed {seed}");
    let peers = Peers::start().await?;
    let mut child = Child::start().await?;
    let services = config::Service::all()?;
    let world = Arc::new(World::new(seed, peers, services));
    let mut second = 0;
    child.publish(&config::calm(&world)).await?;
    let before = begun(&child).await?;
    println!("before: {before}");

    load(&world, &mut child, WARM_UP, &mut second).await.context("during the warm-up")?;
    let warm = settled(&world, &child, &before).await.context("after the warm-up")?;
    println!("warm: {warm}");
    let warm_up = world.tally.total();
    load(&world, &mut child, length, &mut second).await?;
    let end = settled(&world, &child, &before).await?;
    println!("end: {end}");

    let judged = [
        books::account(&world, &child.metrics().await?),
        world.tally.judge(),
        end.compare(&warm, world.tally.total() - warm_up),
        world.verdict(),
        child.stop().await,
    ];
    let wrong: Vec<_> = judged.into_iter().filter_map(|judged| judged.err().map(|error| error.to_string())).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("soak: every request is accounted for, and nothing is left of them");
    Ok(())
}

/// What the proxy holds before any load, once its workers have begun: which they tell nobody, but they open files.
async fn begun(child: &Child) -> anyhow::Result<Rest> {
    let (mut last, mut same) = (child.rest().await?, 0);
    while same < 10 {
        tokio::time::sleep(PACE).await;
        let now = child.rest().await?;
        same = if now.left(&last).is_empty() { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// Callers at work for a while, with a new config each second; then, in a calm world, until each of them has ended what it had begun.
async fn load(world: &Arc<World>, child: &mut Child, length: Duration, second: &mut u64) -> anyhow::Result<()> {
    let end = Instant::now() + length;
    let mut callers = callers::start(world, end);
    let mut clock = interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while clock.tick().await < end {
        churn(world, child, *second).await?;
        *second += 1;
        if second.is_multiple_of(10) {
            println!("{:3} s: {}; {}", second, world.tally, child.rest().await?);
        }
    }
    calm(world, child).await?;
    let stopped = Instant::now();
    let ended = timeout(PATIENCE, async {
        while let Some(ended) = callers.join_next().await {
            ended?;
        }
        anyhow::Ok(())
    });
    ended.await.with_context(|| format!("callers have not ended {PATIENCE:?} after the load: {}", world.tally))??;
    println!("callers ended {:.1?} after the load", stopped.elapsed());
    Ok(())
}

/// Puts the config of this second in force.
async fn churn(world: &World, child: &mut Child, second: u64) -> anyhow::Result<()> {
    if config::is_calm(second) {
        return calm(world, child).await;
    }
    world.set_calm(false);
    child.publish(&config::churned(world, second)).await
}

async fn calm(world: &World, child: &mut Child) -> anyhow::Result<()> {
    child.publish(&config::calm(world)).await?;
    world.set_calm(true);
    Ok(())
}

/// What the proxy holds once it has come to rest: first by itself, when only connections may be kept that wait for a next request,
/// and then with its callees hung up.
async fn settled(world: &World, child: &Child, before: &Rest) -> anyhow::Result<Rest> {
    let begun = Instant::now();
    let in_use = |now: &Rest| {
        let busy = world.peers.site.busy();
        let at_callees = (busy > 0).then(|| format!("{busy} requests at callees"));
        now.in_use(before).into_iter().chain(at_callees).collect()
    };
    let kept = at_rest(child, in_use).await.context("callees have not hung up")?;
    println!("kept after {:.1?}: {kept}", begun.elapsed());
    world.peers.hang_up();
    let mut least = at_rest(child, |now| now.left(before)).await.context("callees have hung up")?;
    for _ in 0..LOOKS {
        tokio::time::sleep(PACE).await;
        least = least.least(child.rest().await?);
    }
    Ok(least)
}

/// What the proxy holds once nothing is `left` of the load.
async fn at_rest(child: &Child, left: impl Fn(&Rest) -> Vec<String>) -> anyhow::Result<Rest> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = child.rest().await?;
        let left = left(&now);
        if left.is_empty() {
            return Ok(now);
        }
        ensure!(
            Instant::now() < deadline,
            "{PATIENCE:?} after the load the proxy still holds {}: {now}",
            left.join(", ")
        );
        tokio::time::sleep(PACE).await;
    }
}
