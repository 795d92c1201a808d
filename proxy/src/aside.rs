//! Work that is not to hold up traffic: on a thread of its own, that runs when no other has anything to do.
//!
//! A pod may have one processor for all of the proxy. Two threads of equal rank take turns of milliseconds there, which is as long as
//! putting a large config in force takes, and much longer than a request does. Linux lets a thread of the rank `SCHED_IDLE` be
//! interrupted as soon as another wakes up. It is not starved: where the processor is never idle, it gets a three-hundredth.

use std::{panic::resume_unwind, thread};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Does `work` on a thread of its own called `name`, and waits for it; where no thread is to be had, on this one.
pub fn aside<T: Send + Default>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let (mut work, mut result) = (Some(work), None);
    thread::scope(|scope| {
        let run = || {
            give_way();
            result = work.take().map(|work| work());
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
        if let Some(Err(panic)) = thread.ok().map(thread::ScopedJoinHandle::join) {
            resume_unwind(panic);
        }
    });
    result.or_else(|| work.map(|work| work())).unwrap_or_default()
}

fn give_way() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        // The work is done all the same, and requests may wait for it.
        tracing::debug!(?error, "a thread could not be made to give way");
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, thread::current};

    use thread_priority::thread_schedule_policy;

    use super::*;

    #[test]
    fn it_is_done_by_a_thread_that_gives_way() {
        let seen = aside("aside", || {
            let name = current().name().map(ToOwned::to_owned);
            Some((name, thread_schedule_policy().unwrap()))
        });
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(seen, Some((Some("aside".to_owned()), idle)));
        assert_ne!(thread_schedule_policy().unwrap(), idle, "and only by that");
    }

    #[test]
    fn a_panic_is_the_callers() {
        assert!(catch_unwind(|| aside::<()>("aside", || panic!("on purpose"))).is_err());
    }
}
