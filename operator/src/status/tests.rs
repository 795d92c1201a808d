use firebreak_crds::resources::{Phase, condition};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::*;
use crate::{
    Event, Update,
    affected::Affected,
    scenario::{
        all_published, fault, key, namespace, noon, options, policy, running, service, service_with, verdicts, world,
    },
};

const FAULTS: [(&str, &str); 1] = [("firebreak.dev/faults", "enabled")];

fn on(name: &str) -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": name}]})
}

fn shop(more: impl IntoIterator<Item = Event>) -> World {
    let fixed = [namespace("shop", &FAULTS), service("shop/a", 1, &["http:80"])];
    world(fixed.into_iter().chain(more))
}

fn published_verdicts(world: &World, policy: &str) -> Vec<String> {
    verdicts(world, &all_published(world, &options(noon())), policy)
}

#[test]
fn a_policy_in_force() {
    let world = shop([policy("shop/p", 1, on("a"))]);
    assert_eq!(
        published_verdicts(&world, "shop/p"),
        [
            "Accepted=True Accepted: the policy is valid",
            "ResolvedRefs=True ResolvedRefs: every target exists",
            "Published=True Published: in the config of namespace shop",
            "Programmed=Unknown NoAcknowledgements: proxies do not report which config they run",
            "Ready=True Published: in the config of namespace shop",
        ]
    );
}

#[test]
fn published_follows_what_the_config_map_holds() {
    let mut world = shop([policy("shop/p", 1, on("a"))]);
    let mut published = Published::default();
    let third = |world: &World, published: &Published| verdicts(world, published, "shop/p")[2].clone();
    assert_eq!(third(&world, &published), "Published=False Pending: not yet in the config of namespace shop");
    published = all_published(&world, &options(noon()));
    let mut newer = world.policies.get(&key("shop/p")).unwrap().clone();
    newer.meta.generation = 2;
    world.apply(Event::Policy(Update::Apply(newer)));
    assert_eq!(third(&world, &published), "Published=False Pending: not yet in the config of namespace shop");
    assert!(published.failed("shop", Problem::TooLarge { bytes: 2_000_000, limit: 1_000_000 }));
    assert!(!published.failed("shop", Problem::TooLarge { bytes: 2_000_001, limit: 1_000_000 }), "said before");
    assert!(
        third(&world, &published)
            .starts_with("Published=False ConfigTooLarge: namespace shop: the config has 2000001 bytes")
    );
}

#[test]
fn what_cannot_be_resolved_says_what_is_missing() {
    let headless = json!({"clusterIP": "None", "ports": [{"port": 80}]});
    let alias = json!({"type": "ExternalName", "externalName": "example.com"});
    let section = json!({"targetRefs": [{"kind": "Service", "name": "a", "sectionName": "grpc"}]});
    let world = shop([
        service_with("shop/headless", &headless),
        service_with("shop/alias", &alias),
        policy("shop/gone", 1, on("gone")),
        policy("shop/port", 1, section),
        policy("shop/headless", 1, on("headless")),
        policy("shop/alias", 1, on("alias")),
    ]);
    for (name, expected) in [
        ("shop/gone", "ResolvedRefs=False TargetNotFound: Service shop/gone does not exist"),
        ("shop/port", "ResolvedRefs=False PortNotFound: Service shop/a has no TCP port named grpc: it has http"),
        ("shop/headless", "ResolvedRefs=False NeedsEndpoints: Service shop/headless is headless"),
        ("shop/alias", "ResolvedRefs=False ExternalName: Service shop/alias is an ExternalName"),
    ] {
        let lines = published_verdicts(&world, name);
        assert!(lines[1].starts_with(expected), "{lines:?}");
        assert!(lines[4].starts_with("Ready=False"), "{lines:?}");
    }
}

#[test]
fn the_loser_of_a_claim_learns_who_has_it() {
    let two = json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "b"}]});
    let world = shop([
        service("shop/b", 2, &["http:80"]),
        policy("shop/old", 1, on("a")),
        policy("shop/young", 2, on("a")),
        policy("shop/both", 3, two),
    ]);
    let message = "Service shop/a is claimed by TrafficPolicy shop/old, which is older and has the same `from`";
    let young = published_verdicts(&world, "shop/young");
    assert_eq!(young[0], format!("Accepted=False Conflicted: {message}"));
    assert_eq!(young[2], format!("Published=False Conflicted: {message}"));
    let both = published_verdicts(&world, "shop/both");
    assert_eq!(both[0], format!("Accepted=False Conflicted: {message}; the other targets are in force"));
    assert_eq!(both[2], "Published=True Published: in the config of namespace shop");
}

