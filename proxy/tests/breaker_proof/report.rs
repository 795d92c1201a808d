//! What a run's record comes to, and the table of it.

use std::fmt::Write;

use crate::{
    callee::{Cause, SERVERS},
    guard::{Kind, limits},
    world::{BEGINS, BIN, Bin, ENDS, Run, SECOND, bin},
};

/// Over how many bins what is answered is looked at: two seconds.
const WINDOW: usize = 20;
/// In how many bins the most is sought that the callee got: half a second.
const PEAK: usize = 5;
/// How long after the cause wasted work is counted.
const AFTER: u64 = 60 * SECOND;
/// When after its beginning the callee counts as ill to all callers' knowledge: a caller with a two-hundredth of the
/// traffic needs a while to see five failures.
const KNOWN: u64 = 5 * SECOND;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    /// Seconds after the cause's end from which on as good as everything is answered for good, if ever.
    pub(crate) recovered: Option<f64>,
    /// The most that the callee got in half a second after the cause, as a part of what it could do then.
    pub(crate) peak: f64,
    /// Work for callers that had left, as a part of all the callee could have worked: during the cause, and in the minute
    /// after it.
    pub(crate) wasted: [f64; 2],
    /// Tries a second that the callee got while everybody could know that it was ill.
    pub(crate) sent: f64,
    /// Probes a second while it was ill.
    pub(crate) probes: f64,
}

impl Report {
    /// Of one run.
    pub(crate) fn new(bins: &[Bin]) -> Self {
        let (begin, known, end) = (bin(BEGINS), bin(BEGINS + KNOWN), bin(ENDS));
        let after = &bins[end..bins.len() - 1];
        let peak = after.windows(PEAK).map(|bins| total(bins, |bin| bin.sent) / able(bins)).fold(0.0, f64::max);
        Self {
            recovered: recovered(answered(&bins[WINDOW..begin]) * 0.95, &after[..after.len() - WINDOW]),
            peak,
            wasted: [wasted(&bins[begin..end]), wasted(&bins[end..bin(ENDS + AFTER)])],
            sent: total(&bins[known..end], |bin| bin.sent) / seconds(end - known),
            probes: total(&bins[begin..end], |bin| bin.probes) / seconds(end - begin),
        }
    }

    /// The middle one of several, number by number.
    pub(crate) fn middle(reports: &[Self]) -> Self {
        let middle = |of: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = reports.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            recovered: Some(middle(&|report| report.recovered.unwrap_or(f64::INFINITY)))
                .filter(|time| time.is_finite()),
            peak: middle(&|report| report.peak),
            wasted: [0, 1].map(|when| middle(&|report| report.wasted[when])),
            sent: middle(&|report| report.sent),
            probes: middle(&|report| report.probes),
        }
    }
}

/// Probes a second of a fleet, at most, of which each costs so many when it looks: as often as a breaker can look during
/// the cause if each of its open times is as short as chance allows.
pub(crate) fn bound(callers: usize, each: u32) -> f64 {
    let (limits, mut spent, mut times) = (limits(), 0.0, 0u32);
    let lasts = (ENDS - BEGINS) as f64 / SECOND as f64;
    loop {
        spent += limits.open_time(times + 1, 0.0).as_secs_f64();
        if spent > lasts {
            return callers as f64 * f64::from(times * each) / lasts;
        }
        times += 1;
    }
}

/// The table's head.
pub(crate) const HEAD: &str = "\
| callers | breaker | 95 % again after | most in 500 ms, of what it can do | wasted during | and in 60 s after | tries/s while ill | probes/s | at most |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// One line of the table.
pub(crate) fn line(run: &Run, report: &Report) -> String {
    let recovered = report.recovered.map_or_else(|| "never".to_owned(), |time| format!("{time:.0} s"));
    let callers = if run.kind == Kind::None { "any".to_owned() } else { run.callers.to_string() };
    let mut line = format!("| {callers} | {} | {recovered} | {:.1} |", run.kind.name(), report.peak);
    let [during, after] = report.wasted.map(|part| part * 100.0);
    let _ = write!(line, " {during:.0} % | {after:.0} % | {:.0} |", report.sent);
    // Whoever opens fully begins anew with the shortest open time when it trips again, so no bound holds for it.
    let most = match (run.kind, run.scenario.cause) {
        (Kind::None | Kind::Timed, _) => return line + " | |",
        (Kind::OneProbe, _) => return format!("{line} {:.1} | |", report.probes),
        (_, Cause::Hangs) => bound(run.callers, 1),
        (_, Cause::Slows(_)) => bound(run.callers, limits().probes),
    };
    let _ = write!(line, " {:.1} | {most:.1} |", report.probes);
    line
}

/// From when on no window has less than `least` of its requests answered.
fn recovered(least: f64, after: &[Bin]) -> Option<f64> {
    let bad = after.windows(WINDOW).rposition(|bins| answered(bins) < least);
    let first = bad.map_or(0, |bad| bad + 1);
    (first + WINDOW <= after.len()).then(|| seconds(first))
}

fn answered(bins: &[Bin]) -> f64 {
    total(bins, |bin| bin.answered) / total(bins, |bin| bin.arrived)
}

fn wasted(bins: &[Bin]) -> f64 {
    // What ends in this time was begun before it, so there can be a little more of it than time.
    (bins.iter().map(|bin| bin.wasted as f64).sum::<f64>() / (SERVERS * bins.len()) as f64 / BIN as f64).min(1.0)
}

fn able(bins: &[Bin]) -> f64 {
    bins.iter().map(|bin| bin.capacity).sum::<f64>() * seconds(1)
}

fn total(bins: &[Bin], of: impl Fn(&Bin) -> u32) -> f64 {
    bins.iter().map(|bin| f64::from(of(bin))).sum()
}

fn seconds(bins: usize) -> f64 {
    bins as f64 * BIN as f64 / SECOND as f64
}
