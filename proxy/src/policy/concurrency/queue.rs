//! Who waits before the application, and who is next.
//!
//! Next is who has a deadline that can still be met, the nearest first; then those without a deadline, the newest first, because under
//! overload who came last is the likeliest to be waited for; last those whose deadline cannot be met any more, who would be worked for
//! in vain. Who is last is also who makes room when too many wait. Nobody waits longer than the queue's time, so who is never next is
//! refused soon.

use std::time::Duration;

use tokio::time::Instant;

/// Those who wait.
#[derive(Debug)]
pub struct Queue<T>(Vec<Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    ticket: u64,
    deadline: Option<Instant>,
    item: T,
}

/// The smaller, the sooner: a class, and the order in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    CanBeMet(Instant),
    None { newest: std::cmp::Reverse<u64> },
    Late(std::cmp::Reverse<Instant>),
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Queue<T> {
    /// Adds who came with the ticket `ticket`, of which later ones are larger; or, where `most` wait, gives back who is last: another,
    /// or the one that came. A request takes `takes`.
    pub fn push(
        &mut self,
        (ticket, deadline, item): (u64, Option<Instant>, T),
        most: usize,
        now: Instant,
        takes: Duration,
    ) -> Option<T> {
        self.0.push(Waiting { ticket, deadline, item });
        if self.0.len() <= most {
            return None;
        }
        let last = (0..self.0.len()).max_by_key(|place| self.0[*place].rank(now, takes))?;
        Some(self.0.swap_remove(last).item)
    }

    /// Takes out who is next.
    pub fn pop(&mut self, now: Instant, takes: Duration) -> Option<T> {
        let next = (0..self.0.len()).min_by_key(|place| self.0[*place].rank(now, takes))?;
        Some(self.0.swap_remove(next).item)
    }

    /// Takes out who came with that ticket, if they still wait.
    pub fn remove(&mut self, ticket: u64) {
        self.0.retain(|waiting| waiting.ticket != ticket);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A deadline is far off that is more than so many times away as requests take now, and this.
const FAR_OFF: u32 = 10;
const AT_LEAST: Duration = Duration::from_secs(5);

impl<T> Waiting<T> {
    fn rank(&self, now: Instant, takes: Duration) -> Rank {
        match self.deadline {
            // One that is far off says no more than none, and would go before those for ever.
            Some(deadline) if deadline > now + takes * FAR_OFF + AT_LEAST => {
                Rank::None { newest: std::cmp::Reverse(self.ticket) }
            }
            Some(deadline) if now + takes <= deadline => Rank::CanBeMet(deadline),
            Some(deadline) => Rank::Late(std::cmp::Reverse(deadline)),
            None => Rank::None { newest: std::cmp::Reverse(self.ticket) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: Duration = Duration::from_millis(20);

    #[test]
    fn deadlines_that_can_be_met_come_first_and_those_that_cannot_last() {
        let now = Instant::now();
        let at = |millis| Some(now + Duration::from_millis(millis));
        let mut queue = Queue::default();
        let come = [
            (None, "old"),
            (at(90), "later"),
            (at(10), "late"),
            (at(50), "soon"),
            (None, "new"),
            (at(15), "less late"),
        ];
        for (ticket, (deadline, name)) in (0..).zip(come) {
            assert_eq!(queue.push((ticket, deadline, name), 9, now, TAKES), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now, TAKES)).collect();
        assert_eq!(order, ["soon", "later", "new", "old", "less late", "late"]);
    }

    #[test]
    fn who_is_last_makes_room() {
        let now = Instant::now();
        let at = |millis| Some(now + Duration::from_millis(millis));
        let mut queue = Queue::default();
        assert_eq!(queue.push((0, None, "old"), 2, now, TAKES), None);
        assert_eq!(queue.push((1, None, "new"), 2, now, TAKES), None);
        assert_eq!(queue.push((2, at(10), "late"), 2, now, TAKES), Some("late"));
        assert_eq!(queue.push((3, at(30), "soon"), 2, now, TAKES), Some("old"));
        // By then the deadline of who waits cannot be met any more.
        let then = now + Duration::from_millis(20);
        assert_eq!(queue.push((4, None, "newest"), 2, then, TAKES), Some("soon"));
        queue.remove(1);
        assert_eq!((queue.pop(then, TAKES), queue.len()), (Some("newest"), 0));
        assert_eq!(queue.push((5, at(900), "nobody may wait"), 0, then, TAKES), Some("nobody may wait"));
    }
}
