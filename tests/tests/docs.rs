//! The handbook says what the code does: tables equal their constants, every YAML is what `firebreak lint` says of it, every
//! link leads somewhere.
//!
//! A page that has gone stale is worse than none, and nobody finds it by reading. So what can be compared is compared here:
//! whoever changes a default, a reason or a metric is told which page to change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, ensure};
use firebreak_crds::spec::{self, CircuitBreaker, Concurrency, defaults};
use firebreak_proxy::{
    config::{endpoints::FromConfig, publish::Publisher},
    net::connections::Connections,
    policy::{
        balance::{Endpoint, Load},
        breaker::{self, Breaker, Outcome, Peers},
        bulkhead::{Gate, Limits},
        concurrency::Limit,
        shadow::{Observer, Shadow, Would},
    },
    snapshot::{Extra, Plan, Policy},
    telemetry::{
        exposition,
        metrics::{Breakers, CalleeMetrics, Direction, FaultKind, Registry},
    },
    upstream::keep_alive::SEEN,
    verdict::{AttemptOutcome, Fate, REASONS, Reason, advice::DOMAINS},
};
use firebreak_tests::{program, root};
use tokio::time::Instant;

/// A page of the handbook, or the README.
struct Page {
    /// Path from the repository's folder.
    name: String,
    text: String,
}

/// A fenced block of a page.
struct Block<'a> {
    page: &'a str,
    line: usize,
    language: &'a str,
    text: String,
}

#[test]
fn the_table_of_defaults_equals_the_constants() -> anyhow::Result<()> {
    let trace =
        row("requests without a trace that begin one, percent", defaults::TRACE_PERCENT.to_string(), "TRACE_PERCENT");
    let fault = row("`duration` of a FaultSpec, at most", length(defaults::FAULT_MAX_DURATION), "FAULT_MAX_DURATION");
    let expected = [
        request_defaults()?,
        breaker_defaults(),
        balancing_defaults()?,
        outlier_defaults(),
        health_defaults(),
        concurrency_defaults(),
        vec![trace],
        connection_defaults(),
        vec![fault],
    ]
    .concat();
    let written: Vec<_> = table("docs/defaults.md", "setting")?.into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(written, expected);
    // A constant that this test does not know would be missing from the page without anybody noticing.
    let source = fs::read_to_string(root().join("crds/src/spec/defaults.rs"))?;
    let constants: Vec<_> = after_each(&source, "pub const ").map(|name| format!("`{name}`")).collect();
    assert_eq!(
        constants,
        expected.iter().map(|row| row[2].clone()).collect::<Vec<_>>(),
        "constants of defaults.rs, and those of the page"
    );
    Ok(())
}

fn connection_defaults() -> Vec<Vec<String>> {
    vec![
        row("rest of a request's head, from its first byte", length(defaults::REQUEST_HEAD_TIME), "REQUEST_HEAD_TIME"),
        row("time in which a caller's connection carries no request", length(defaults::CALLER_IDLE), "CALLER_IDLE"),
    ]
}

