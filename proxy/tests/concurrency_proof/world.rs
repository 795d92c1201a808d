//! Callers, the proxy's limit, and an application in a time of their own.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc, time::Duration};

use firebreak_crds::spec::Concurrency;
use firebreak_proxy::policy::concurrency::Limit;
use tokio::{
    sync::Semaphore,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep, sleep_until},
};

/// What a request takes on average; the times are exponential.
const SERVICE: Duration = Duration::from_millis(100);

/// Requests that come as a Poisson process, whether or not those before them were answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// So many times as much as the application can do.
    pub(crate) of_capacity: f64,
    /// Each must be answered within.
    pub(crate) deadline: Option<Duration>,
}

/// One run. The first load is there from the start, the others, and what makes the application slower, from ten seconds on.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    /// How many requests the application works on at once; more than these wait in it.
    pub(crate) servers: u32,
    /// One of twenty requests takes twenty times as long as the others.
    pub(crate) mixed: bool,
    pub(crate) loads: Vec<Load>,
    /// What is counted begins then, and lasts so long.
    pub(crate) begins: Duration,
    pub(crate) lasts: Duration,
    pub(crate) slower: f64,
    pub(crate) seed: u64,
    pub(crate) limited: bool,
}

impl Run {
    /// What the application can do, in requests a second.
    pub(crate) fn capacity(&self) -> f64 {
        f64::from(self.servers) / SERVICE.as_secs_f64()
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    name: &'static str,
    load: f64,
    pub(crate) came: usize,
    pub(crate) refused: usize,
    /// From a request's coming to its answer, of those that were let in.
    pub(crate) p99: Duration,
    pub(crate) answered_per_second: f64,
    /// The part of the deadlines that were met.
    pub(crate) met: f64,
    /// Least and largest limit.
    limits: (u32, u32),
}

#[derive(Default)]
struct Books {
    times: Vec<Duration>,
    came: usize,
    refused: usize,
    with_deadline: usize,
    met: usize,
    answered: usize,
    limits: Vec<u32>,
}

struct World {
    run: Run,
    began: Instant,
    limit: Arc<Limit>,
    servers: Semaphore,
    random: RefCell<fastrand::Rng>,
    books: RefCell<Books>,
}

/// When the other loads and the slowness begin.
const CHANGES: Duration = Duration::from_secs(10);

/// Runs it to its end.
pub(crate) fn run(run: Run) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = Rc::new(World {
            began: Instant::now(),
            limit: Limit::new(Concurrency::default(), Instant::now()),
            servers: Semaphore::new(run.servers as usize),
            random: RefCell::new(fastrand::Rng::with_seed(run.seed)),
            books: RefCell::default(),
            run,
        });
        for (place, load) in world.run.loads.iter().copied().enumerate() {
            let begins = if place == 0 { Duration::ZERO } else { CHANGES };
            spawn_local(Rc::clone(&world).callers(load, world.began + begins));
        }
        sleep_until(world.ends()).await;
        world.report()
    })
}

impl World {
    fn ends(&self) -> Instant {
        self.began + self.run.begins + self.run.lasts
    }

    fn is_counted(&self, came: Instant) -> bool {
        came >= self.began + self.run.begins && came < self.ends()
    }

    fn exponential(&self) -> f64 {
        -(1.0 - self.random.borrow_mut().f64()).ln()
    }

    /// How long this request takes, of the average.
    fn share(&self) -> f64 {
        if !self.run.mixed {
            1.0
        } else if self.random.borrow_mut().u8(..20) == 0 {
            20.0 / 1.95
        } else {
            1.0 / 1.95
        }
    }

    async fn callers(self: Rc<Self>, load: Load, begins: Instant) {
        let mut next = begins;
        loop {
            next += Duration::from_secs_f64(self.exponential() / (load.of_capacity * self.run.capacity()));
            sleep_until(next).await;
            spawn_local(Rc::clone(&self).request(load));
        }
    }

    async fn request(self: Rc<Self>, load: Load) {
        let came = Instant::now();
        let counted = self.is_counted(came);
        let deadline = load.deadline.map(|within| came + within);
        let place = if self.run.limited { Some(self.limit.acquire(deadline).await) } else { None };
        if counted {
            let mut books = self.books.borrow_mut();
            books.came += 1;
            books.with_deadline += usize::from(deadline.is_some());
            books.limits.push(self.limit.usage().limit);
            books.refused += usize::from(matches!(place, Some(Err(_))));
        }
        let mut place = match place {
            Some(Err(_)) => return,
            Some(Ok(place)) => Some(place),
            None => None,
        };
        let server = self.servers.acquire().await.unwrap();
        let slower = if self.began + CHANGES <= came { self.run.slower } else { 1.0 };
        sleep(SERVICE.mul_f64(self.exponential() * slower * self.share())).await;
        drop(server);
        let now = Instant::now();
        if let Some(place) = &mut place {
            place.answered(now);
        }
        let mut books = self.books.borrow_mut();
        books.answered += usize::from(self.is_counted(now));
        if counted {
            books.times.push(now - came);
            books.met += usize::from(deadline.is_some_and(|deadline| now <= deadline));
        }
    }

    fn report(&self) -> Report {
        let mut books = self.books.borrow_mut();
        books.times.sort_unstable();
        let p99 = books.times.get(books.times.len() * 99 / 100).copied().unwrap_or_default();
        let limits = (books.limits.iter().min().copied().unwrap_or(0), books.limits.iter().max().copied().unwrap_or(0));
        Report {
            name: self.run.name,
            load: self.run.loads.iter().map(|load| load.of_capacity).sum::<f64>() * self.run.slower,
            came: books.came,
            refused: books.refused,
            p99,
            answered_per_second: books.answered as f64 / self.run.lasts.as_secs_f64(),
            met: books.met as f64 / books.with_deadline.max(1) as f64,
            limits,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.refused as f64 / self.came.max(1) as f64 * 100.0;
        write!(
            f,
            "| {} | {:.2} | {} ms | {:.0} | {refused:.1} % | {} | {}..{} |",
            self.name,
            self.load,
            self.p99.as_millis(),
            self.answered_per_second,
            if self.met > 0.0 { format!("{:.2} %", self.met * 100.0) } else { String::new() },
            self.limits.0,
            self.limits.1
        )
    }
}
