//! Requests at a fixed rate. What is slow makes requests wait, not fail to be sent: a request that finds no connection free
//! is sent late, and its latency counts from when it was due (no coordinated omission).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{To, rate_h1, rate_h2, schedule::Schedule};

/// How long answers may take after the last request was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) to: To,
    /// Requests a second.
    #[arg(long)]
    pub(crate) rate: f64,
    /// How long.
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Seconds at the beginning that do not count.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warm_up: f64,
    /// HTTP/2 with this many streams on each connection.
    #[arg(long)]
    pub(crate) streams: Option<usize>,
}

/// What is due, and what became of it.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) waiting: RefCell<VecDeque<Instant>>,
    from: Instant,
    open: Cell<u64>,
    nanos: RefCell<Vec<u32>>,
    failed: Cell<u64>,
    pub(crate) done: tokio::sync::Notify,
}

impl Books {
    /// A request that was due at `due` was answered in full.
    pub(crate) fn answered(&self, due: Instant, ok: bool) {
        self.open.set(self.open.get() - 1);
        if !ok {
            self.failed.set(self.failed.get() + 1);
        } else if due >= self.from {
            self.nanos.borrow_mut().push(u32::try_from(due.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        if self.open.get() == 0 {
            self.done.notify_one();
        }
    }
}

/// Sends what is due, on whatever connection is free.
pub(crate) trait Sender {
    /// Sends a request that was due at `due`, or gives it back when nothing is free.
    fn send(&self, due: Instant) -> bool;
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let books = Rc::new(Books {
        waiting: RefCell::default(),
        from: Instant::now() + Duration::from_secs_f64(args.warm_up),
        open: Cell::default(),
        nanos: RefCell::default(),
        failed: Cell::default(),
        done: tokio::sync::Notify::new(),
    });
    let sender: Rc<dyn Sender> = match args.streams {
        None => rate_h1::connect(args.to, &books).await?,
        Some(streams) => rate_h2::connect(args.to, streams, &books).await?,
    };
    let mut schedule = Schedule::new(args.rate)?;
    let end = Instant::now() + Duration::from_secs_f64(args.seconds + args.warm_up);
    let mut sent = 0_u64;
    loop {
        let due = schedule.next().await?;
        if due >= end {
            break;
        }
        sent += 1;
        books.open.set(books.open.get() + 1);
        if !sender.send(due) {
            books.waiting.borrow_mut().push_back(due);
        }
        if sent.is_multiple_of(64) {
            // When all is late nothing is waited for; answers must be read all the same.
            tokio::task::yield_now().await;
        }
    }
    while books.open.get() > 0 && timeout(LAST_ANSWERS, books.done.notified()).await.is_ok() {}
    Ok(summary(&books, sent))
}

fn summary(books: &Books, sent: u64) -> Value {
    let mut nanos = books.nanos.take();
    nanos.sort_unstable();
    let at = |per_mille: usize| {
        let place = (nanos.len() * per_mille / 1000).min(nanos.len().saturating_sub(1));
        f64::from(nanos.get(place).copied().unwrap_or_default()) / 1e6
    };
    json!({
        "sent": sent, "counted": nanos.len(), "failed": books.failed.get() + books.open.get(),
        "p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "max": at(1000),
    })
}