fn request_defaults() -> anyhow::Result<Vec<Vec<String>>> {
    let conditions = serde_json::to_value(defaults::CONDITIONS)?;
    let conditions = conditions.as_array().context("a list")?.iter().map(word).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(vec![
        row("`mode`", word(&serde_json::to_value(defaults::MODE)?)?, "MODE"),
        row("`retries.maxRetries`", defaults::MAX_RETRIES.to_string(), "MAX_RETRIES"),
        row("`retries.conditions`", conditions.join(", "), "CONDITIONS"),
        row("`retries.methods`", word(&serde_json::to_value(defaults::METHODS)?)?, "METHODS"),
        row("`retries.backoff.base`", length(defaults::BACKOFF_BASE), "BACKOFF_BASE"),
        row("`retries.backoff.max`", length(defaults::BACKOFF_MAX), "BACKOFF_MAX"),
        row("`retries.budget.percent`", defaults::BUDGET_PERCENT.to_string(), "BUDGET_PERCENT"),
        row("`retries.budget.minPerSecond`", defaults::BUDGET_MIN_PER_SECOND.to_string(), "BUDGET_MIN_PER_SECOND"),
        row("`retries.budget.window`", length(defaults::BUDGET_WINDOW), "BUDGET_WINDOW"),
        row("body kept for another try", format!("{}KiB", defaults::REPLAY_BYTES / 1024), "REPLAY_BYTES"),
        row(
            "bodies kept for another try, of all requests together",
            format!("{}MiB", defaults::REPLAY_TOTAL >> 20),
            "REPLAY_TOTAL",
        ),
        row("wait for a gRPC status in trailers", length(defaults::TRAILERS_WAIT), "TRAILERS_WAIT"),
        row("wait that a callee may ask for before another try", length(defaults::RETRY_AFTER_MAX), "RETRY_AFTER_MAX"),
        row(
            "`hedge.maxExtraLoadPercent`",
            defaults::HEDGE_MAX_EXTRA_LOAD_PERCENT.to_string(),
            "HEDGE_MAX_EXTRA_LOAD_PERCENT",
        ),
        row("`bulkhead.maxPending`", defaults::MAX_PENDING.to_string(), "MAX_PENDING"),
        row("`bulkhead.maxPendingTime`", length(defaults::MAX_PENDING_TIME), "MAX_PENDING_TIME"),
    ])
}

fn breaker_defaults() -> Vec<Vec<String>> {
    vec![
        row(
            "`circuitBreaker.tripOn.consecutiveFailures`",
            defaults::BREAKER_CONSECUTIVE_FAILURES.to_string(),
            "BREAKER_CONSECUTIVE_FAILURES",
        ),
        row(
            "`circuitBreaker.tripOn.failureRate.percent`",
            defaults::BREAKER_FAILURE_PERCENT.to_string(),
            "BREAKER_FAILURE_PERCENT",
        ),
        row("`window` of `failureRate` and `slowCalls`", length(defaults::BREAKER_WINDOW), "BREAKER_WINDOW"),
        row("`minRequests` of both", defaults::BREAKER_MIN_REQUESTS.to_string(), "BREAKER_MIN_REQUESTS"),
        row("`circuitBreaker.openFor.initial`", length(defaults::BREAKER_OPEN_INITIAL), "BREAKER_OPEN_INITIAL"),
        row("`circuitBreaker.openFor.max`", length(defaults::BREAKER_OPEN_MAX), "BREAKER_OPEN_MAX"),
        row("`circuitBreaker.halfOpen.probes`", defaults::BREAKER_PROBES.to_string(), "BREAKER_PROBES"),
        row("`circuitBreaker.recovery.ramp`", length(defaults::BREAKER_RAMP), "BREAKER_RAMP"),
        row(
            "`circuitBreaker.recovery.startPercent`",
            defaults::BREAKER_START_PERCENT.to_string(),
            "BREAKER_START_PERCENT",
        ),
    ]
}

fn health_defaults() -> Vec<Vec<String>> {
    let field = |name: &str| format!("`healthCheck.{name}`");
    vec![
        row(&field("interval"), length(defaults::HEALTH_INTERVAL), "HEALTH_INTERVAL"),
        row(&field("timeout"), length(defaults::HEALTH_TIMEOUT), "HEALTH_TIMEOUT"),
        row(&field("unhealthyAfter"), defaults::UNHEALTHY_AFTER.to_string(), "UNHEALTHY_AFTER"),
        row(&field("healthyAfter"), defaults::HEALTHY_AFTER.to_string(), "HEALTHY_AFTER"),
    ]
}

fn concurrency_defaults() -> Vec<Vec<String>> {
    let field = |name: &str| format!("`inbound.concurrency.{name}`");
    vec![
        row(&field("initial"), defaults::CONCURRENCY_INITIAL.to_string(), "CONCURRENCY_INITIAL"),
        row(&field("min"), defaults::CONCURRENCY_MIN.to_string(), "CONCURRENCY_MIN"),
        row(&field("max"), defaults::CONCURRENCY_MAX.to_string(), "CONCURRENCY_MAX"),
        row(
            &field("tolerancePercent"),
            defaults::CONCURRENCY_TOLERANCE_PERCENT.to_string(),
            "CONCURRENCY_TOLERANCE_PERCENT",
        ),
        row(&field("maxPending"), defaults::CONCURRENCY_MAX_PENDING.to_string(), "CONCURRENCY_MAX_PENDING"),
        row(&field("maxPendingTime"), length(defaults::CONCURRENCY_MAX_PENDING_TIME), "CONCURRENCY_MAX_PENDING_TIME"),
    ]
}