#[test]
fn nobody_is_called_older_who_is_of_the_same_second() {
    let two = json!({"targetRefs": [{"kind": "Service", "name": "a"}, {"kind": "Service", "name": "b"}]});
    let world = shop([
        service("shop/b", 2, &["http:80"]),
        policy("shop/old", 1, on("a")),
        policy("shop/first", 2, on("b")),
        policy("shop/second", 2, two),
    ]);
    let message = "Service shop/a is claimed by TrafficPolicy shop/old, which is older and has the same `from`; \
                   Service shop/b is claimed by TrafficPolicy shop/first, which is of the same second with a name that \
                   comes first and has the same `from`";
    assert_eq!(published_verdicts(&world, "shop/second")[0], format!("Accepted=False Conflicted: {message}"));
    let world = shop([fault("shop/e", 1, on("a"), &running()), fault("shop/f", 1, on("a"), &json!({}))]);
    let message = life(&world, noon()).message.unwrap();
    let expected =
        "Service shop/a: FaultSpec shop/e is active there and of the same second with a name that comes first";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn what_does_not_parse_is_told_by_field() {
    let mut world = shop([]);
    let object = json!({"metadata": {"namespace": "shop", "name": "p"},
                        "spec": {"targetRefs": [], "timeouts": {"request": "soon"}}});
    world.apply(Event::Policy(Update::Apply(Policy::from_json(object).unwrap())));
    let lines = published_verdicts(&world, "shop/p");
    assert!(
        lines[0].starts_with("Accepted=False Invalid: spec.timeouts.request: `soon` is not a duration"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("ResolvedRefs=Unknown Invalid"), "{lines:?}");
}

#[test]
fn warnings_are_in_the_message_and_refuse_nothing() {
    let mut spec = on("a");
    spec["timeouts"] = json!({"attempt": "2s", "request": "3s"});
    spec["retries"] = json!({"maxRetries": 3});
    let world = shop([policy("shop/p", 1, spec)]);
    let lines = published_verdicts(&world, "shop/p");
    assert!(lines[0].starts_with("Accepted=True Accepted: the policy is valid; warning: retries "), "{lines:?}");
}

#[test]
fn a_policy_that_nobody_is_under() {
    let mut spec = on("a");
    spec["from"] = json!({"namespaceSelector": {"matchLabels": {"team": "nobody"}}});
    let lines = published_verdicts(&shop([policy("shop/p", 1, spec)]), "shop/p");
    assert!(lines[2].starts_with("Published=False NoCallers"), "{lines:?}");
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut world = shop([policy("shop/p", 1, on("a"))]);
    let published = all_published(&world, &options(noon()));
    let at = |world: &World, now: Timestamp| {
        Judge::new(world, &published, &options(now)).policy(world.policies.get(&key("shop/p")).unwrap())
    };
    let first = at(&world, noon());
    let mut seen = world.policies.get(&key("shop/p")).unwrap().clone();
    seen.status = first.clone();
    world.apply(Event::Policy(Update::Apply(seen)));
    assert_eq!(at(&world, noon() + 1.hour()), first, "nothing to write");
    let services = Event::Service(Update::Reset(vec![]));
    world.apply(services);
    let later = at(&world, noon() + 2.hours());
    let time = |status: &TrafficPolicyStatus, type_: &str| {
        let found = status.conditions.iter().find(|it| it.type_ == type_).unwrap();
        found.last_transition_time.0
    };
    assert_eq!(time(&later, condition::RESOLVED_REFS), noon() + 2.hours());
    assert_eq!(time(&later, condition::ACCEPTED), noon());
}

#[test]
fn the_table_shows_targets_and_protections() {
    let spec = json!({
        "targetRefs": [{"kind": "Service", "name": "a", "sectionName": "http"},
                       {"kind": "Service", "name": "api", "namespace": "payments"},
                       {"kind": "Namespace", "name": "shop"}],
        "retries": {}, "hedge": {"after": "50ms"}, "loadBalancing": {}, "outlierDetection": {}, "healthCheck": {"tcp": {}}, "routes": [{"match": {}, "retries": {}}],
    });
    let world = shop([policy("shop/p", 1, spec)]);
    let (published, options) = (Published::default(), options(noon()));
    let status = Judge::new(&world, &published, &options).policy(world.policies.get(&key("shop/p")).unwrap());
    assert_eq!(status.target.as_deref(), Some("a:http, payments/api, namespace"));
    assert_eq!(
        status.protections.as_deref(),
        Some("timeouts, retries, hedging, balancing, outliers, health checks, 1 route")
    );
    let accepted = status.conditions.iter().find(|it| it.type_ == condition::ACCEPTED).unwrap();
    assert!(accepted.message.starts_with("the policy is valid; warning: loadBalancing has no effect in a cluster yet"));
    assert!(accepted.message.contains("; warning: outlierDetection has no effect in a cluster yet"));
}

/// The status of the fault `shop/f` at `now`, and whether the config of `shop` holds it.
fn life(world: &World, now: Timestamp) -> FaultSpecStatus {
    let options = options(now);
    let published = all_published(world, &options);
    Judge::new(world, &published, &options).fault(world.faults.get(&key("shop/f")).unwrap())
}

/// The API server takes `status` and gives it back.
fn write(world: &mut World, status: FaultSpecStatus) {
    let mut fault = world.faults.get(&key("shop/f")).unwrap().clone();
    fault.status = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
    world.apply(Event::Fault(Update::Apply(fault)));
}

#[test]
fn a_fault_from_start_to_end() {
    let mut world = shop([fault("shop/f", 1, on("a"), &json!({}))]);
    let start = noon() + 300.milliseconds();
    let first = life(&world, start);
    assert_eq!(first.phase, Some(Phase::Pending));
    assert_eq!(first.expires_at.as_ref().unwrap().0, noon() + 10.minutes() + 1.second());
    write(&mut world, first.clone());
    let second = life(&world, start + 1.second());
    assert_eq!(second.phase, Some(Phase::Running));
    assert_eq!(
        (&second.started_at.as_ref().unwrap().0, &second.expires_at),
        (&noon(), &first.expires_at),
        "they never move"
    );
    assert_eq!(second.message.as_deref(), Some("in the config of namespace shop; ends at 2026-03-01T12:10:01Z"));
    write(&mut world, second.clone());
    assert_eq!(life(&world, start + 2.minutes()), second, "nothing to write");
    let end = noon() + 10.minutes() + 1.second();
    assert_eq!((next_end(&world, noon()), next_end(&world, end)), (Some(end), None));
    let ends = |since: Timestamp, now: Timestamp| !Affected::by_time(&world, since, now).is_empty();
    assert!(!ends(noon(), end - 1.nanosecond()) && ends(noon(), end) && !ends(end, end + 1.hour()));
    let last = life(&world, noon() + 11.minutes());
    assert_eq!((last.phase, last.message.as_deref()), (Some(Phase::Completed), Some("ended at 2026-03-01T12:10:01Z")));
    write(&mut world, last.clone());
    assert_eq!(life(&world, noon() + 1.hour()), last, "nothing to write");
}

#[test]
fn suspend_stops_a_fault_and_does_not_move_its_end() {
    let mut spec = on("a");
    spec["suspend"] = json!(true);
    let stopped = life(&shop([fault("shop/f", 1, spec.clone(), &running())]), noon());
    assert_eq!((stopped.phase, stopped.expires_at.unwrap().0), (Some(Phase::Suspended), noon() + 9.minutes()));
    let over = life(&shop([fault("shop/f", 1, spec.clone(), &running())]), noon() + 9.minutes());
    assert_eq!(over.phase, Some(Phase::Completed));
    let unstarted = life(&shop([fault("shop/f", 1, spec, &json!({}))]), noon());
    assert_eq!((unstarted.phase, unstarted.started_at), (Some(Phase::Suspended), None));
}

#[test]
fn of_two_active_faults_the_younger_is_refused_for_good() {
    let older = || fault("shop/older", 1, json!({"targetRefs": [{"kind": "Namespace", "name": "shop"}]}), &running());
    let mut world = shop([older(), fault("shop/f", 2, on("a"), &json!({}))]);
    let refused = life(&world, noon());
    assert_eq!((refused.phase, &refused.started_at), (Some(Phase::Refused), &None));
    let message = refused.message.clone().unwrap();
    assert!(message.starts_with("Service shop/a: FaultSpec shop/older is active there and older"), "{message}");
    write(&mut world, refused.clone());
    world.apply(Event::Fault(Update::Delete(key("shop/older"))));
    assert_eq!(life(&world, noon() + 1.minute()), refused, "it does not start when nobody watches any more");
}

#[test]
fn faults_that_meet_nowhere_do_not_conflict() {
    let other_port = json!({"targetRefs": [{"kind": "Service", "name": "a", "sectionName": "admin"}]});
    let here = json!({"targetRefs": [{"kind": "Service", "name": "a", "sectionName": "http"}]});
    let consumer = json!({"targetRefs": [{"kind": "Service", "name": "x", "namespace": "far"}]});
    let stopped = json!({"targetRefs": [{"kind": "Service", "name": "a"}], "suspend": true});
    let over = json!({"startedAt": "2026-03-01T11:00:00Z", "expiresAt": "2026-03-01T11:10:00Z"});
    let consumers = json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop"}]});
    let world = shop([
        fault("front/consumer", 1, consumers.clone(), &running()),
        fault("back/consumer", 4, consumers, &running()),
        fault("shop/port", 1, other_port, &running()),
        fault("shop/stopped", 1, stopped, &running()),
        fault("shop/over", 1, on("a"), &over),
        fault("one/consumer", 1, consumer.clone(), &running()),
        fault("two/consumer", 2, consumer, &running()),
        fault("shop/f", 3, here, &json!({})),
    ]);
    assert_eq!(super::fault::conflicts(&world, noon()).into_keys().collect::<Vec<_>>(), [] as [Key; 0]);
}

#[test]
fn neither_the_consumers_fault_nor_the_producers_keeps_the_other_from_starting() {
    let consumers = json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop"}]});
    for (consumer, producer) in [(1, 2), (2, 1)] {
        let world = shop([
            namespace("front", &FAULTS),
            fault("front/theirs", consumer, consumers.clone(), &running()),
            fault("front/again", 3, consumers.clone(), &json!({})),
            fault("shop/f", producer, on("a"), &running()),
        ]);
        let ours = life(&world, noon());
        assert_eq!(ours.phase, Some(Phase::Running));
        assert_eq!(ours.message.unwrap(), "in the config of namespaces front, shop; ends at 2026-03-01T12:09:00Z");
        let lost = super::fault::conflicts(&world, noon());
        assert_eq!(lost.into_keys().collect::<Vec<_>>(), [key("front/again")], "of one namespace there is one");
    }
}

#[test]
fn callers_without_the_label_are_named() {
    let spec = on("a");
    let mixed = shop([namespace("front", &[]), fault("shop/f", 1, spec.clone(), &running())]);
    let accepted = life(&mixed, noon()).conditions[0].message.clone();
    assert_eq!(
        accepted,
        "the fault is valid; warning: callers in namespace front are not hit, for want of the label firebreak.dev/faults=enabled"
    );
    let none =
        world([namespace("shop", &[]), service("shop/a", 1, &["http:80"]), fault("shop/f", 1, spec, &running())]);
    let status = life(&none, noon());
    assert_eq!(status.phase, Some(Phase::Pending), "nobody's config holds it");
    assert!(status.message.unwrap().starts_with("nobody is hit: no namespace that it is for"));
}

#[test]
fn a_policy_that_is_observed_says_so_and_claims_nothing_of_those_in_force() {
    let with = |mode: &str| {
        let mut spec = on("a");
        spec["mode"] = json!(mode);
        spec
    };
    let mut mixed = on("a");
    mixed["bulkhead"] = json!({"mode": "Observe", "maxRequests": 1});
    let world = shop([
        policy("shop/observed", 1, with("Observe")),
        policy("shop/observed-too", 2, with("Observe")),
        policy("shop/enforced", 3, mixed),
    ]);
    let observed = published_verdicts(&world, "shop/observed");
    assert_eq!(observed[0], "Accepted=True Accepted: the policy is valid, and is observed: it changes nothing");
    assert!(observed[2].starts_with("Published=True"), "{observed:?}");
    let loser = published_verdicts(&world, "shop/observed-too");
    assert!(loser[0].contains("Conflicted: Service shop/a is claimed by TrafficPolicy shop/observed, which is older"));
    let enforced = published_verdicts(&world, "shop/enforced");
    assert!(enforced[0].starts_with("Accepted=True") && enforced[2].starts_with("Published=True"), "{enforced:?}");
    assert!(
        enforced[0].ends_with(
            "warning: what it observes (bulkhead) is not observed for callers that TrafficPolicy shop/observed is for, \
         which is observed in its place"
        ),
        "{enforced:?}"
    );
}

#[test]
fn a_stronger_policy_without_a_limit_takes_it_away_and_the_weaker_one_says_so() {
    let limit = |mut spec: Value| {
        spec["inbound"] = json!({"concurrency": {}});
        spec
    };
    let whole = json!({"targetRefs": [{"kind": "Namespace", "name": "shop"}]});
    let port = json!({"targetRefs": [{"kind": "Service", "name": "a", "sectionName": "http"}]});
    let said = |more: Vec<Event>, name: &str| published_verdicts(&shop(more), name)[0].clone();
    let weaker = || policy("shop/whole", 1, limit(whole.clone()));
    let silenced = said(vec![weaker(), policy("shop/own", 2, on("a"))], "shop/whole");
    assert!(
        silenced.ends_with(
            "; warning: inbound has no effect at Service shop/a: TrafficPolicy shop/own is stronger there and has no \
             `inbound`, and nothing is merged; give it one too"
        ),
        "{silenced}"
    );
    let mut observed = on("a");
    observed["mode"] = json!("Observe");
    let mut some = on("a");
    some["from"] = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    for (harmless, why) in [
        (policy("shop/own", 2, limit(on("a"))), "it has one of its own"),
        (policy("shop/own", 2, observed), "what is observed takes nothing away"),
        (policy("shop/own", 2, some), "it does not count beside the callee"),
        (
            policy("web/own", 2, json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "shop"}]})),
            "nor does it",
        ),
    ] {
        assert_eq!(
            said(vec![weaker(), harmless], "shop/whole"),
            "Accepted=True Accepted: the policy is valid",
            "{why}"
        );
    }
    let narrow = said(vec![policy("shop/own", 2, limit(on("a"))), policy("shop/port", 1, port.clone())], "shop/own");
    assert!(
        narrow.contains("no effect at port http of Service shop/a: TrafficPolicy shop/port is stronger"),
        "{narrow}"
    );
    let (wide, narrow) = (policy("shop/whole", 2, whole), policy("shop/port", 1, limit(port)));
    assert_eq!(
        said(vec![wide, narrow], "shop/port"),
        "Accepted=True Accepted: the policy is valid",
        "it is the stronger"
    );
}

