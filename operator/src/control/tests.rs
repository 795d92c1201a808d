//! The control task against an API server that takes everything: which requests it makes, in which order, and when none.

use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tower::service_fn;

use super::*;
use crate::{
    index::{Fault, Pod, Policy},
    scenario::{fault, namespace, policy, service},
};

const CONFIG: &str = "PATCH /api/v1/namespaces/shop/configmaps/firebreak-proxy";
const POLICY: &str = "PATCH /apis/firebreak.dev/v1alpha1/namespaces/shop/trafficpolicies/p/status";
const FAULT: &str = "PATCH /apis/firebreak.dev/v1alpha1/namespaces/shop/faultspecs/f/status";

/// A control task on its own, with both ends in the test's hands.
struct Stage {
    news: mpsc::Sender<News>,
    held: watch::Sender<bool>,
    requests: mpsc::UnboundedReceiver<(String, Value)>,
    pokes: mpsc::UnboundedReceiver<(Key, String)>,
    known: oneshot::Receiver<Option<SocketAddr>>,
    /// The version that the API server says every object has; as it is sent, if there is none.
    versions: watch::Sender<Option<&'static str>>,
    stop: CancellationToken,
}

fn stage() -> Stage {
    let (seen, requests) = mpsc::unbounded_channel();
    let (versions, version) = watch::channel(None);
    let server = service_fn(move |request: Request<Body>| {
        let (seen, version) = (seen.clone(), *version.borrow());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let mut object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let _ = seen.send((format!("{} {}", head.method, head.uri.path()), object.clone()));
            if let Some(version) = version {
                object["metadata"]["resourceVersion"] = json!(version);
            }
            Ok::<_, tower::BoxError>(Response::new(Body::from(object.to_string().into_bytes())))
        }
    });
    let client = Client::new(server, "default");
    let (held, is_held) = watch::channel(false);
    let (news, incoming) = mpsc::channel(64);
    let (poke, pokes) = mpsc::unbounded_channel();
    let (known, is_known) = oneshot::channel();
    let (stop, (metrics, _)) = (CancellationToken::new(), Metrics::new());
    // Events are not what is tested here: nobody tells them.
    let (teller, _telling) = Teller::new(client.clone(), "a", metrics.clone(), stop.clone());
    let control = Control {
        client,
        own_namespace: "firebreak-system".into(),
        held: Held::told(is_held),
        teller,
        pokes: Some(poke),
        known: Some(known),
        injector: Key::new("firebreak-system", "firebreak-injector"),
        metrics,
        state: State::default(),
    };
    tokio::spawn(control.run(incoming, stop.clone()));
    Stage { news, held, requests, pokes, known: is_known, versions, stop }
}

impl Stage {
    async fn tell(&self, event: Event) {
        self.news.send(News::World(Box::new(event))).await.unwrap();
    }

    /// Everything is listed, with `config_maps` in force, and then `events` come.
    async fn begin(&self, events: Vec<Event>, config_maps: Vec<configmap::Held>) {
        for event in [
            Event::Namespace(Update::Reset(vec![])),
            Event::Service(Update::Reset(vec![])),
            Event::Pod(Update::Reset(vec![])),
            Event::Policy(Update::Reset(vec![])),
            Event::Fault(Update::Reset(vec![])),
        ] {
            self.tell(event).await;
        }
        for event in events {
            self.tell(event).await;
        }
        self.news.send(News::ConfigMap(Update::Reset(config_maps))).await.unwrap();
    }

    /// The next request, which must be `expected`; its body.
    async fn next(&mut self, expected: &str) -> Value {
        let (request, object) = self.requests.recv().await.unwrap();
        assert_eq!(request, expected, "{object}");
        object
    }

    /// Nothing is asked for as long as anybody would wait.
    async fn quiet(&mut self) {
        sleep(Duration::from_secs(20)).await;
        if let Ok(request) = self.requests.try_recv() {
            panic!("{request:?}");
        }
    }

    /// The pods that are touched as long as anybody would wait, and with what, in order.
    async fn touched(&mut self) -> Vec<(String, String)> {
        sleep(Duration::from_secs(20)).await;
        let mut touched = Vec::new();
        while let Ok((pod, value)) = self.pokes.try_recv() {
            touched.push((pod.name, value));
        }
        touched
    }