fn outlier_defaults() -> Vec<Vec<String>> {
    let field = |name: &str| format!("`outlierDetection.{name}`");
    vec![
        row(
            &field("consecutiveFailures"),
            defaults::OUTLIER_CONSECUTIVE_FAILURES.to_string(),
            "OUTLIER_CONSECUTIVE_FAILURES",
        ),
        row(&field("failureRate.aboveOthers"), defaults::OUTLIER_ABOVE_OTHERS.to_string(), "OUTLIER_ABOVE_OTHERS"),
        row(&field("failureRate.window"), length(defaults::OUTLIER_WINDOW), "OUTLIER_WINDOW"),
        row(&field("failureRate.minRequests"), defaults::OUTLIER_MIN_REQUESTS.to_string(), "OUTLIER_MIN_REQUESTS"),
        row(&field("ejectFor.initial"), length(defaults::EJECT_INITIAL), "EJECT_INITIAL"),
        row(&field("ejectFor.max"), length(defaults::EJECT_MAX), "EJECT_MAX"),
    ]
}

fn balancing_defaults() -> anyhow::Result<Vec<Vec<String>>> {
    Ok(vec![
        row("`loadBalancing.algorithm`", word(&serde_json::to_value(defaults::ALGORITHM)?)?, "ALGORITHM"),
        row("how far back the average of an endpoint's times looks", length(defaults::BALANCE_DECAY), "BALANCE_DECAY"),
        row("what a failed try counts in that average, at least", length(defaults::BALANCE_FAILURE), "BALANCE_FAILURE"),
        row(
            "first part of its share with `loadBalancing.slowStart`, percent",
            defaults::SLOW_START_PERCENT.to_string(),
            "SLOW_START_PERCENT",
        ),
    ])
}

/// A row of the table of defaults.
fn row(setting: &str, value: String, constant: &str) -> Vec<String> {
    vec![setting.to_owned(), value, format!("`{constant}`")]
}

fn length(length: Duration) -> String {
    spec::Duration::from_millis(length.as_millis().try_into().unwrap_or(u64::MAX)).to_string()
}

fn word(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("a word")?.to_owned())
}

