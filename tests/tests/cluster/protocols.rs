//! Whatever pods speak goes through the proxy unharmed, without a policy.

use std::time::Duration;

use firebreak_tests::{
    app::{GREETING, behaviour::Behaviour, hold::Event, tcp::Exchange},
    cluster::app::App,
};

#[test]
fn http_and_grpc_pass() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    for port in [80, 82] {
        for protocol in ["http1", "http2"] {
            let url = format!("http://service2:{port}/?size=100000");
            let report = web.call(&url, &format!("--protocol {protocol} --count 10 --method POST --body 200000"))?;
            assert_eq!(report.with("200"), 10, "{protocol} on port {port}: {report:?}");
        }
    }
    for port in [81, 82] {
        let url = format!("http://service2:{port}/firebreak.test.Echo/Echo");
        let report = web.call(&url, "--protocol grpc --count 10")?;
        assert_eq!(report.with("grpc 0"), 10, "port {port}: {report:?}");
        let report = web.call(&format!("{url}?grpc_status=5"), "--protocol grpc")?;
        assert_eq!(report.with("grpc 5"), 1, "port {port}: {report:?}");
    }
    Ok(())
}

#[test]
fn streams_pass_both_ways() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    for (kind, authority) in [("websocket", "service2:80"), ("websocket", "service2:82"), ("grpc", "service2:81")] {
        let held = web.hold(kind, authority)?;
        let end = held.close()?;
        assert!(matches!(end, Event::Closed { .. }), "{kind} to {authority}: {end:?}");
    }
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    let greeted: Exchange = web.exec(&["talk", "service2:2525", "--greeted", "--say", "hello"])?;
    assert_eq!(greeted.lines, [GREETING.trim_end(), "hello"]);
    assert!(greeted.first_line_ms < 500, "the greeting took {} ms", greeted.first_line_ms);
    let echoed: Exchange = web.exec(&["talk", "service2:9000", "--say", "hello"])?;
    assert_eq!(echoed.lines, ["hello"]);
    Ok(())
}

/// No policy, no clock: what takes its time is not cut off, and what fails is handed on as it is.
#[test]
fn without_a_policy_nothing_is_changed() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    service2.behave(&Behaviour { status: 503, delay: 2000, ..Behaviour::default() })?;
    let report = web.call("http://service2/", "--each")?;
    assert_eq!(report.with("503"), 1, "{report:?}");
    assert!(Duration::from_millis(report.fastest) >= Duration::from_secs(2), "{report:?}");
    assert!(report.each[0].body.contains("pod"), "the body is not the service's: {report:?}");
    assert_eq!(service2.record()?.tries, 1, "it was tried again without a policy");
    Ok(())
}
