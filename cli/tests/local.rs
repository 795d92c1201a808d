//! `firebreak local` as its users run it: real files, real requests, real signals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests may fail the test")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

/// For anything that is sure to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Service `name` whose only endpoint is `at`.
fn service(name: &str, at: SocketAddr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: \
         {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: \
         [{{addresses: [\"{}\"]}}]\n",
        at.port(),
        at.ip()
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: firebreak.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: \
         [{{kind: Service, name: {name}}}], {spec}}}\n"
    )
}

fn fault(name: &str, status: u16) -> String {
    format!(
        "---\napiVersion: firebreak.dev/v1alpha1\nkind: FaultSpec\nmetadata: {{name: {name}}}\nspec: {{targetRefs: \
         [{{kind: Service, name: {name}}}], duration: 10m, faults: [{{abort: {{percent: 100, httpStatus: {status}}}}}]}}\n"
    )
}

/// A server that answers each connection's first request with 200 and closes. Its thread ends with the process.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").ok()
}

/// A server that takes connections and never answers.
fn hanging() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}

struct Local {
    child: Child,
    lines: Receiver<String>,
}

impl Local {
    /// With a caller in `shop`, where the objects are too that name no namespace.
    fn start(folder: &PathBuf, more: &[&str]) -> Self {
        Self::run(folder, &[&["--namespace", "shop"], more].concat())
    }

