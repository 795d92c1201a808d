//! The same causes through Envoy, set up for the same duty as far as it can be: what it says of each stands beside our words in
//! `docs/attribution.md`, which this writes. `tests/corpus/run` runs it.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    Cause, Protocol, SHORT_HEAD, Setup,
    callers::{Caller, ID},
    causes,
    peers::Peer,
};
use crate::support::free_address;

/// What the table comes after.
const MARK: &str = "<!-- tests/corpus/run writes what follows. -->\n";

/// The longest that a caller waits. Envoy has no clock for some of the causes.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long an entry of the log may take to be written.
const WRITING: Duration = Duration::from_secs(3);

/// A cause that is on in Envoy.
struct Scene {
    cause: &'static Cause,
    protocol: Protocol,
    peer: Peer,
    address: SocketAddr,
    log: PathBuf,
}

/// An Envoy that ends with this.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes Envoy: tests/corpus/run"]
async fn beside_envoy() {
    let folder = tempfile::tempdir().unwrap();
    let mut scenes = Vec::new();
    let mut table = BTreeMap::new();
    for (number, cause) in causes::all().enumerate() {
        for protocol in Protocol::ALL.into_iter().filter(|protocol| cause.on.contains(protocol)) {
            if !has_equivalent(cause) {
                enter(&mut table, number, cause, protocol, ["nothing like it", ""].map(str::to_owned));
                continue;
            }
            let log = folder.path().join(format!("{number}-{}.log", protocol as u8));
            let peer = Peer::start(cause.peer, protocol).await;
            scenes.push((number, Scene { cause, protocol, peer, address: free_address(), log }));
        }
    }
    let _envoy = start(folder.path(), &scenes).await;
    for (number, scene) in scenes {
        let (cause, protocol) = (scene.cause, scene.protocol);
        enter(&mut table, number, cause, protocol, scene.play().await);
    }
    write(&table);
}

/// Whether Envoy can be set up for it. It injects delays and answers, but no failure of a connection, and it has neither
/// policies of ours nor headers.
fn has_equivalent(cause: &Cause) -> bool {
    let faults = if cause.faults.is_empty() { json!([]) } else { cause.faults() };
    let abort = &faults[0]["abort"];
    matches!(cause.proxy, Setup::Usual | Setup::ShortHeads)
        && ["reset", "refuse", "blackhole"].iter().all(|kind| abort[kind].is_null())
        && !matches!(cause.caller, Caller::Calls([("firebreak-deadline-ms", _)]))
}

/// A row of the table: its place, name, reason and domain, and what Envoy says; and on which protocols.
type Table = BTreeMap<(usize, [String; 2]), (&'static Cause, Vec<Protocol>)>;

fn enter(table: &mut Table, number: usize, cause: &'static Cause, protocol: Protocol, said: [String; 2]) {
    // Causes that stand in the table once for each protocol are one to the reader.
    let first = causes::all().position(|other| other.name == cause.name && other.verdict() == cause.verdict());
    let row = table.entry((first.unwrap_or(number), said)).or_insert((cause, Vec::new()));
    row.1.push(protocol);
}

fn write(table: &Table) {
    let mut text = String::from(
        "| cause | on | reason | fault domain | Envoy's flags | Envoy's details |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for ((_, [flags, details]), (cause, on)) in table {
        let on =
            if on.len() == 3 { "all".to_owned() } else { on.iter().map(|on| on.name()).collect::<Vec<_>>().join(", ") };
        let (reason, domain) = cause.verdict();
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) };
        let flags = if flags.contains(' ') { flags.clone() } else { code(flags) };
        writeln!(text, "| {} | {on} | `{reason}` | `{domain}` | {flags} | {} |", cause.name, code(details)).unwrap();
    }
    println!("{text}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/attribution.md");
    let before = fs::read_to_string(&page).unwrap();
    let (prose, _) = before.split_once(MARK).unwrap();
    fs::write(page, format!("{prose}{MARK}\n{text}")).unwrap();
}