#[test]
fn the_table_of_reasons_equals_the_code() -> anyhow::Result<()> {
    let code = |word: &str| if word.is_empty() { "none".to_owned() } else { format!("`{word}`") };
    let expected: Vec<Vec<String>> = REASONS
        .iter()
        .map(|reason| {
            vec![
                code(reason.name()),
                code(reason.error_token()),
                reason.status().as_u16().to_string(),
                reason.grpc_status().to_string(),
                reason.domain().name().to_owned(),
                Fate::from(*reason).name().to_owned(),
            ]
        })
        .collect();
    let rows = table("docs/reasons.md", "reason")?;
    ensure!(rows.iter().all(|row| row.len() == 8 && row.iter().all(|cell| !cell.is_empty())), "a row is not complete");
    assert_eq!(rows.into_iter().map(|row| row[..6].to_vec()).collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn the_handbook_and_firebreak_explain_give_the_same_advice() -> anyhow::Result<()> {
    let expected: Vec<_> = REASONS.iter().map(|reason| reason.advice()).map(|said| [said.means, said.next]).collect();
    let rows = table("docs/reasons.md", "reason")?;
    assert_eq!(rows.iter().map(|row| [row[6].as_str(), row[7].as_str()]).collect::<Vec<_>>(), expected);
    let expected: Vec<_> = DOMAINS.iter().map(|domain| (format!("`{}`", domain.name()), domain.whose())).collect();
    let rows = table("docs/reasons.md", "domain")?;
    // The page may go on where the command is short.
    let written: Vec<_> =
        rows.iter().map(|row| (row[0].clone(), row[1].split(". ").next().unwrap_or_default())).collect();
    assert_eq!(written, expected);
    Ok(())
}

#[test]
fn the_tables_of_metrics_equal_what_is_exposed() -> anyhow::Result<()> {
    let exposed = exposition()?;
    ensure!(exposed.contains("le=\"+Inf\""), "Prometheus computes no quantile without the last bucket");
    let mut expected = metrics_of(&exposed);
    for file in ["operator/src/metrics.rs", "injector/src/metrics.rs"] {
        expected.extend(registered(file)?);
    }
    let mut written = BTreeMap::new();
    for row in table("docs/metrics.md", "metric")? {
        let labels = row[2].split(", ").filter(|label| !label.is_empty()).map(ToOwned::to_owned).collect();
        written.insert(row[0].trim_matches('`').to_owned(), (row[1].clone(), labels));
    }
    assert_eq!(written, expected);
    Ok(())
}

#[test]
fn every_metric_that_a_page_names_exists() -> anyhow::Result<()> {
    let known: BTreeSet<String> =
        table("docs/metrics.md", "metric")?.into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    for page in pages()? {
        for word in page.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            let metric = word.starts_with("firebreak_");
            ensure!(!metric || known.contains(series) || known.contains(word), "{}: there is no {word}", page.name);
        }
    }
    Ok(())
}

/// A block whose first line is `# lint: WORDS` shows a mistake, and lint must say those words; any other must be without
/// a finding.
#[test]
fn every_yaml_is_what_lint_says_of_it() -> anyhow::Result<()> {
    let firebreak = program("firebreak")?;
    let mut seen = 0;
    for page in &pages()? {
        for block in blocks(page).filter(|block| block.language == "yaml" && block.text.contains("firebreak.dev/v1")) {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
                "{}-{}.yaml",
                block.page.replace('/', "-"),
                block.line
            ));
            fs::write(&file, &block.text)?;
            let output = Command::new(&firebreak).args(["lint", "--strict"]).arg(&file).output()?;
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let place = format!("{}:{}", block.page, block.line);
            match block.text.lines().next().and_then(|line| line.strip_prefix("# lint: ")) {
                None => ensure!(output.status.success(), "{place} is not without a finding:\n{said}"),
                Some(words) => ensure!(
                    !output.status.success() && said.contains(words),
                    "{place} promises `{words}`, and lint says:\n{said}"
                ),
            }
            seen += 1;
        }
    }
    ensure!(seen >= 10, "only {seen} blocks were found: are they fenced as yaml?");
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> anyhow::Result<()> {
    let pages = pages()?;
    for page in &pages {
        for link in links(page) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&page.name).parent().context("a folder")?;
            let target = if path.is_empty() { Path::new(&page.name).to_owned() } else { folder.join(path) };
            ensure!(root().join(&target).exists(), "{}: {link} leads nowhere", page.name);
            if !anchor.is_empty() {
                let text = fs::read_to_string(root().join(&target))?;
                let found = headings(&text).any(|heading| heading == anchor);
                ensure!(found, "{}: {} has no heading #{anchor}", page.name, target.display());
            }
        }
    }
    let contents = pages.iter().find(|page| page.name == "docs/README.md").context("docs/README.md")?;
    let listed: BTreeSet<_> = links(contents).map(|link| format!("docs/{link}")).collect();
    for page in pages.iter().filter(|page| page.name.starts_with("docs/") && page.name != contents.name) {
        ensure!(listed.contains(&page.name), "{} is not in the table of contents", page.name);
    }
    Ok(())
}

/// All pages, by name.
fn pages() -> anyhow::Result<Vec<Page>> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| Ok(Page { text: fs::read_to_string(root().join(&name))?, name });
    names.into_iter().map(read).collect()
}

