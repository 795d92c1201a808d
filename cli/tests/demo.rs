//! `firebreak demo` as its users run it.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

/// To start a process and to read what it wrote, on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
    after: Duration,
}

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firebreak"));
    command.arg("demo").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One demo at a time: each measures this machine, and would measure the others.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Runs it to its end, `meanwhile` with its process id.
fn ended(command: &mut Command, meanwhile: impl FnOnce(u32)) -> Ended {
    let _alone = ALONE.blocking_lock();
    let begun = Instant::now();
    let child = command.spawn().unwrap();
    meanwhile(child.id());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr), after: begun.elapsed() }
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

#[test]
fn every_promise_holds_and_every_request_is_counted() {
    let demo = ended(&mut demo(&["--for", "14s", "--json"]), |_| {});
    let report: Value = serde_json::from_str(&demo.out).unwrap();
    let checks = |part: &Value| part["checks"].as_array().unwrap().clone();
    let parts = report["parts"].as_array().unwrap();
    let broken: Vec<Value> = parts.iter().flat_map(checks).filter(|check| check["holds"] != true).collect();
    assert_eq!((demo.code, broken.as_slice(), &report["holds"]), (Some(0), [].as_slice(), &true.into()));
    assert_eq!((parts.len(), &report["unplayed"]), (6, &Value::Array(Vec::new())));
    for part in parts {
        let fates: u64 = part["fates"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(part["sent"], fates, "{part:#}");
        assert!(fates >= 20, "{part:#}");
    }
    assert_eq!(parts[1]["fates"], serde_json::json!({"timed_out": 20}));
    assert_eq!(parts[2]["fates"], serde_json::json!({"refused_by_bulkhead": 120, "succeeded": 100}));
    // A hundred while it is observed, of which none is refused, and five of the hundred when it is enforced.
    assert_eq!(parts[5]["fates"], serde_json::json!({"failed": 105, "refused_by_breaker": 95}));
    let told = |what: &str| checks(&parts[5]).into_iter().find(|check| check["what"] == what).unwrap();
    assert_eq!(told("observed: would have been left alone")["seen"], "95");
    assert_eq!(told("enforced: left alone, as the counters said")["seen"], "95");
    assert!(demo.after < Duration::from_secs(14) + GRACE, "{:?}", demo.after);
}

/// The rows of the last table: the part, a count for each fate, and the total.
fn rows(out: &str) -> Vec<(String, Vec<u64>)> {
    let (_, closing) = out.split_once("What became of the requests to service2\n").unwrap();
    let lines =
        closing.lines().skip_while(|line| !line.starts_with('╞')).skip(1).take_while(|line| line.starts_with('│'));
    let row = |line: &str| {
        let mut cells = line.trim_matches('│').split('┆').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap(), cells.map(|cell| cell.parse().unwrap()).collect())
    };
    lines.map(row).collect()
}

#[test]
fn the_last_table_adds_up_and_is_plain_in_a_pipe() {
    let demo = ended(&mut demo(&["--for", "20s"]), |_| {});
    assert_eq!((demo.code, demo.err.as_str()), (Some(0), ""), "{}", demo.out);
    assert!(!demo.out.contains('\x1b'), "colours are for terminals: {}", demo.out);
    let rows = rows(&demo.out);
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["1", "2", "3", "4", "5", "6", "all"]);
    let mut all = vec![0; rows[0].1.len()];
    for (name, counts) in &rows {
        let (total, fates) = counts.split_last().unwrap();
        assert_eq!(fates.iter().sum::<u64>(), *total, "part {name}");
        // What the part told of itself when it was over, which its callers had counted.
        assert!(name == "all" || demo.out.contains(&format!("     {total} requests in ")), "part {name}: {total}");
        if name != "all" {
            all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    assert_eq!(rows[6].1, all);
    assert_eq!(rows[2].1.last(), Some(&220));
    for (number, words) in [
        (1, "Retries"),
        (2, "timeout of each try"),
        (3, "hangs holds 100"),
        (4, "Faults below retries"),
        (5, "left alone"),
        (6, "nothing changes"),
    ] {
        let lesson = demo.out.lines().find(|line| line.starts_with(&format!("{number}  "))).unwrap();
        assert!(lesson.contains(words), "{lesson}");
    }
    assert!(demo.out.contains("\n     now with mode: Enforce\n"), "{}", demo.out);
    assert!(demo.out.contains("\nEvery promise held.\n"), "{}", demo.out);
}

#[test]
fn colours_come_where_they_are_asked_for_and_time_is_kept_on_a_machine_that_stands_still() {
    let demo = ended(demo(&["--for", "14s"]).env("CLICOLOR_FORCE", "1"), |process| {
        // Time itself is what is tested here: a first part that has begun, then a machine that does nothing.
        thread::sleep(Duration::from_millis(500));
        signal("-STOP", process);
        thread::sleep(Duration::from_secs(11));
        signal("-CONT", process);
    });
    // What is left is too little for a part whose last request takes all that its policy allows. Whether the first part is over
    // depends on what its requests were doing.
    assert_eq!(demo.code, Some(2), "{}", demo.out);
    assert!(demo.after < Duration::from_secs(14) + GRACE, "{:?}", demo.after);
    let last = demo.out.lines().last().unwrap();
    assert!(last.starts_with("\x1b[1m\x1b[31m"), "{last:?}");
    assert!(last.contains("14s were too little for this machine: "), "{last:?}");
    assert!(last.ends_with(" of 6 parts were over in time. Try firebreak demo --for 28s.\x1b[0m"), "{last:?}");
    assert!(!demo.out.contains("2/5"), "{}", demo.out);
}

#[test]
fn a_time_that_does_not_fit_is_refused() {
    for length in ["13s", "11m"] {
        let refused = ended(&mut demo(&["--for", length]), |_| {});
        assert_eq!(refused.code, Some(2));
        let why =
            format!("invalid value '{length}' for '--for <DURATION>': must be from 14s to 10m: the six parts take 10s");
        assert!(refused.err.contains(&why), "{}", refused.err);
    }
    assert!(ended(&mut demo(&["--for", "20"]), |_| {}).err.contains("is not a duration"));
    assert!(ended(&mut demo(&["--help"]), |_| {}).out.contains("from 14s to 10m"));
}