    fn run(folder: &PathBuf, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
            .arg("local")
            .arg(folder)
            .arg("--json")
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The next event of that kind; what comes before it is passed over.
    fn event(&self, kind: &str) -> Value {
        let mut passed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no `{kind}` after {passed:#?}"));
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            if event["event"] == kind {
                return event;
            }
            passed.push(line);
        }
    }

    fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.event("stopped");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(test: &str, files: &[(&str, String)]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("local-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    folder
}

/// Status and headers of a GET, as text in lower case.
fn get(address: &Value, path: &str) -> String {
    let mut stream = TcpStream::connect(address.as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: service2\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.to_lowercase()
}

#[test]
fn requests_are_protected_and_the_folder_is_followed() {
    let folder = folder("follow", &[("a.yaml", service("service2", origin()))]);
    let local = Local::start(&folder, &[]);
    let listening = local.event("listening");
    assert_eq!((&listening["service"], &listening["port"]), (&"shop/service2".into(), &80.into()));
    assert_eq!(listening["moved"], "ports below 1024 need rights");
    let address = listening["address"].clone();
    local.event("ready");
    assert!(get(&address, "/").starts_with("http/1.1 200"));

    fs::write(folder.join("fault.yaml"), fault("service2", 418)).unwrap();
    let again = local.event("listening");
    assert_eq!((&again["address"], &again["faults"][0]), (&address, &"shop/service2".into()), "the port stays");
    assert_eq!(local.event("fault")["fault"], "shop/service2");
    local.event("applied");
    let faulted = get(&address, "/");
    assert!(faulted.starts_with("http/1.1 418") && faulted.contains("firebreak-reason=fault_abort"), "{faulted}");
    assert_eq!(local.event("failure")["reason"], "fault_abort");

    fs::write(folder.join("fault.yaml"), fault("service2", 418).replace("10m", "10")).unwrap();
    let problem = local.event("problem");
    let place = (&problem["line"], &problem["field"], problem["file"].as_str().unwrap().ends_with("fault.yaml"));
    assert_eq!(place, (&5.into(), &"spec.duration".into(), true));
    local.event("kept");
    assert!(get(&address, "/").starts_with("http/1.1 418"), "the last good config stays in force");

    fs::remove_file(folder.join("fault.yaml")).unwrap();
    local.event("applied");
    assert!(get(&address, "/").starts_with("http/1.1 200"));
    assert_eq!(local.stop(), Some(0));
}

#[test]
fn a_request_that_hangs_ends_by_its_policy() {
    let spec = "timeouts: {attempt: 100ms, request: 2s}, retries: {maxRetries: 2, conditions: [\"5xx\"]}";
    let folder = folder("hang", &[("a.yaml", service("service2", hanging()) + &policy("service2", spec))]);
    let local = Local::start(&folder, &["--labels", "app=web,tier=front"]);
    let address = local.event("listening")["address"].clone();
    local.event("ready");
    let text = get(&address, "/slow");
    assert!(text.starts_with("http/1.1 504"), "{text}");
    assert!(text.contains("firebreak-reason=attempt_timeout") && text.contains("firebreak-attempts=3"), "{text}");
    let record = local.event("failure");
    assert_eq!(
        (&record["fate"], &record["attempts"], &record["policy"]),
        (&"timed_out".into(), &3.into(), &"shop/service2".into())
    );
}

#[test]
fn a_limit_beside_the_callee_refuses_what_its_endpoint_cannot_do() {
    let spec = "inbound: {concurrency: {max: 1, maxPending: 0}}";
    let folder = folder("inbound", &[("a.yaml", service("service2", hanging()) + &policy("service2", spec))]);
    let local = Local::start(&folder, &[]);
    let listening = local.event("listening");
    assert_eq!(listening["beside"], serde_json::json!({"policy": "shop/service2", "faults": []}));
    let admin = local.event("admin")["address"].clone();
    local.event("ready");
    let mut held = TcpStream::connect(listening["address"].as_str().unwrap()).unwrap();
    held.write_all(b"GET / HTTP/1.1\r\nhost: service2\r\n\r\n").unwrap();
    let line = "firebreak_concurrency_in_flight{direction=\"inbound\",service=\"shop/service2\",port=\"80\"} 1";
    let began = Instant::now();
    while !get(&admin, "/metrics").contains(line) {
        assert!(began.elapsed() < PATIENCE, "{}", get(&admin, "/metrics"));
    }
    let refused = get(&listening["address"], "/");
    assert!(refused.starts_with("http/1.1 503") && refused.contains("firebreak-reason=overload"), "{refused}");
    let failure = local.event("failure");
    assert_eq!((&failure["reason"], &failure["direction"]), (&"overload".into(), &"outbound".into()));

    fs::write(folder.join("fault.yaml"), fault("service2", 418).replace("duration", "at: Inbound, duration")).unwrap();
    assert_eq!(local.event("listening")["beside"]["faults"][0], "shop/service2");
    local.event("applied");
    assert!(get(&listening["address"], "/").starts_with("http/1.1 418"), "a fault is above the limit");
    assert_eq!(local.event("failure")["reason"], "fault_abort", "the request that was refused has been told once");
    drop(held);
    assert_eq!(local.stop(), Some(0));
}

#[test]
fn from_selects_by_the_labels_given() {
    let spec = "from: {podSelector: {matchLabels: {app: web}}}, timeouts: {attempt: 100ms}";
    let text = service("service2", hanging()) + &policy("service2", spec);
    let folder = folder("labels", &[("a.yaml", text)]);
    let local = Local::start(&folder, &["--labels", "app=web"]);
    let address = local.event("listening")["address"].clone();
    local.event("ready");
    assert!(get(&address, "/").contains("firebreak-reason=attempt_timeout"));
    drop(local);
    let other = Local::start(&folder, &["--labels", "app=batch"]);
    let address = other.event("listening")["address"].clone();
    other.event("ready");
    let mut stream = TcpStream::connect(address.as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0]).is_err(), "the policy is for others, so nothing ends the request");
}

#[test]
fn the_admin_port_serves_metrics() {
    let folder = folder("admin", &[("a.yaml", service("service2", origin()))]);
    let local = Local::start(&folder, &[]);
    let address = local.event("listening")["address"].clone();
    let admin = local.event("admin")["address"].clone();
    local.event("ready");
    get(&address, "/");
    let metrics = get(&admin, "/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("firebreak_requests_total") && line.contains("fate=\"succeeded\""));
    let line = line.unwrap_or_else(|| panic!("{metrics}"));
    assert!(line.contains("service=\"shop/service2\"") && line.ends_with(" 1"), "{line}");
}

#[test]
fn a_folder_with_errors_does_not_start() {
    let text = policy("service2", "timeouts: {attempt: 5s, request: 1s}");
    let folder = folder("broken", &[("a.yaml", text)]);
    for more in [&["local"][..], &["local", "--check"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).args(more).arg(&folder).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("a.yaml:5:55: TrafficPolicy service2: spec.timeouts: attempt is longer than request"),
            "{text}"
        );
    }
}

