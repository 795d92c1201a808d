//! The story of `firebreak demo` on a real cluster: helm install, a label, the talk's three examples, requests between pods, and
//! a table of what became of them, as the caller's proxy counted it. It fails when a part of the story did not end as it is told.
//! Run by `tests/cluster/demo` and `tests/run`.

use std::thread;

use firebreak_tests::{
    app::{behaviour::Behaviour, call::Report},
    chance,
    cluster::{
        Namespace,
        app::{App, manifest},
        install,
        metrics::Metrics,
    },
    wait,
};

/// Fates as the proxy names them, and as the table does.
const FATES: [(&str, &str); 7] = [
    ("succeeded", "succeeded"),
    ("succeeded_after_retry", "after retry"),
    ("failed", "failed"),
    ("timed_out", "timed out"),
    ("refused_by_bulkhead", "refused"),
    ("injected", "injected"),
    ("cancelled", "caller left"),
];

/// No request takes longer under the talk's first example: its three seconds, and a little for a busy machine.
const IN_TIME: u64 = 3500;

/// A part of the story: what is wrong with service2, which examples are applied against it, and what they promise.
struct Part {
    title: &'static str,
    examples: &'static [&'static str],
    behaviour: Behaviour,
    load: &'static str,
    promise: &'static str,
    is_kept: fn(&Row) -> bool,
}

/// What became of its requests.
struct Row {
    title: &'static str,
    fates: Vec<f64>,
    tries: f64,
    report: Report,
}

fn parts() -> [Part; 4] {
    const TALK_1: &str = "talk-1-timeouts-and-retries.yaml";
    let well = Behaviour::default;
    [
        Part {
            title: "30 % of tries answered 503",
            examples: &[TALK_1],
            behaviour: Behaviour { status: 503, percent: 30, ..well() },
            load: "--count 2000 --concurrency 10",
            promise: "one in a hundred requests fails, or fewer",
            is_kept: |row| chance::expected(2000, 0.3_f64.powi(4)).contains(&(2000 - row.report.with("200"))),
        },
        Part {
            title: "no answer, ever",
            examples: &[TALK_1],
            behaviour: Behaviour { hang: true, ..well() },
            load: "--count 20 --concurrency 20",
            promise: "every request is given up in time",
            is_kept: |row| row.report.slowest < IN_TIME && row.is_of("timed_out", 20.0),
        },
        Part {
            title: "no answer, behind a bulkhead",
            examples: &["talk-2-bulkhead.yaml"],
            behaviour: Behaviour { hang: true, ..well() },
            // Longer than the five seconds after which a question to the DNS that was lost is asked again.
            load: "--count 220 --concurrency 220 --patience 7s",
            promise: "a hundred wait for service2, the others are refused",
            is_kept: |row| row.is_of("refused_by_bulkhead", 120.0) && row.is_of("cancelled", 100.0),
        },
        Part {
            title: "a fault on purpose",
            examples: &[TALK_1, "talk-3-faults.yaml"],
            behaviour: well(),
            load: "--count 1000 --concurrency 50",
            promise: "retries make up for most of it, and in time",
            is_kept: |row| {
                let failed = row.report.sent - row.report.with("200");
                row.report.slowest < IN_TIME && chance::expected(1000, 0.6_f64.powi(4)).contains(&failed)
            },
        },
    ]
}