#[test]
fn what_acts_beside_the_callee_needs_to_know_its_pods() {
    let limit = |target: &str| {
        let mut spec = on(target);
        spec["inbound"] = json!({"concurrency": {}});
        spec
    };
    let with = |selector: Value, target: Value| json!({"clusterIPs": ["10.96.0.9"], "selector": selector, "ports": [{"port": 80, "targetPort": target}]});
    let world = shop([
        service_with("shop/bare", &with(json!({}), json!(8080))),
        service_with("shop/named", &with(json!({"app": "n"}), json!("web"))),
        service_with("shop/sound", &with(json!({"app": "s"}), json!(8080))),
        policy("shop/bare", 1, limit("bare")),
        policy("shop/named", 1, limit("named")),
        policy("shop/sound", 1, limit("sound")),
        policy(
            "shop/foreign",
            1,
            json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "other"}],
            "inbound": {"concurrency": {}}}),
        ),
    ]);
    for (name, place, expected) in [
        ("shop/bare", 1, "ResolvedRefs=False NoSelector: Service shop/bare has no selector"),
        (
            "shop/named",
            1,
            "ResolvedRefs=False TargetPortUnknown: port 80 of Service shop/named leads to the port named web",
        ),
        ("shop/sound", 1, "ResolvedRefs=True"),
        (
            "shop/foreign",
            0,
            "Accepted=False Invalid: spec.targetRefs[0].namespace: `inbound` acts in the proxies of the callee",
        ),
    ] {
        let lines = published_verdicts(&world, name);
        assert!(lines[place].starts_with(expected), "{lines:?}");
    }
}