    /// The watch shows the `ConfigMap` of `shop` as it was written.
    async fn show_config(&self, written: &Value) {
        self.news.send(News::ConfigMap(Update::Apply(held(written)))).await.unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn held(written: &Value) -> configmap::Held {
    let mut map: ConfigMap = serde_json::from_value(written.clone()).unwrap();
    map.metadata.namespace = Some("shop".into());
    map.into()
}

/// A pod with the proxy in `shop`, created so many seconds after the epoch and last touched with `config`.
fn pod(name: &str, created: i64, config: Option<&str>) -> Event {
    let (key, created) = (Key::new("shop", name), Timestamp::from_second(created).unwrap());
    let config = config.map(ToOwned::to_owned);
    Event::Pod(Update::Apply(Pod { key, injected: true, running: true, created, config, ..Pod::default() }))
}

fn on_a() -> Value {
    json!({"targetRefs": [{"kind": "Service", "name": "a"}]})
}

fn shop() -> Vec<Event> {
    vec![
        namespace("shop", &[("firebreak.dev/faults", "enabled")]),
        service("shop/a", 1, &["http:80"]),
        policy("shop/p", 1, on_a()),
    ]
}

/// The policy as the watch shows it with the status that was written.
fn with_status(written: &Value) -> Event {
    let Event::Policy(Update::Apply(mut policy)) = policy("shop/p", 1, on_a()) else { panic!("not a policy") };
    policy.status = serde_json::from_value(written["status"].clone()).unwrap();
    Event::Policy(Update::<Policy>::Apply(policy))
}

fn entries(config: &Value) -> String {
    config["data"]["config.json"].as_str().unwrap().to_owned()
}

fn published(status: &Value) -> String {
    let conditions = status["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|it| it["type"] == "Published").unwrap()["status"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing_and_writes_what_differs_once_it_leads() {
    let mut stage = stage();
    stage.begin(shop(), vec![]).await;
    stage.quiet().await;
    stage.held.send_replace(true);
    let config = stage.next(CONFIG).await;
    assert!(entries(&config).contains("\"shop/p\""));
    let status = stage.next(POLICY).await;
    assert_eq!(published(&status), "True", "the config was written before the status speaks of it");
    assert_eq!(status["metadata"]["uid"], "u", "only this life of the object");
    stage.show_config(&config).await;
    stage.tell(with_status(&status)).await;
    stage.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_world_is_told_where_the_injector_is_when_all_of_it_is_known() {
    let mut stage = stage();
    stage.tell(service("firebreak-system/firebreak-injector", 7, &["https:443"])).await;
    stage.tell(Event::Namespace(Update::Reset(vec![]))).await;
    stage.quiet().await;
    assert!(stage.known.try_recv().is_err(), "not all of it");
    stage.begin(vec![service("firebreak-system/firebreak-injector", 7, &["https:443"])], vec![]).await;
    let known = std::mem::replace(&mut stage.known, oneshot::channel().1);
    assert_eq!(known.await.unwrap(), Some("10.96.0.7:443".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_new_holder_finds_everything_in_order_and_writes_nothing() {
    let mut first = stage();
    first.held.send_replace(true);
    first.begin(shop(), vec![]).await;
    let (config, status) = (first.next(CONFIG).await, first.next(POLICY).await);
    let mut second = stage();
    second.held.send_replace(true);
    let mut world = shop();
    world.push(with_status(&status));
    second.begin(world, vec![held(&config)]).await;
    second.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_the_last_holder_left_behind_are_touched_and_no_others() {
    let mut first = stage();
    first.held.send_replace(true);
    let mut world = shop();
    world.push(pod("any", 1, Some("whatever")));
    first.begin(world, vec![]).await;
    let (mut config, status) = (first.next(CONFIG).await, first.next(POLICY).await);
    let revision = held(&config).revision;
    let again = format!("{revision}/2");
    assert_eq!(first.touched().await, [("any".into(), revision.clone()), ("any".into(), again.clone())]);

    config["metadata"]["managedFields"] = json!([
        {"manager": "firebreak-operator", "operation": "Apply", "time": "1970-01-01T00:01:40Z"},
        {"manager": "somebody", "operation": "Update", "time": "1970-01-02T00:00:00Z"},
    ]);
    let mut second = stage();
    second.held.send_replace(true);
    let mut world = shop();
    world.extend([
        with_status(&status),
        pod("behind", 1, Some("older/2")),
        pod("halfway", 1, Some(&revision)),
        pod("older", 99, None),
        pod("touched", 1, Some(&again)),
        pod("younger", 101, None),
    ]);
    second.begin(world, vec![held(&config)]).await;
    let expected =
        [("behind", &revision), ("older", &revision), ("behind", &again), ("halfway", &again), ("older", &again)];
    assert_eq!(second.touched().await, expected.map(|(pod, value)| (pod.into(), value.clone())));
    second.show_config(&config).await;
    assert_eq!(second.touched().await, [], "each once");
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_or_spoiled_is_written_again_and_what_nobody_names_is_not() {
    let mut stage = stage();
    stage.held.send_replace(true);
    stage.begin(shop(), vec![]).await;
    let (config, status) = (stage.next(CONFIG).await, stage.next(POLICY).await);
    stage.show_config(&config).await;
    stage.tell(with_status(&status)).await;
    stage.tell(service("shop/unrelated", 9, &["http:80"])).await;
    stage.quiet().await;
    stage.news.send(News::ConfigMap(Update::Delete(configmap::key("shop")))).await.unwrap();
    assert_eq!(stage.next(CONFIG).await, config);
    stage.show_config(&config).await;
    let mut spoiled = config.clone();
    spoiled["data"]["config.json"] = json!("{}");
    stage.show_config(&spoiled).await;
    assert_eq!(stage.next(CONFIG).await, config);
}

#[tokio::test(start_paused = true)]
async fn losing_the_lease_ends_all_writing() {
    let mut stage = stage();
    stage.held.send_replace(true);
    stage.begin(shop(), vec![]).await;
    stage.next(CONFIG).await;
    stage.next(POLICY).await;
    stage.held.send_replace(false);
    stage.quiet().await;
    stage.tell(policy("shop/q", 2, on_a())).await;
    stage.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_faults_start_is_on_record_before_any_config_holds_it() {
    let mut stage = stage();
    stage.held.send_replace(true);
    stage.begin(shop(), vec![]).await;
    let (config, status) = (stage.next(CONFIG).await, stage.next(POLICY).await);
    stage.show_config(&config).await;
    stage.tell(with_status(&status)).await;
    stage.tell(fault("shop/f", 1, on_a(), &json!({}))).await;
    let started = stage.next(FAULT).await;
    assert_eq!(started["status"]["phase"], "Pending");
    assert!(started["status"]["startedAt"].is_string() && started["status"]["expiresAt"].is_string(), "{started}");
    stage.quiet().await;
    let Event::Fault(Update::Apply(mut fault)) = fault("shop/f", 1, on_a(), &json!({})) else { panic!("not a fault") };
    fault.status = serde_json::from_value(started["status"].clone()).unwrap();
    stage.tell(Event::Fault(Update::<Fault>::Apply(fault))).await;
    assert!(entries(&stage.next(CONFIG).await).contains("FaultSpec"));
    let running = stage.next(FAULT).await;
    assert_eq!(running["status"]["phase"], "Running");
    assert_eq!(running["status"]["startedAt"], started["status"]["startedAt"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_carrier_takes_its_namespaces_config_along() {
    let mut stage = stage();
    stage.held.send_replace(true);
    stage.begin(shop(), vec![]).await;
    let (config, status) = (stage.next(CONFIG).await, stage.next(POLICY).await);
    stage.show_config(&config).await;
    stage.tell(with_status(&status)).await;
    stage.tell(namespace("shop", &[("firebreak.dev/inject", "disabled")])).await;
    stage.next("DELETE /api/v1/namespaces/shop/configmaps/firebreak-proxy").await;
}

/// The policy as the watch shows it in its version 7, with `status` in it.
fn in_version_7(status: &Value) -> Event {
    let metadata = json!({"namespace": "shop", "name": "p", "uid": "u", "generation": 1, "resourceVersion": "7"});
    let Event::Policy(Update::Apply(mut policy)) = policy("shop/p", 1, on_a()) else { panic!("not a policy") };
    let read = Policy::from_json(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap();
    policy.meta.resource_version = read.meta.resource_version;
    policy.status = read.status;
    Event::Policy(Update::<Policy>::Apply(policy))
}

#[tokio::test(start_paused = true)]
async fn a_write_that_changed_nothing_is_not_awaited_since_nobody_will_show_it() {
    let mut stage = stage();
    stage.held.send_replace(true);
    let mut world = shop();
    world[2] = in_version_7(&json!({}));
    stage.begin(world, vec![]).await;
    let config = stage.next(CONFIG).await;
    let status = stage.next(POLICY).await;
    assert_eq!(status["metadata"]["resourceVersion"], "7", "what the API server answers: nothing changed");
    stage.show_config(&config).await;
    stage.quiet().await;
    stage.tell(Event::Service(Update::Delete(Key::new("shop", "a")))).await;
    stage.next(CONFIG).await;
    let status = timeout(Duration::from_mins(1), stage.next(POLICY)).await.expect("the status goes on");
    assert!(status["status"]["conditions"].to_string().contains("TargetNotFound"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_config_map_that_stays_as_it_was_is_tried_again_and_touches_nobody() {
    let mut stage = stage();
    stage.held.send_replace(true);
    let mut world = shop();
    world.push(pod("any", 1, None));
    // Somebody takes our label off whatever we write, so that the answer is the object as it was.
    let spoiled = json!({"metadata": {"name": "firebreak-proxy", "resourceVersion": "7"}, "data": {}});
    stage.versions.send_replace(Some("7"));
    stage.begin(world, vec![held(&spoiled)]).await;
    stage.next(CONFIG).await;
    stage.next(POLICY).await;
    assert_eq!(stage.touched().await, []);
    stage.tell(service("shop/a", 2, &["http:80"])).await;
    let config = timeout(Duration::from_mins(1), stage.next(CONFIG)).await.expect("tried again");
    assert!(entries(&config).contains("10.96.0.2"), "{config}");
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_are_left_alone() {
    let mut stage = stage();
    stage.held.send_replace(true);
    stage.begin(shop(), vec![]).await;
    let (config, mut status) = (stage.next(CONFIG).await, stage.next(POLICY).await);
    stage.show_config(&config).await;
    status["status"]["conditions"].as_array_mut().unwrap().push(json!({
        "type": "example.com/Reviewed", "status": "True", "reason": "Reviewed", "message": "",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }));
    stage.tell(in_version_7(&status["status"])).await;
    stage.tell(service("shop/a", 3, &["http:80"])).await;
    stage.next(CONFIG).await;
    stage.quiet().await;
}