fn main() -> anyhow::Result<()> {
    say("helm install firebreak charts/firebreak --namespace firebreak-system --create-namespace");
    install::firebreak()?;
    say("kubectl label namespace shop firebreak.dev/inject=enabled firebreak.dev/faults=enabled");
    let shop = Namespace::enabled("shop")?;
    say("kubectl apply: web, service2 and service3, one pod each");
    shop.apply(&["web", "service2", "service3"].map(manifest).join("---"))?;
    let [web, service2, service3] = ["web", "service2", "service3"].map(|name| App::named(&shop, name));
    web.ready()?;
    service2.ready_for(&web)?;
    service3.ready_for(&web)?;
    println!("\n{}", shop.kubectl(&["get", "pods"])?);
    let parts = parts();
    let rows = parts.iter().map(|part| play(&shop, part)).collect::<anyhow::Result<Vec<_>>>()?;
    table(&rows);
    println!("Through all of it, service3 answered every request.");
    for (part, row) in parts.iter().zip(&rows) {
        anyhow::ensure!((part.is_kept)(row), "{}: it is not so that {}: {:?}", part.title, part.promise, row.report);
        anyhow::ensure!(row.adds_up(), "{}: the table does not account for every request: {:?}", part.title, row.fates);
    }
    Ok(())
}

impl Row {
    /// Whether so many requests met this fate.
    fn is_of(&self, fate: &str, count: f64) -> bool {
        FATES.iter().zip(&self.fates).any(|((name, _), found)| *name == fate && (found - count).abs() < 0.5)
    }

    /// Whether each request that was sent has a fate in the table.
    fn adds_up(&self) -> bool {
        u32::try_from(self.report.sent).is_ok_and(|sent| (self.fates.iter().sum::<f64>() - f64::from(sent)).abs() < 0.5)
    }
}

fn say(command: &str) {
    println!("$ {command}");
}

fn play(shop: &Namespace, part: &Part) -> anyhow::Result<Row> {
    let [web, service2] = ["web", "service2"].map(|name| App::named(shop, name));
    service2.behave(&part.behaviour)?;
    for example in part.examples {
        say(&format!("kubectl apply --filename examples/{example}"));
        shop.apply_example(example)?;
    }
    shop.kubectl(&["wait", "tpol,fspec", "--all", "--for=condition=Published", "--timeout=10s"])?;
    let entries = 1 + part.examples.len(); // service2 itself, and a policy or fault for each example
    wait::until("the proxy has taken it up", || {
        Ok(web.proxy_config()?["config"]["entries"].as_array().is_some_and(|found| found.len() == entries))
    })?;
    let before = web.metrics()?;
    let report = thread::scope(|scope| -> anyhow::Result<_> {
        let load = scope.spawn(|| web.call("http://service2/", part.load));
        let others = web.call("http://service3/", "--count 100")?;
        anyhow::ensure!(others.with("200") == 100, "service3 was not spared: {others:?}");
        load.join().map_err(|_| anyhow::anyhow!("the caller's thread ended"))?
    })?;
    wait::until("what the caller has left is counted", || {
        Ok(web.metrics()?.sum("firebreak_bulkhead_in_use", &[("resource", "requests")]) < 0.5)
    })?;
    let after = web.metrics()?;
    shop.kubectl(&["delete", "tpol,fspec", "--all"])?;
    wait::until("the proxy has let go of it", || {
        Ok(web.proxy_config()?["config"]["entries"].as_array().is_none_or(Vec::is_empty))
    })?;
    Ok(row(part.title, report, &before, &after, &format!("{}/service2", shop.name)))
}

fn row(title: &'static str, report: Report, before: &Metrics, after: &Metrics, service: &str) -> Row {
    let since = |name, label| {
        let labels = [("direction", "outbound"), ("service", service), label];
        after.sum(name, &labels) - before.sum(name, &labels)
    };
    let fates = FATES.iter().map(|(fate, _)| since("firebreak_requests_total", ("fate", fate))).collect();
    Row { title, fates, tries: since("firebreak_attempts_total", ("service", service)), report }
}

fn table(rows: &[Row]) {
    print!("\n{:<30}{:>8}", "service2", "sent");
    for (_, title) in FATES {
        print!("{title:>13}");
    }
    println!("{:>8}{:>12}", "tries", "slowest");
    for row in rows {
        print!("{:<30}{:>8}", row.title, row.report.sent);
        for count in &row.fates {
            print!("{count:>13}");
        }
        println!("{:>8}{:>9} ms", row.tries, row.report.slowest);
    }
    println!();
}
