//! The test application is what the cluster's tests measure with, so it is tested first: caller against service on loopback.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
};

use firebreak_tests::{
    app::{GREETING, behaviour::Behaviour, call::Report, hold::Event, record::Record, tcp::Exchange},
    wait,
};
use serde::de::DeserializeOwned;

const APP: &str = env!("CARGO_BIN_EXE_firebreak-testapp");

/// A service on free ports, ended with the test.
struct Service {
    process: Child,
    http: u16,
    echo: u16,
    greeting: u16,
    control: u16,
}

impl Service {
    fn start() -> anyhow::Result<Self> {
        let listeners = (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
        let ports =
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<anyhow::Result<Vec<_>>>()?;
        drop(listeners);
        let names = ["--http", "--echo", "--greeting", "--control"];
        let arguments = names.iter().zip(&ports).flat_map(|(name, port)| [(*name).to_owned(), port.to_string()]);
        let process = Command::new(APP).arg("serve").args(arguments).spawn()?;
        let service = Self { process, http: ports[0], echo: ports[1], greeting: ports[2], control: ports[3] };
        wait::until("the service listens", || {
            Ok(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, ports[3])).is_ok())
        })?;
        Ok(service)
    }

    fn call(&self, path: &str, arguments: &[&str]) -> anyhow::Result<Report> {
        let url = format!("http://127.0.0.1:{}{path}", self.http);
        run(&[&["call", &url], arguments].concat())
    }

    fn behave(&self, behaviour: &Behaviour) -> anyhow::Result<()> {
        let json = serde_json::to_string(behaviour)?;
        let status = Command::new(APP).args(["behave", &json, "--port", &self.control.to_string()]).status()?;
        anyhow::ensure!(status.success(), "behave: {status}");
        Ok(())
    }

    fn record(&self) -> anyhow::Result<Record> {
        run(&["record", "--port", &self.control.to_string()])
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run<T: DeserializeOwned>(arguments: &[&str]) -> anyhow::Result<T> {
    let output = Command::new(APP).args(arguments).output()?;
    anyhow::ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn a_share_of_requests_fails_and_the_record_agrees() -> anyhow::Result<()> {
    let service = Service::start()?;
    service.behave(&Behaviour { status: 503, percent: 30, ..Behaviour::default() })?;
    let report = service.call("/", &["--count", "1000", "--concurrency", "10"])?;
    assert_eq!(report.sent, 1000);
    assert!((250..350).contains(&report.with("503")), "{:?}", report.outcomes);
    assert_eq!(report.with("200") + report.with("503"), 1000);
    let record = service.record()?;
    assert_eq!((record.tries, record.in_flight), (1000, 0));
    assert_eq!(record.tries_a_request()[&1], 1000);
    Ok(())
}

#[test]
fn a_request_says_itself_how_it_is_answered() -> anyhow::Result<()> {
    let service = Service::start()?;
    for protocol in ["http1", "http2"] {
        let report =
            service.call("/?status=418&delay=30", &["--protocol", protocol, "--each", "--header", "x-user: qa"])?;
        assert_eq!(report.with("418"), 1, "{report:?}");
        assert!(report.fastest >= 30, "{report:?}");
        assert!(report.each[0].body.contains(r#""x-user":"qa""#), "{report:?}");
    }
    let report = service.call("/?reset=true", &[])?;
    assert!(report.outcomes.keys().all(|outcome| outcome.starts_with("error")), "{report:?}");
    let report = service.call("/?size=5000", &["--each"])?;
    assert_eq!(report.each[0].body.len(), 2000);
    Ok(())
}

#[test]
fn a_hanging_service_sees_its_caller_go() -> anyhow::Result<()> {
    let service = Service::start()?;
    service.behave(&Behaviour { hang: true, ..Behaviour::default() })?;
    let report = service.call("/", &["--patience", "200ms"])?;
    assert_eq!(report.with("no answer"), 1);
    wait::until("the try has ended", || Ok(service.record()?.cut_after().len() == 1))?;
    let lasted = service.record()?.cut_after()[0].as_millis();
    assert!((150..400).contains(&lasted), "{lasted} ms");
    Ok(())
}

#[test]
fn grpc_is_answered_with_its_status() -> anyhow::Result<()> {
    let service = Service::start()?;
    let path = "/firebreak.test.Echo/Echo";
    assert_eq!(service.call(path, &["--protocol", "grpc"])?.with("grpc 0"), 1);
    assert_eq!(service.call(&format!("{path}?grpc_status=14"), &["--protocol", "grpc"])?.with("grpc 14"), 1);
    Ok(())
}

#[test]
fn a_held_stream_is_open_until_it_is_closed_or_cut() -> anyhow::Result<()> {
    for kind in ["websocket", "grpc"] {
        for cut in [false, true] {
            let service = Service::start()?;
            let authority = format!("127.0.0.1:{}", service.http);
            let mut command = Command::new(APP);
            let mut holder =
                command.args(["hold", kind, &authority]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut events = BufReader::new(holder.stdout.take().unwrap()).lines();
            let mut next = || -> anyhow::Result<Event> { Ok(serde_json::from_str(&events.next().unwrap()?)?) };
            assert_eq!(next()?, Event::Open, "{kind}");
            if cut {
                drop(service);
                let event = next()?;
                assert!(matches!(event, Event::Cut { .. }), "{kind}: {event:?}");
            } else {
                drop(holder.stdin.take());
                let event = next()?;
                assert!(matches!(event, Event::Closed { exchanges: 1.., .. }), "{kind}: {event:?}");
            }
            holder.wait()?;
        }
    }
    Ok(())
}

#[test]
fn tcp_is_echoed_and_greeted() -> anyhow::Result<()> {
    let service = Service::start()?;
    let echo: Exchange = run(&["talk", &format!("127.0.0.1:{}", service.echo), "--say", "hello"])?;
    assert_eq!(echo.lines, ["hello"]);
    let greeted: Exchange = run(&["talk", &format!("127.0.0.1:{}", service.greeting), "--greeted", "--say", "hello"])?;
    assert_eq!(greeted.lines, [GREETING.trim_end(), "hello"]);
    Ok(())
}