#[test]
fn check_listens_nowhere() {
    let limit = policy("service2", "inbound: {concurrency: {}}");
    let folder = folder("check", &[("a.yaml", service("service2", origin()) + &limit + &fault("service3", 503))]);
    let output =
        Command::new(env!("CARGO_BIN_EXE_firebreak")).args(["local", "--check"]).arg(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let served = "for default/service2:80 (ports below 1024 need rights): 1 endpoint; TrafficPolicy default/service2; beside its \
                  endpoints TrafficPolicy default/service2";
    assert!(out.contains(served), "{out}");
    assert!(err.contains("warning: ") && err.contains("Service default/service3 is not in the folder"), "{err}");
}

/// What it says when it cannot start.
fn refused(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).arg("local").args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_be_had_is_named_with_what_to_do() {
    let missing = refused(&["/nonexistent"]);
    assert!(missing.contains("cannot read /nonexistent: name a folder with YAML files: "), "{missing}");
    let folder = folder("file", &[("a.yaml", service("service2", origin()))]);
    let folder = folder.to_str().unwrap();
    let file = refused(&[&format!("{folder}/a.yaml")]);
    assert!(file.contains(&format!("a.yaml is a file: name the folder that it is in, {folder}\n")), "{file}");
    let taken = origin().to_string();
    let admin = refused(&[folder, "--admin", &taken]);
    assert!(admin.contains(&format!("--admin {taken}: choose another, or port 0 for a free one: ")), "{admin}");
}

#[test]
fn people_are_told_that_nothing_is_served_and_that_stopping_may_take_a_while() {
    let folder = folder("nothing", &[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
        .arg("local")
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let nothing = lines.next().unwrap();
    assert!(nothing.starts_with("nothing is served: ") && nothing.contains("examples/local"), "{nothing}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(lines.next().unwrap(), "stopping: requests under way get up to 5s");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A copy of `examples/local` whose ports are free on this machine: the Service's, and the one of its endpoint.
fn example(service: u16, endpoint: u16) -> PathBuf {
    let text = include_str!("../../examples/local/shop.yaml");
    for port in ["\"80=18080\"", "port: 8000}"] {
        assert_eq!(text.matches(port).count(), 1, "{port} is to be replaced");
    }
    let text =
        text.replace("80=18080", &format!("80={service}")).replace("port: 8000}", &format!("port: {endpoint}}}"));
    folder("example", &[("shop.yaml", text)])
}

#[test]
fn the_example_serves_a_server_of_ones_own_and_explains_that_there_is_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _inside = runtime.enter();
    // Bound and deaf: the port refuses connections, and nobody else can take it.
    let endpoint = tokio::net::TcpSocket::new_v4().unwrap();
    endpoint.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let local = Local::run(&example(free.port(), endpoint.local_addr().unwrap().port()), &[]);
    let listening = local.event("listening");
    assert_eq!((&listening["address"], &listening["service"]), (&free.to_string().into(), &"shop/service2".into()));
    assert_eq!(listening["policies"], serde_json::json!(["shop/service2"]));
    local.event("ready");

    let unserved = |text: &str| {
        assert!(text.starts_with("http/1.1 502"), "{text}");
        let explained = text.contains("firebreak-reason=connection_refused") && text.contains("firebreak-attempts=4");
        assert!(explained, "{text}");
        let record = local.event("failure");
        assert_eq!((&record["reason"], &record["attempts"]), (&"connection_refused".into(), &4.into()));
    };
    unserved(&get(&listening["address"], "/"));
    let server = endpoint.listen(16).unwrap().into_std().unwrap();
    server.set_nonblocking(false).unwrap();
    let serving = thread::spawn(move || answer(server.accept().unwrap().0));
    assert!(get(&listening["address"], "/").starts_with("http/1.1 200"));
    assert_eq!(serving.join().unwrap(), Some(()), "the server has seen the request, and is gone");
    unserved(&get(&listening["address"], "/"));
    assert_eq!(local.stop(), Some(0));
}
