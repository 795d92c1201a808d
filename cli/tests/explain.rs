//! `firebreak explain` beside a `firebreak local` that has something to explain.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests may fail the test")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

/// For anything that is sure to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers with these statuses in turn, one a connection, and with the last for ever.
fn answering(statuses: &'static [u16]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            answer(stream, statuses[number.min(statuses.len() - 1)]);
        }
    });
    address
}

fn answer(mut stream: TcpStream, status: u16) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).ok()
}

struct Local {
    child: Child,
    service: String,
    admin: String,
}

impl Local {
    /// Serves `shop/service2`, whose endpoint is `at`, under a policy with this spec.
    fn start(name: &str, at: SocketAddr, spec: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("explain-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: service2}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s-1, labels: \
             {{kubernetes.io/service-name: service2}}}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: \
             [{{addresses: [\"{}\"]}}]\n---\n\
             apiVersion: firebreak.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: service2}}\nspec: {{targetRefs: \
             [{{kind: Service, name: service2}}], {spec}}}\n",
            at.port(),
            at.ip()
        );
        fs::write(folder.join("a.yaml"), text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_firebreak"))
            .args(["local", "--json", "--namespace", "shop"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |event: &str| loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["event"] == event {
                return line["address"].as_str().unwrap_or_default().to_owned();
            }
        };
        let (service, admin) = (address("listening"), address("admin"));
        address("ready");
        // What it says from now on must have a reader, or it would wait.
        thread::spawn(move || lines.for_each(drop));
        Self { child, service, admin }
    }

    /// The status of a request with these headers.
    fn get(&self, path: &str, headers: &str) -> u16 {
        let mut stream = TcpStream::connect(&self.service).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: service2\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Exit code, standard output and standard error.
    fn explain(&self, args: &[&str]) -> (Option<i32>, String, String) {
        explain(&[args, &["--admin", &self.admin]].concat())
    }

    /// Waits until so many records are there.
    fn recorded(&self, count: usize) {
        let mut found = Value::Null;
        for _ in 0..1000 {
            found = serde_json::from_str(&self.explain(&["--last", "99", "--json"]).1).unwrap();
            if found["records"].as_array().unwrap().len() == count {
                return;
            }
            // Another process keeps the records; it tells nobody that one has come.
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{count} records expected: {found:#}");
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn explain(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_firebreak")).arg("explain").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const RETRIES: &str = "retries: {maxRetries: 1, conditions: [\"5xx\"], backoff: {base: 5ms, max: 5ms}}";

#[test]
fn a_request_is_told_from_its_first_try_to_the_advice() {
    let local = Local::start("told", answering(&[503, 500]), RETRIES);
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    assert_eq!(local.get("/pay?card=4111", &format!("x-request-id: checkout-17\r\n{trace}")), 500);
    local.recorded(1);
    let (code, text, _) = local.explain(&["checkout-17"]);
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines[0], "GET /pay: 500, callee_error");
    let has = |start: &str, words: &[&str]| {
        let line = lines.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}"));
        assert!(words.iter().all(|word| line.contains(word)), "{line} lacks some of {words:?}");
    };
    has("who ", &["firebreak → shop/service2:80 (outbound)"]);
    has("trace ", &["4bf92f3577b34da6a3ce929d0e0e4736"]);
    has("policy ", &["TrafficPolicy shop/service2"]);
    has("verdict ", &["callee_error, which counts as failed"]);
    has("whose ", &["callee_app (the callee's application)"]);
    let tries: Vec<_> = lines.iter().filter(|line| line.contains("127.0.0.1:")).collect();
    assert_eq!(tries.len(), 2, "{text}");
    assert!(
        tries[0].contains(" 1  127.0.0.1:") && tries[0].ends_with("error, callee_error, 503, new connection"),
        "{text}"
    );
    assert!(
        tries[1].contains(" 2  127.0.0.1:") && tries[1].ends_with("error, callee_error, 500, new connection"),
        "{text}"
    );
    has("means ", &["The callee answered with a server error"]);
    has("next ", &["Look at the callee's log."]);
    assert!(!text.contains("4111"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 96), "{text}");
    for id in ["4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f35", "checkout"] {
        assert_eq!(local.explain(&[id]).1, text, "{id}");
    }
    let (_, json, _) = local.explain(&["checkout-17", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["proxy"], &json["records"][0]["tries"][1]["status"]), (&"firebreak".into(), &500.into()));
}

#[test]
fn what_was_slowed_and_what_failed_are_listed_and_what_succeeded_is_not() {
    let local = Local::start("listed", answering(&[200, 503, 200, 500]), RETRIES);
    let id = |id: &str| format!("x-request-id: {id}\r\n");
    assert_eq!(local.get("/", &id("shop-quick")), 200);
    assert_eq!(local.get("/", &id("shop-late")), 200);
    assert_eq!(local.get("/", &id("shop-lost")), 500);
    local.recorded(2);
    let (code, text, _) = local.explain(&["--last"]);
    assert_eq!(code, Some(0));
    let row = |id: &str| text.lines().position(|line| line.contains(id));
    assert!(row("shop-lost").unwrap() < row("shop-late").unwrap(), "the newest first: {text}");
    assert!(row("shop-quick").is_none(), "{text}");
    assert!(text.lines().any(|line| line.contains("shop-late") && line.contains("slowed")), "{text}");
    assert!(text.ends_with("Next: firebreak explain shop-lost tells one from beginning to end.\n"), "{text}");
    assert!(!local.explain(&["--last", "1"]).1.contains("shop-late"));

    let (_, late, _) = local.explain(&["shop-late"]);
    assert!(late.contains("slowed, which counts as succeeded_after_retry"), "{late}");
    let (code, _, several) = local.explain(&["shop-l", "--json"]);
    assert_eq!(code, Some(1), "six characters are too few: {several}");
    assert!(several.contains("Of a part of an id at least 8 characters are needed."), "{several}");
}

#[test]
fn an_id_that_could_be_several_is_asked_back() {
    let local = Local::start("several", answering(&[500]), "timeouts: {attempt: 5s}");
    for id in ["checkout-1", "checkout-2"] {
        assert_eq!(local.get("/", &format!("x-request-id: {id}\r\n")), 500);
    }
    local.recorded(2);
    let (code, _, error) = local.explain(&["checkout-"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("ask for one of them:\n  checkout-1\n  checkout-2\n"), "{error}");
}

#[test]
fn whoever_finds_nothing_is_told_what_to_do() {
    let local = Local::start("nothing", answering(&[200]), "timeouts: {attempt: 5s}");
    assert_eq!(local.get("/", "x-request-id: shop-quick\r\n"), 200);
    let (code, text, error) = local.explain(&["shop-quick"]);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(
        error.starts_with("no failed or slowed request shop-quick in the flight recorder of firebreak.\n"),
        "{error}"
    );
    assert!(error.contains("failed since ") && error.contains(" s ago)"), "{error}");
    assert!(local.explain(&["--last"]).1.starts_with("No request has failed at firebreak since "));

    let admin = local.admin.clone();
    drop(local);
    let (code, _, error) = explain(&["--last", "--admin", &admin]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("cannot connect to ") && error.contains("kubectl port-forward -n NAMESPACE POD "),
        "{error}"
    );
    assert!(error.contains("firebreak local"), "{error}");

    let other = answering(&[404]).to_string();
    let (code, _, error) = explain(&["--last", "--admin", &other]);
    assert_eq!(code, Some(2));
    assert!(error.contains("it answers /recorder with 404"), "{error}");
    let (code, _, error) = explain(&["--last", "--admin", "https://pod"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("`https://pod` is no admin port: write http://HOST:PORT"), "{error}");
    assert_eq!(explain(&[]).0, Some(2), "an id or --last");
}
