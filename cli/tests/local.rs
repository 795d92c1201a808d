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
    fn start(folder: &PathBuf, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
            .arg("local")
            .arg(folder)
            .args(["--json", "--namespace", "shop"])
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
    let folder = folder("check", &[("a.yaml", service("service2", origin()) + &fault("service3", 503))]);
    let output =
        Command::new(env!("CARGO_BIN_EXE_firebreak")).args(["local", "--check"]).arg(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("for default/service2:80 (ports below 1024 need rights): 1 endpoint"), "{out}");
    assert!(err.contains("warning: ") && err.contains("Service default/service3 is not in the folder"), "{err}");
}

#[test]
fn a_missing_folder_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).args(["local", "/nonexistent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexistent"));
}
