//! A future that is polled only when somebody has woken it, and not whenever its task is polled.
//!
//! A connection's task is woken by every read, and it also waits for what hardly ever happens: that the proxy ends, that the
//! connection is to be cut, that it has been at rest. To ask all of these each time costs locks and atomics for every request.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use pin_project_lite::pin_project;

pin_project! {
    /// See [`when_woken`].
    #[derive(Debug)]
    pub struct WhenWoken<F> {
        #[pin]
        future: F,
        bell: Option<Bell>,
    }
}

/// Wakes the task, and notes for whom.
#[derive(Debug)]
struct Bell {
    ring: Arc<Ring>,
    /// Of `ring`.
    waker: Waker,
}

#[derive(Debug)]
struct Ring {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, so that it sees it.
        self.rung.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

/// A future that is polled once, and then only when it was woken itself.
pub fn when_woken<F: Future>(future: F) -> WhenWoken<F> {
    WhenWoken { future, bell: None }
}

impl<F: Future> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Whoever is polled by another task than before must be woken through that one.
        let bell = match this.bell.take_if(|bell| !bell.ring.task.will_wake(cx.waker())) {
            None => this.bell.get_or_insert_with(|| Bell::new(cx.waker())),
            Some(_) => this.bell.insert(Bell::new(cx.waker())),
        };
        if !bell.ring.rung.load(SeqCst) || !bell.ring.rung.swap(false, SeqCst) {
            return Poll::Pending;
        }
        this.future.poll(&mut Context::from_waker(&bell.waker))
    }
}

impl Bell {
    /// It rings at first, since what was never polled wakes nobody.
    fn new(task: &Waker) -> Self {
        let ring = Arc::new(Ring { rung: AtomicBool::new(true), task: task.clone() });
        Self { waker: Waker::from(Arc::clone(&ring)), ring }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc};

    use tokio::{
        sync::Notify,
        task::{LocalSet, yield_now},
    };

    use super::*;

    #[tokio::test]
    async fn it_is_polled_once_and_then_for_each_call() {
        let (polls, notify) = (Cell::new(0), Notify::new());
        let mut inner = pin!(notify.notified());
        let mut future = pin!(when_woken(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            inner.as_mut().poll(cx)
        })));
        for _ in 0..5 {
            let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            yield_now().await;
        }
        assert_eq!(polls.get(), 1);
        notify.notify_one();
        future.await;
        assert_eq!(polls.get(), 2);
    }

    #[tokio::test]
    async fn who_takes_it_over_is_woken() {
        let notify = Rc::new(Notify::new());
        let awaited = Rc::clone(&notify);
        let mut future = Box::pin(when_woken(async move { awaited.notified().await }));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let tasks = LocalSet::new();
        let task = tasks.spawn_local(future);
        tasks
            .run_until(async {
                yield_now().await;
                notify.notify_one();
                task.await.unwrap();
            })
            .await;
    }
}
