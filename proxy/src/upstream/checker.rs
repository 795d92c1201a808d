//! Checks the health of endpoints, in one place for the whole proxy: the control thread, which has no part in requests.
//!
//! Each endpoint has a task of its own. Its checks are apart by the interval of the policy, give or take a tenth, so that many
//! proxies that got the same config at the same time do not ask together for long.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::check::ask;
use crate::{policy::health::Health, telemetry::metrics::CalleeMetrics};

/// Checks under way at a time; others wait for their turn, which does not count as their time.
const TOGETHER: usize = 64;

/// An endpoint whose health is to be checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is checked, and what came of it.
    pub health: Arc<Health>,
    /// What is counted about its callee.
    pub metrics: Arc<CalleeMetrics>,
}

/// Checks all that the newest list names, until there will be no other.
pub async fn run(mut lists: watch::Receiver<Arc<[Checked]>>) {
    let places = Arc::new(Semaphore::new(TOGETHER));
    let mut tasks = JoinSet::new();
    let mut running: HashMap<usize, AbortHandle> = HashMap::new();
    loop {
        let list = Arc::clone(&lists.borrow_and_update());
        let mut before = std::mem::take(&mut running);
        for checked in list.iter() {
            let key = Arc::as_ptr(&checked.health) as usize;
            // The task holds the health, so another one cannot come to its place in memory meanwhile.
            let same = before.remove(&key);
            let task = same.unwrap_or_else(|| tasks.spawn(check(checked.clone(), Arc::clone(&places))));
            running.insert(key, task);
        }
        for gone in before.into_values() {
            gone.abort();
        }
        while tasks.try_join_next().is_some() {}
        if lists.changed().await.is_err() {
            return;
        }
    }
}

async fn check(checked: Checked, places: Arc<Semaphore>) {
    let interval = checked.health.check().interval();
    sleep(part(interval, 0.0, 0.1)).await;
    loop {
        let next = Instant::now() + part(interval, 0.9, 1.1);
        // It is never closed.
        let Ok(place) = places.acquire().await else { return };
        let result = ask(checked.health.check(), checked.address).await;
        drop(place);
        checked.metrics.checked(result.is_ok());
        if checked.health.checked(result.is_ok()) {
            let (service, endpoint) = (&*checked.metrics.service, checked.address);
            match result {
                Ok(()) => tracing::info!(service, %endpoint, "an endpoint is well"),
                Err(error) => tracing::warn!(service, %endpoint, %error, "an endpoint is ill and gets no requests"),
            }
        }
        sleep_until(next).await;
    }
}

fn part(interval: Duration, low: f64, high: f64) -> Duration {
    interval.mul_f64(low + (high - low) * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use firebreak_crds::spec::{HealthCheck, TcpCheck};

    use super::*;
    use crate::{
        net::connections::Connections,
        telemetry::metrics::{Direction, Registry},
    };

    #[tokio::test]
    async fn whoever_is_no_longer_on_the_list_is_no_longer_checked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Registry::new(1, Connections::default()).callee(Direction::Outbound, "shop/a", Some(80));
        let checked = || Checked {
            address: listener.local_addr().unwrap(),
            health: Arc::new(Health::new(HealthCheck { tcp: Some(TcpCheck {}), ..HealthCheck::default() }, None)),
            metrics: Arc::clone(&metrics),
        };
        let (one, other) = (checked(), checked());
        let lists = watch::Sender::new(Arc::from([one.clone(), other.clone()]));
        let running = tokio::spawn(run(lists.subscribe()));
        for _ in 0..2 {
            listener.accept().await.unwrap();
        }
        lists.send_replace(Arc::from([other.clone()]));
        while Arc::strong_count(&one.health) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&other.health), 3, "here, in the list, and in its task");
        drop(lists);
        running.await.unwrap();
    }
}