#[test]
fn a_fault_beside_the_callee_hits_pods_of_its_own_namespace() {
    let mut spec = on("h");
    spec["at"] = json!("Inbound");
    let headless = json!({"clusterIP": "None", "selector": {"app": "h"}, "ports": [{"port": 80}]});
    let status = |labels: &[(&str, &str)]| {
        let events = [
            namespace("shop", labels),
            namespace("front", &FAULTS),
            service_with("shop/h", &headless),
            fault("shop/beside", 1, spec.clone(), &running()),
        ];
        let world = world(events);
        let options = options(noon());
        let published = all_published(&world, &options);
        Judge::new(&world, &published, &options).fault(world.faults.get(&key("shop/beside")).unwrap())
    };
    let message = |status: &firebreak_crds::resources::FaultSpecStatus, of: &str| {
        status.conditions.iter().find(|it| it.type_ == of).unwrap().message.clone()
    };
    let running = status(&FAULTS);
    assert_eq!(running.phase, Some(Phase::Running), "{running:?}");
    assert_eq!(message(&running, condition::RESOLVED_REFS), "every target exists");
    assert!(
        message(&running, condition::PUBLISHED).starts_with("in the config of namespace shop; ends at"),
        "{running:?}"
    );
    let spared = status(&[]);
    assert!(
        message(&spared, condition::ACCEPTED).contains("warning: pods in namespace shop are not hit"),
        "{spared:?}"
    );
    assert!(message(&spared, condition::PUBLISHED).starts_with("nobody is hit"), "{spared:?}");
}