/// The rows of all tables of a page whose first column is headed `first`, cell by cell.
fn table(page: &str, first: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let text = fs::read_to_string(root().join(page))?;
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        if !line.starts_with('|') {
            inside = false;
        } else if cells[0] == first {
            inside = true;
        } else if inside && !cells[0].starts_with("---") {
            rows.push(cells);
        }
    }
    ensure!(!rows.is_empty(), "{page} has no table whose first column is {first}");
    Ok(rows)
}

/// The fenced blocks of a page.
fn blocks(page: &Page) -> impl Iterator<Item = Block<'_>> {
    let mut lines = page.text.lines().enumerate();
    std::iter::from_fn(move || {
        let (line, fence) = lines.find(|(_, line)| line.starts_with("```"))?;
        let text: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
        Some(Block {
            page: &page.name,
            line: line + 1,
            language: fence.trim_matches('`'),
            text: text.join("\n") + "\n",
        })
    })
}

/// The targets of a page's links, outside of fenced blocks.
fn links(page: &Page) -> impl Iterator<Item = String> {
    let mut fenced = false;
    let prose: String = page
        .text
        .lines()
        .filter(|line| {
            fenced ^= line.starts_with("```");
            !fenced
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let parts: Vec<_> =
        prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect();
    parts.into_iter()
}

/// The headings of a text as GitHub turns them into anchors.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// A limit that one request too many has met.
fn a_limit_that_refused() -> anyhow::Result<Arc<Limit>> {
    let spec = Concurrency { max: Some(1), max_pending: Some(0), ..Concurrency::default() };
    let limit = Limit::new(spec, Instant::now());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    // The second finds no room, and may not wait.
    let places = runtime.block_on(async { (limit.acquire(None).await, limit.acquire(None).await) });
    ensure!(places.0.is_ok() && places.1.is_err(), "{places:?}");
    Ok(limit)
}

/// A policy that is observed and has a breaker.
fn observer(callee: &CalleeMetrics, breaker: &Arc<Breaker>) -> Arc<Observer> {
    let policy = Policy::new("shop/service2", 1, Extra::default(), Plan::default(), Box::default());
    let (breaker, counts) = (Some(Arc::clone(breaker)), Arc::clone(&callee.observed));
    let shadow = Shadow { policy, rate: None, breaker, endpoints: [].into_iter().collect(), counts };
    Arc::new(Observer::new(shadow, Limits::NONE, None, Instant::now()))
}

fn observe_and_check(callee: &CalleeMetrics) {
    callee.observed.followed();
    callee.observed.add(Would::Queue);
    callee.checked(false);
    callee.checked(true);
}

/// One endpoint alone is never ejected.
fn fail_alone(callee: &CalleeMetrics, limits: breaker::Limits) {
    let (peers, counts) = (Peers::new(None, Instant::now()), Arc::clone(&callee.endpoint_breakers));
    let alone = Breaker::among(Some(peers), limits, counts, Instant::now());
    if let Ok(ticket) = alone.admit(Instant::now(), None) {
        ticket.ended(Outcome::Failed, Instant::now());
    }
}

/// A breaker's limits that one failure exceeds.
fn one_failure() -> breaker::Limits {
    breaker::Limits { consecutive: Some(1), ..breaker::Limits::from(&CircuitBreaker::default()) }
}

/// What a proxy exposes that has met everything there is to count.
fn exposition() -> anyhow::Result<String> {
    let registry = Registry::new(1, Connections::default());
    let callee = registry.callee(Direction::Outbound, "shop/service2", Some(80));
    let shard = callee.shard(0);
    shard.request(Fate::Failed, Some(http::StatusCode::BAD_GATEWAY), Duration::from_mins(1));
    shard.failure(Reason::CalleeError, Reason::CalleeError.domain());
    shard.attempt(AttemptOutcome::Error);
    for counter in [
        &shard.retries_refused,
        &shard.pushed_back,
        &shard.hedges_sent,
        &shard.hedges_won,
        &shard.hedges_refused[0],
        &shard.replaced,
        &shard.given_up,
        &shard.opaque,
        &shard.opaque_bytes,
    ] {
        counter.increment();
    }
    let limits = one_failure();
    for (level, endpoint) in [(&callee.breaker, false), (&callee.endpoint_breakers, true)] {
        let breaker = Breaker::new(limits, Arc::clone(level), Instant::now());
        for _ in 0..2 {
            if let Ok(ticket) = breaker.admit(Instant::now(), None) {
                ticket.ended(Outcome::Failed, Instant::now());
            }
        }
        let (address, now) = (([127, 0, 0, 1], 80).into(), Instant::now());
        let at_endpoint =
            Endpoint { address, way: address, breaker: Some(Arc::clone(&breaker)), load: Load::new(now), health: None };
        let endpoints = if endpoint { vec![at_endpoint] } else { Vec::new() };
        let observed = Some(observer(&callee, &breaker));
        callee.watch_breakers(Breakers { observed, callee: Some(breaker), endpoints });
    }
    observe_and_check(&callee);
    fail_alone(&callee, limits);
    let apart = Duration::from_secs(2);
    (0..SEEN).for_each(|time| callee.keep_alive.closed(apart, Instant::now() + apart * time));
    callee.watch_gate(Some(Gate::new(Limits { max_requests: 1, ..Limits::NONE })));
    callee.watch_limits(vec![a_limit_that_refused()?]);
    let fault = registry.fault("shop/slow");
    fault.hits[FaultKind::Delay as usize].store(1, Relaxed);
    let held = fault.active.take(1);
    ensure!(held.is_some() && fault.active.take(1).is_none(), "the second is spared");
    let report = Publisher::new(&registry, BTreeMap::new(), Box::new(FromConfig)).publish(br#"{"format": 1}"#);
    ensure!(report.refused.is_none(), "{report:?}");
    Ok(exposition::text(&registry, false)?)
}

/// Names, types and labels of an exposition.
fn metrics_of(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let Some((family, kind)) = line.split_once(' ') else { continue };
        let (end, sample) = match kind {
            "counter" => ("_total", "_total"),
            "info" => ("_info", "_info"),
            "histogram" => ("", "_count"),
            _ => ("", ""),
        };
        let sample = format!("{family}{sample}");
        let series =
            text.lines().find_map(|line| line.strip_prefix(&sample).filter(|rest| rest.starts_with(['{', ' '])));
        let labels =
            series.and_then(|series| series.split_once('{')?.1.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
        metrics.insert(format!("{family}{end}"), (kind.to_owned(), labels));
    }
    metrics
}

/// The metrics that a file registers, read from its text: operator and injector have no cluster to be started in here.
fn registered(file: &str) -> anyhow::Result<BTreeMap<String, (String, Vec<String>)>> {
    let source = fs::read_to_string(root().join(file))?;
    let prefix = after_each(&source, "with_prefix(\"").next().with_context(|| format!("{file} has no prefix"))?;
    let mut metrics = BTreeMap::new();
    for (at, _) in source.match_indices("registry.register") {
        let call = &source[at..source[at..].find(';').map_or(source.len(), |end| at + end)];
        let name = call.split('"').nth(1).with_context(|| format!("{file}: {call}"))?;
        let field = after_each(call, "metrics.").next().with_context(|| format!("{file}: {call}"))?;
        let declared = source.lines().find_map(|line| line.split_once(&format!(" {field}: "))).map(|(_, kind)| kind);
        let declared = declared.with_context(|| format!("{file} does not declare {field}"))?;
        let (kind, end) = match declared {
            kind if kind.contains("Counter") => ("counter", "_total"),
            kind if kind.contains("Histogram") => ("histogram", ""),
            _ => ("gauge", ""),
        };
        let unit = if call.contains("Unit::Seconds") { "_seconds" } else { "" };
        let labels = match declared {
            kind if kind.contains("<Kind,") => vec!["kind".to_owned()],
            kind if kind.contains("<Admission,") => vec!["result".to_owned(), "reason".to_owned()],
            _ => Vec::new(),
        };
        metrics.insert(format!("{prefix}_{name}{unit}{end}"), (kind.to_owned(), labels));
    }
    Ok(metrics)
}

/// The words (letters, digits and underscores) that follow `mark` in `text`.
fn after_each<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |rest: &'a str| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
    text.split(mark).skip(1).filter_map(word)
}
