//! Whatever pods speak goes through the proxies of both pods unharmed, without a policy.

use std::time::Duration;

use firebreak_tests::{
    app::{GREETING, behaviour::Behaviour, hold::Event, tcp::Exchange},
    cluster::{Namespace, app::App},
    wait,
};

/// Enough that the kubelet's probes, which come once a second and are counted with what arrives, do not make up for it.
const CALLS: usize = 10;
/// How proxies count what is answered with 2xx, what becomes a WebSocket, and what they do not look into.
const ANSWERED: Counter = Counter("firebreak_requests_total", "code", "2xx");
const FAILED: Counter = Counter("firebreak_requests_total", "code", "5xx");
const UPGRADED: Counter = Counter("firebreak_requests_total", "code", "1xx");
const OPAQUE: Counter = Counter("firebreak_opaque_connections_total", "service", "unknown");

/// The name of a metric, and a label of its series.
#[derive(Clone, Copy)]
struct Counter(&'static str, &'static str, &'static str);

impl Counter {
    /// What the proxy of `app` counted in one direction.
    fn read(self, app: &App, direction: &str) -> anyhow::Result<f64> {
        let Self(name, label, value) = self;
        Ok(app.metrics()?.sum(name, &[("direction", direction), (label, value)]))
    }
}

/// Does something from `web`, and checks that its proxy and that of service2 count as much of it: all of it would arrive just as
/// well if there were no proxy.
fn through_both<T>(
    shop: &Namespace,
    counter: Counter,
    count: usize,
    act: impl FnOnce(&App) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let [web, service2] = ["web", "service2"].map(|name| App::named(shop, name));
    let counted = || anyhow::Ok([counter.read(&web, "outbound")?, counter.read(&service2, "inbound")?]);
    let before = counted()?;
    let result = act(&web)?;
    let expected = f64::from(u32::try_from(count)?) - 0.5;
    wait::within(Duration::from_secs(5), "both proxies have counted it", || {
        let after = counted()?;
        let more = [after[0] - before[0], after[1] - before[1]];
        anyhow::ensure!(more.iter().all(|more| *more > expected), "{}: {more:?} of {count}", counter.0);
        Ok(true)
    })?;
    Ok(result)
}

#[test]
fn http_and_grpc_pass() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let http = [(80, "http1"), (80, "http2"), (82, "http1"), (82, "http2")].map(|(port, protocol)| {
        let arguments = format!("--protocol {protocol} --method POST --body 200000");
        (format!("http://service2:{port}/?size=100000"), arguments, "200")
    });
    let grpc =
        [(81, 0, "grpc 0"), (82, 0, "grpc 0"), (81, 5, "grpc 5"), (82, 5, "grpc 5")].map(|(port, status, end)| {
            let url = format!("http://service2:{port}/firebreak.test.Echo/Echo?grpc_status={status}");
            (url, "--protocol grpc".to_owned(), end)
        });
    for (url, arguments, outcome) in http.iter().chain(&grpc) {
        let call = |web: &App| web.call(url, &format!("{arguments} --count {CALLS}"));
        let report = through_both(&shop, ANSWERED, CALLS, call)?;
        assert_eq!(report.with(outcome), CALLS, "{url} {arguments}: {report:?}");
    }
    Ok(())
}

#[test]
fn streams_pass_both_ways() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let streams = [
        ("websocket", "service2:80", UPGRADED, 1),
        ("websocket", "service2:82", UPGRADED, 1),
        ("grpc", "service2:81", ANSWERED, CALLS),
    ];
    for (kind, authority, counter, count) in streams {
        through_both(&shop, counter, count, |web| {
            let held: Vec<_> = (0..count).map(|_| web.hold(kind, authority)).collect::<Result<_, _>>()?;
            for held in held {
                let end = held.close()?;
                assert!(matches!(end, Event::Closed { .. }), "{kind} to {authority}: {end:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let talk = |arguments: &[&str]| through_both(&shop, OPAQUE, 1, |web| web.exec(&[&["talk"], arguments].concat()));
    let greeted: Exchange = talk(&["service2:2525", "--greeted", "--say", "hello"])?;
    assert_eq!(greeted.lines, [GREETING.trim_end(), "hello"]);
    assert!(greeted.first_line_ms < 500, "the greeting took {} ms", greeted.first_line_ms);
    let echoed: Exchange = talk(&["service2:9000", "--say", "hello"])?;
    assert_eq!(echoed.lines, ["hello"]);
    Ok(())
}

/// No policy, no clock: what takes its time is not cut off, and what fails is handed on as it is.
#[test]
fn without_a_policy_nothing_is_changed() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let service2 = App::named(&shop, "service2");
    service2.behave(&Behaviour { status: 503, delay: 2000, ..Behaviour::default() })?;
    let report = through_both(&shop, FAILED, 1, |web| web.call("http://service2/", "--each"))?;
    assert_eq!(report.with("503"), 1, "{report:?}");
    assert!(Duration::from_millis(report.fastest) >= Duration::from_secs(2), "{report:?}");
    assert!(report.each[0].body.contains("pod"), "the body is not the service's: {report:?}");
    assert_eq!(service2.record()?.tries, 1, "it was tried again without a policy");
    Ok(())
}
