//! A policy is changed while requests and streams are under way.

use std::time::Duration;

use firebreak_tests::{app::hold::Event, cluster::app::App, wait};

fn policy(request: &str) -> String {
    format!(
        "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: service2}}
spec:
  targetRefs: [{{kind: Service, name: service2}}]
  timeouts: {{request: {request}}}
"
    )
}

#[test]
fn a_change_is_in_force_within_three_seconds_and_cuts_no_stream() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply(&policy("30s"))?;
    super::in_force(&shop, "trafficpolicy/service2")?;
    let streams = [web.hold("websocket", "service2:80")?, web.hold("grpc", "service2:81")?];
    for (request, outcome) in [("200ms", "504"), ("30s", "200"), ("200ms", "504"), ("30s", "200")] {
        shop.apply(&policy(request))?;
        let took = wait::within(Duration::from_secs(3), "the change is in force", || {
            Ok(web.call("http://service2/?delay=400", "")?.with(outcome) == 1)
        })?;
        eprintln!("request: {request} in force after {took:?}");
    }
    for stream in streams {
        let end = stream.close()?;
        assert!(matches!(end, Event::Closed { exchanges: 10.., .. }), "{end:?}");
    }
    Ok(())
}

/// Break-glass: the annotation switches every policy off without a restart, and on again.
#[test]
fn a_transparent_namespace_forwards_and_does_nothing_else() -> anyhow::Result<()> {
    let shop = super::shop()?;
    let web = App::named(&shop, "web");
    shop.apply(&policy("200ms"))?;
    let ends_with = |outcome: &str| {
        wait::until("the switch is in force", || Ok(web.call("http://service2/?delay=400", "")?.with(outcome) == 1))
    };
    ends_with("504")?;
    shop.kubectl(&["annotate", "namespace", &shop.name, "firebreak.dev/transparent=true"])?;
    ends_with("200")?;
    shop.kubectl(&["annotate", "namespace", &shop.name, "firebreak.dev/transparent-"])?;
    ends_with("504")
}
