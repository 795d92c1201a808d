//! The limit on requests at once on trial, before an application that can do so much and no more.
//!
//! A simulation, in a time of its own: what is to be shown takes minutes, and must come out the same each time. Only the world is made
//! up; the limit and its queue are the proxy's. The table (`-- --nocapture`) stands in `docs/inbound.md`.
#![allow(missing_docs, reason = "tests are read, not called")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_precision_loss, reason = "no number here needs more than 52 bits")]

mod world;

use std::time::Duration;

use crate::world::{Load, Report, Run, run};

const SEEDS: [u64; 3] = [1, 2, 3];
const LIGHT: Load = Load { of_capacity: 0.5, deadline: None };

/// The same with each seed.
fn each(run_with: impl Fn(u64) -> Run) -> Vec<Report> {
    let reports: Vec<_> = SEEDS.into_iter().map(|seed| run(run_with(seed))).collect();
    for report in &reports {
        println!("{report}");
    }
    reports
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn quiet(seed: u64) -> Run {
    Run {
        name: "half of what it can do",
        servers: 16,
        mixed: false,
        loads: vec![LIGHT],
        begins: seconds(10),
        lasts: seconds(20),
        slower: 1.0,
        seed,
        limited: true,
    }
}

#[test]
fn under_three_times_too_much_who_is_let_in_is_answered_soon_and_nothing_is_wasted() {
    for seed in SEEDS {
        let baseline = run(quiet(seed));
        let overload = |limited| {
            let loads = vec![LIGHT, Load { of_capacity: 2.5, deadline: None }];
            let name = if limited { "three times as much" } else { "three times as much, no limit" };
            run(Run { name, loads, begins: seconds(20), lasts: seconds(60), limited, ..quiet(seed) })
        };
        let (with, without) = (overload(true), overload(false));
        println!("{baseline}\n{with}\n{without}");
        assert!(with.p99 <= baseline.p99 * 2, "{with}");
        assert!(with.answered_per_second >= quiet(seed).capacity() * 0.9, "{with}");
        assert!(without.p99 > baseline.p99 * 20, "{without}");
    }
}

#[test]
fn a_load_that_it_can_do_is_not_refused() {
    // Near to what it can do chance alone makes queues: there one of ten thousand may find too long a one.
    for (of_capacity, at_most) in [(0.3, 0), (0.5, 0), (0.8, 1)] {
        let steady = |seed| {
            let loads = vec![Load { of_capacity, deadline: None }];
            Run { name: "steady, a quarter of an hour", loads, lasts: seconds(900), ..quiet(seed) }
        };
        for report in each(steady) {
            assert!(report.refused * 10_000 <= report.came * at_most, "{report}");
        }
    }
}

#[test]
fn deadlines_that_fit_alone_are_met_while_the_rest_is_too_much() {
    let mixed = |seed| {
        let with_deadline = Load { of_capacity: 0.5, deadline: Some(seconds(1)) };
        let loads = vec![with_deadline, Load { of_capacity: 2.5, deadline: None }];
        Run {
            name: "half with deadlines, and five times that without",
            loads,
            begins: seconds(20),
            lasts: seconds(60),
            ..quiet(seed)
        }
    };
    for report in each(mixed) {
        assert!(report.met >= 0.99, "{report}");
        assert!(report.answered_per_second >= quiet(1).capacity() * 0.9, "{report}");
    }
}

#[test]
fn an_application_that_is_slower_for_good_is_not_choked() {
    for slower in [1.8, 3.0] {
        let deployed = |seed| {
            let loads = vec![Load { of_capacity: 0.75 / slower, deadline: None }];
            // What is counted begins half a minute after the deploy.
            Run {
                name: "slower since a deploy",
                loads,
                begins: seconds(60),
                lasts: seconds(300),
                slower,
                ..quiet(seed)
            }
        };
        for report in each(deployed) {
            assert!(report.refused * 1_000 <= report.came, "{report}");
        }
    }
}

#[test]
fn an_application_that_has_just_begun_is_not_refused_what_it_can_do() {
    for (servers, mixed) in [(4, false), (16, false), (100, false), (400, false), (16, true), (100, true)] {
        let cold = |seed| {
            let loads = vec![Load { of_capacity: 0.8, deadline: None }];
            let name = if mixed { "from the start, some take long" } else { "from the start" };
            Run { name, servers, mixed, loads, begins: seconds(0), lasts: seconds(20), ..quiet(seed) }
        };
        for report in each(cold) {
            assert!(report.refused * 20 <= report.came, "{report}");
        }
    }
}

#[test]
fn a_load_that_grows_within_what_it_can_do_is_not_refused() {
    for servers in [16, 100, 400] {
        let step = |seed| {
            let loads = vec![Load { of_capacity: 0.2, deadline: None }, Load { of_capacity: 0.6, deadline: None }];
            let name = "four times as much at once";
            Run { name, servers, loads, begins: seconds(10), lasts: seconds(20), ..quiet(seed) }
        };
        for report in each(step) {
            assert!(report.refused * 50 <= report.came, "{report}");
        }
    }
}