async fn start(folder: &Path, scenes: &[(usize, Scene)]) -> Envoy {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (place, (_, scene)) in scenes.iter().enumerate() {
        listeners.push(scene.listener(place));
        clusters.push(scene.cluster(place));
    }
    let config = folder.join("envoy.json");
    let ready = free_address();
    let admin = json!({"address": address(ready)});
    let all = json!({"admin": admin, "static_resources": {"listeners": listeners, "clusters": clusters}});
    fs::write(&config, all.to_string()).unwrap();
    let binary = env::var_os("FIREBREAK_ENVOY").unwrap();
    let mut command = Command::new(binary);
    command.arg("-c").arg(config).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    command.args(["--file-flush-interval-msec", "20"]);
    let mut envoy = Envoy(command.spawn().unwrap());
    let last = scenes.last().unwrap().1.address;
    while TcpStream::connect(ready).await.is_err() || TcpStream::connect(last).await.is_err() {
        assert!(envoy.0.try_wait().unwrap().is_none(), "Envoy does not take its config");
        sleep(Duration::from_millis(50)).await;
    }
    envoy
}

impl Scene {
    /// Makes it happen; flags and details of the entry in Envoy's log.
    async fn play(self) -> [String; 2] {
        let log = self.log.clone();
        let begun = Instant::now();
        // In a task of its own: what a caller insists on is not always what Envoy does.
        let playing = tokio::spawn(async move {
            let Self { cause, protocol, peer, address, .. } = self;
            let _held = cause.before.happen(address, protocol, &peer).await;
            cause.caller.act(address, protocol, &peer).await;
        });
        let abort = playing.abort_handle();
        let ended = timeout(PATIENCE, playing).await;
        abort.abort();
        if !matches!(ended, Ok(Ok(()))) {
            return [format!("no answer in {} s", begun.elapsed().as_secs()), String::new()];
        }
        let deadline = Instant::now() + WRITING;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let judged = text.lines().find(|line| line.starts_with(ID));
            let any = text.lines().next_back().filter(|_| Instant::now() > deadline);
            if let Some(line) = judged.or(any) {
                let mut fields = line.split('\t').skip(1).map(str::to_owned);
                return [fields.next().unwrap(), fields.next().unwrap()];
            }
            if Instant::now() > deadline {
                return ["no entry".to_owned(), String::new()];
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn listener(&self, place: usize) -> Value {
        let policy = self.cause.policy();
        let by_grpc = matches!(self.cause.caller, Caller::Calls([("grpc-timeout", _)]));
        let format = "%REQ(X-REQUEST-ID)%\t%RESPONSE_FLAGS%\t%RESPONSE_CODE_DETAILS%\n";
        let log = json!({"path": self.log, "log_format": {"text_format_source": {"inline_string": format}}});
        let mut routes: Vec<_> = policy["routes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|own| route(place, by_grpc, &own["match"]["path"]["prefix"], &own["timeouts"], &policy["retries"]))
            .collect();
        routes.push(route(place, by_grpc, &json!("/"), &policy["timeouts"], &policy["retries"]));
        let mut manager = json!({
            "stat_prefix": place.to_string(),
            "codec_type": "AUTO",
            "generate_request_id": false,
            "preserve_external_request_id": true,
            "access_log": [{"name": "file", "typed_config": typed("access_loggers.file.v3.FileAccessLog", log)}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": filters(self.cause, &policy),
        });
        if self.cause.proxy == Setup::ShortHeads {
            manager["request_headers_timeout"] = json!(format!("{}s", SHORT_HEAD.as_secs_f64()));
        }
        let name = "filters.network.http_connection_manager.v3.HttpConnectionManager";
        let filter = json!({"name": "http", "typed_config": typed(name, manager)});
        json!({"name": place.to_string(), "address": address(self.address), "filter_chains": [{"filters": [filter]}]})
    }

    fn cluster(&self, place: usize) -> Value {
        let policy = self.cause.policy();
        let version = if self.protocol == Protocol::Http1 { "http_protocol_options" } else { "http2_protocol_options" };
        let endpoints: Vec<_> =
            self.peer.endpoints.iter().map(|at| json!({"endpoint": {"address": address(*at)}})).collect();
        let mut cluster = json!({
            "name": place.to_string(),
            "type": "STATIC",
            "connect_timeout": duration(&policy["timeouts"]["connect"]).unwrap_or_else(|| "5s".to_owned()),
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                typed("upstreams.http.v3.HttpProtocolOptions", json!({"explicit_http_config": {version: {}}}))},
            "load_assignment": {"cluster_name": place.to_string(), "endpoints": [{"lb_endpoints": endpoints}]},
        });
        if let Some(failures) = policy["circuitBreaker"]["tripOn"]["consecutiveFailures"].as_u64() {
            // The nearest that Envoy has to a breaker.
            cluster["outlier_detection"] = json!({"consecutive_5xx": failures, "max_ejection_percent": 100,
                "base_ejection_time": "60s"});
        }
        if let Some(requests) = policy["bulkhead"]["maxRequests"].as_u64() {
            let mut limits = json!({"max_requests": requests});
            // Without a queue; with none at all Envoy would refuse the first request too.
            if let Some(pending @ 1..) = policy["bulkhead"]["maxPending"].as_u64() {
                limits["max_connections"] = json!(requests);
                limits["max_pending_requests"] = json!(pending);
            }
            cluster["circuit_breakers"] = json!({"thresholds": [limits]});
        }
        cluster
    }
}

fn route(place: usize, by_grpc: bool, prefix: &Value, timeouts: &Value, retries: &Value) -> Value {
    let mut action = json!({
        "cluster": place.to_string(),
        "timeout": duration(&timeouts["request"]).unwrap_or_else(|| "0s".to_owned()),
        "idle_timeout": duration(&timeouts["idle"]).unwrap_or_else(|| "0s".to_owned()),
    });
    if by_grpc {
        // Only there: it puts the route's own time-out out of force.
        action["max_stream_duration"] = json!({"grpc_timeout_header_max": "0s"});
    }
    let attempt = duration(&timeouts["attempt"]);
    if attempt.is_some() || retries.is_object() {
        let conditions =
            retries["conditions"].as_array().into_iter().flatten().map(|condition| match condition.as_str() {
                Some("reset-before-response") => "reset",
                other => other.unwrap(),
            });
        let mut policy = json!({"num_retries": retries["maxRetries"].as_u64().unwrap_or(0),
            "retry_on": conditions.collect::<Vec<_>>().join(","),
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"}});
        policy.as_object_mut().unwrap().extend(attempt.map(|attempt| ("per_try_timeout".to_owned(), json!(attempt))));
        action["retry_policy"] = policy;
    }
    json!({"match": {"prefix": prefix}, "route": action})
}

/// What acts on requests before they are sent.
fn filters(cause: &Cause, policy: &Value) -> Vec<Value> {
    let mut filters = Vec::new();
    if let Some(burst) = policy["rateLimit"]["burst"].as_u64() {
        let all = json!({"default_value": {"numerator": 100}});
        let bucket = json!({"max_tokens": burst, "tokens_per_fill": policy["rateLimit"]["requestsPerSecond"],
            "fill_interval": "1s"});
        let limit =
            json!({"stat_prefix": "limit", "token_bucket": bucket, "filter_enabled": all, "filter_enforced": all});
        let limit = typed("filters.http.local_ratelimit.v3.LocalRateLimit", limit);
        filters.push(json!({"name": "envoy.filters.http.local_ratelimit", "typed_config": limit}));
    }
    if !cause.faults.is_empty() {
        let (fault, all) = (&cause.faults()[0], json!({"numerator": 100}));
        let mut injected = json!({});
        if let Some(delay) = duration(&fault["delay"]["fixed"]) {
            injected["delay"] = json!({"fixed_delay": delay, "percentage": all});
        }
        for (ours, theirs) in [("httpStatus", "http_status"), ("grpcStatus", "grpc_status")] {
            if let Some(status) = fault["abort"][ours].as_u64() {
                injected["abort"] = json!({theirs: status, "percentage": all});
            }
        }
        let injected = typed("filters.http.fault.v3.HTTPFault", injected);
        filters.push(json!({"name": "envoy.filters.http.fault", "typed_config": injected}));
    }
    let router = typed("filters.http.router.v3.Router", json!({"respect_expected_rq_timeout": true}));
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": router}));
    filters
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn typed(name: &str, mut body: Value) -> Value {
    body["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{name}"));
    body
}

/// One of our durations in Envoy's words.
fn duration(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let (digits, unit) = text.split_at(text.find(|letter: char| letter.is_alphabetic())?);
    let count: u64 = digits.parse().ok()?;
    let millis = match unit {
        "ms" => count,
        "s" => count * 1_000,
        "m" => count * 60_000,
        _ => return None,
    };
    Some(format!("{}.{:03}s", millis / 1_000, millis % 1_000))
}
