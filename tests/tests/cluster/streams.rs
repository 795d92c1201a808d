//! HTTP/2 and gRPC: many requests share a connection, and each has clocks and a place of its own.

use firebreak_tests::{
    app::{behaviour::Behaviour, call::Report},
    cluster::app::App,
    wait,
};

/// Port, protocol and path of a call, and the outcomes of one that was given up and of one that was refused.
const CALLS: [(u16, &str, &str, &str, &str); 4] = [
    (80, "http2", "/", "504", "503"),
    (82, "http2", "/", "504", "503"),
    (81, "grpc", "/firebreak.test.Echo/Echo", "grpc 4", "grpc 8"),
    (82, "grpc", "/firebreak.test.Echo/Echo", "grpc 4", "grpc 8"),
];

fn policy(protection: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: service2}}
spec:
  targetRefs: [{{kind: Service, name: service2}}]
  {protection}
"
    )
}

fn summary(report: &Report) -> impl std::fmt::Debug {
    (report.outcomes.clone(), report.reasons.clone(), report.fastest, report.slowest)
}

#[test]
fn each_call_has_its_own_clocks() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    for (clocks, reason) in [("attempt: 500ms", "attempt_timeout"), ("request: 500ms", "request_timeout")] {
        shop.apply(&policy(&format!("timeouts: {{{clocks}}}")))?;
        super::in_force(&shop, "trafficpolicy/service2")?;
        for (port, protocol, path, given_up, _) in CALLS {
            let url = format!("http://service2:{port}{path}");
            // A load beside them, on the same connections: those who hang are no reason to give up the others.
            let beside = web.load(&url, &format!("--protocol {protocol} --pause 10ms"))?;
            let report = web.call(
                &format!("{url}?hang=true"),
                &format!("--protocol {protocol} --count 20 --concurrency 20 --patience 10s"),
            )?;
            let beside = beside.end()?;
            let context = format!("{clocks}, {protocol} on port {port}");
            assert_eq!(report.with(given_up), 20, "{context}: {report:?}");
            assert_eq!(report.reasons.get(reason), Some(&20), "{context}: {report:?}");
            assert!(report.fastest >= 490 && report.slowest < 2000, "{context}: {:?}", summary(&report));
            let well = if protocol == "grpc" { "grpc 0" } else { "200" };
            assert_eq!(beside.with(well), beside.sent, "{context}: {beside:?}");
        }
    }
    Ok(())
}

#[test]
fn each_call_takes_a_place_though_all_share_a_connection() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let (web, service2) = (App::named(&shop, "web"), App::named(&shop, "service2"));
    shop.apply(&policy("bulkhead: {maxRequests: 10, maxPending: 5, maxPendingTime: 1s}"))?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    for (port, protocol, path, _, refused) in CALLS {
        service2.behave(&Behaviour::default())?;
        let report = web.call(
            &format!("http://service2:{port}{path}?hang=true"),
            &format!("--protocol {protocol} --count 20 --concurrency 20 --patience 3s"),
        )?;
        let context = format!("{protocol} on port {port}: {:?}", summary(&report));
        assert_eq!(report.with("no answer"), 10, "{context}");
        assert_eq!(report.with(refused), 10, "{context}");
        assert_eq!(report.reasons.get("bulkhead_full"), Some(&5), "{context}");
        assert_eq!(report.reasons.get("bulkhead_timeout"), Some(&5), "{context}");
        assert_eq!(service2.record()?.most_in_flight, 10, "{context}");
        wait::until("the places are given back", || Ok(service2.record()?.in_flight == 0))?;
    }
    Ok(())
}
