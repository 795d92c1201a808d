//! What callers have sent and what became of it, as they saw it.

use std::{
    array, fmt,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use anyhow::ensure;

use crate::kind::Kind;

/// How many of a hundred requests must have had their right answer while nothing was wrong. The machine is a busy one, so that a
/// clock may run out now and then.
const RIGHT_WHILE_CALM: u64 = 97;
/// How many requests of a kind the calm must have seen, so that a share of them says something.
const CALM_REQUESTS: u64 = 10;

/// All of it, by kind of caller.
#[derive(Default)]
pub(crate) struct Tally {
    kinds: [Counts; Kind::ALL.len()],
    /// Odd while it is calm; a request that began and ended in one calm knew nothing else.
    turns: AtomicU64,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    unsure: AtomicU64,
    ends: [AtomicU64; End::ALL.len()],
    calm: AtomicU64,
    calm_right: AtomicU64,
}

/// A request that is under way.
#[must_use]
pub(crate) struct Sent {
    kind: Kind,
    turn: u64,
}

/// What became of a request, as its caller saw it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It had its right answer, and the whole of it.
    Right,
    /// Its caller left, as it had meant to: when the request had arrived, or in the middle of a right answer.
    Left,
    /// It was told that there is no answer.
    Failed,
    /// Its answer, or its connection, broke off.
    BrokenOff,
}

impl End {
    const ALL: [Self; 4] = [Self::Right, Self::Left, Self::Failed, Self::BrokenOff];

    fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Left => "left",
            Self::Failed => "failed",
            Self::BrokenOff => "broken off",
        }
    }

    fn is_good(self) -> bool {
        matches!(self, Self::Right | Self::Left)
    }
}

impl Tally {
    /// Calm begins, or ends.
    pub(crate) fn turn(&self) {
        self.turns.fetch_add(1, SeqCst);
    }

    /// One request more.
    pub(crate) fn send(&self, kind: Kind) -> Sent {
        self.kinds[kind as usize].sent.fetch_add(1, Relaxed);
        Sent { kind, turn: self.turns.load(SeqCst) }
    }

    /// It was not sent after all.
    pub(crate) fn not_sent(&self, sent: &Sent) {
        self.kinds[sent.kind as usize].sent.fetch_sub(1, Relaxed);
    }

    /// Nobody but the proxy knows whether it came: it broke off at a door that was being shut.
    pub(crate) fn unsure(&self, sent: &Sent) {
        self.kinds[sent.kind as usize].unsure.fetch_add(1, Relaxed);
    }

    /// It has come to its end.
    pub(crate) fn end(&self, sent: &Sent, end: End) {
        let counts = &self.kinds[sent.kind as usize];
        counts.ends[end as usize].fetch_add(1, Relaxed);
        if sent.turn % 2 == 1 && sent.turn == self.turns.load(SeqCst) {
            counts.calm.fetch_add(1, Relaxed);
            counts.calm_right.fetch_add(u64::from(end.is_good()), Relaxed);
        }
    }

    /// The fewest and the most requests of this kind that the proxy can have got.
    pub(crate) fn sent(&self, kind: Kind) -> (u64, u64) {
        let counts = &self.kinds[kind as usize];
        let sent = counts.sent.load(Relaxed);
        (sent - counts.unsure.load(Relaxed), sent)
    }

    /// All requests.
    pub(crate) fn total(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.sent(*kind).1).sum()
    }

    fn ended(&self, kind: Kind) -> [u64; End::ALL.len()] {
        array::from_fn(|end| self.kinds[kind as usize].ends[end].load(Relaxed))
    }

    /// Shows what became of the requests of each kind, and sees that enough of them were answered as they should be.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        println!("\n{:10} {:>8} {:>8} {:>8} {:>10}   while calm", "callers", "right", "left", "failed", "broken off");
        let mut wrong = Vec::new();
        for kind in Kind::ALL {
            let ([right, left, failed, broken], counts) = (self.ended(kind), &self.kinds[kind as usize]);
            let (calm, calm_right) = (counts.calm.load(Relaxed), counts.calm_right.load(Relaxed));
            println!("{:10} {right:>8} {left:>8} {failed:>8} {broken:>10}   {calm_right} of {calm}", kind.name());
            let (good, all) = (right + left, right + left + failed + broken);
            if good * 100 < all * kind.least_right() || good == 0 {
                wrong.push(format!("{}: {good} of {all}, at least {} in 100", kind.name(), kind.least_right()));
            }
            if calm < CALM_REQUESTS || calm_right * 100 < calm * RIGHT_WHILE_CALM {
                wrong.push(format!(
                    "{} while calm: {calm_right} of {calm}, at least {RIGHT_WHILE_CALM} in 100 of {CALM_REQUESTS}",
                    kind.name()
                ));
            }
        }
        ensure!(wrong.is_empty(), "too few requests were answered as they should be:\n{}", wrong.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent", self.total())?;
        for end in End::ALL {
            let count: u64 = Kind::ALL.iter().map(|kind| self.ended(*kind)[end as usize]).sum();
            write!(f, ", {count} {}", end.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_each(tally: &Tally, count: u64, end: End) {
        for kind in Kind::ALL {
            for _ in 0..count {
                tally.end(&tally.send(kind), end);
            }
        }
    }

    #[test]
    fn enough_right_answers_are_enough() {
        let tally = Tally::default();
        tally.turn();
        of_each(&tally, CALM_REQUESTS, End::Right);
        tally.judge().unwrap();
    }

    #[test]
    fn a_failure_for_each_request_is_not() {
        let tally = Tally::default();
        of_each(&tally, 100, End::Failed);
        tally.turn();
        of_each(&tally, CALM_REQUESTS, End::BrokenOff);
        let told = tally.judge().unwrap_err().to_string();
        for kind in Kind::ALL {
            assert!(told.contains(&format!("{}: 0 of 110", kind.name())), "{told}");
            assert!(told.contains(&format!("{} while calm: 0 of 10", kind.name())), "{told}");
        }
    }

    #[test]
    fn the_calm_is_judged_by_itself_and_only_what_it_saw_from_begin_to_end() {
        let tally = Tally::default();
        of_each(&tally, 1000, End::Right);
        let began_before = tally.send(Kind::Http1);
        tally.turn();
        tally.end(&began_before, End::Failed);
        of_each(&tally, CALM_REQUESTS, End::Left);
        tally.judge().unwrap();
        tally.end(&tally.send(Kind::Http2), End::Failed);
        let told = tally.judge().unwrap_err().to_string();
        assert!(told.contains("http2 while calm: 10 of 11") && !told.contains("http1"), "{told}");
    }
}
