use http::{Request, Response};
use kube::client::Body;
use tokio::{sync::watch, time::sleep};
use tower::service_fn;

use super::*;

fn values(touches: Vec<Touch>) -> Vec<(String, String)> {
    touches.into_iter().map(|it| (it.namespace, it.value)).collect()
}

fn shop(value: &str) -> [(String, String); 1] {
    [("shop".into(), value.into())]
}

fn pod(config: Option<&str>, created: i64) -> Pod {
    let created = Timestamp::from_second(created).unwrap();
    Pod { config: config.map(Into::into), created, ..Pod::default() }
}

#[tokio::test(start_paused = true)]
async fn each_config_touches_twice_with_two_values() {
    let (mut rounds, now) = (Rounds::default(), Instant::now());
    rounds.written("shop", "abc", now);
    assert_eq!(rounds.next(), Some(now + SOON));
    assert!(rounds.take(now).is_empty());
    assert_eq!(values(rounds.take(now + SOON)), shop("abc"));
    assert_eq!(values(rounds.take(now + AGAIN)), shop("abc/2"));
    assert_eq!(rounds.next(), None);
}

#[tokio::test(start_paused = true)]
async fn a_newer_config_takes_the_older_ones_place() {
    let (mut rounds, now) = (Rounds::default(), Instant::now());
    rounds.written("shop", "abc", now);
    assert_eq!(rounds.take(now + SOON).len(), 1);
    rounds.written("shop", "def", now + SOON);
    assert_eq!(values(rounds.take(now + AGAIN)), shop("def"));
    assert_eq!(rounds.next(), Some(now + SOON + AGAIN));
}

#[tokio::test(start_paused = true)]
async fn of_a_config_that_was_found_only_what_was_left_behind_is_touched() {
    let (mut rounds, now, written) = (Rounds::default(), Instant::now(), Timestamp::from_second(100).ok());
    rounds.found("shop", "abc", now);
    let (first, second) = (rounds.take(now + SOON).remove(0), rounds.take(now + AGAIN).remove(0));
    for (pod, wanted) in [
        (pod(Some("old/2"), 1), (true, true)),
        (pod(Some("abc"), 1), (false, true)),
        (pod(Some("abc/2"), 1), (false, false)),
        (pod(None, 99), (true, true)),
        (pod(None, 100), (true, true)),
        (pod(None, 101), (false, false)),
    ] {
        assert_eq!((first.wants(&pod, written), second.wants(&pod, written)), wanted, "{pod:?}");
    }
    assert!(first.wants(&pod(None, 101), None), "nobody knows how old the content is");
}

#[tokio::test(start_paused = true)]
async fn a_config_that_was_written_touches_every_pod_and_is_not_displaced() {
    let (mut rounds, now) = (Rounds::default(), Instant::now());
    rounds.written("shop", "abc", now);
    rounds.found("shop", "abc", now);
    let first = rounds.take(now + SOON).remove(0);
    assert!(first.wants(&pod(Some("abc/2"), 1), None), "it may have had another config since");
}

/// A poker that may touch so many pods a second: where to ask, and the paths that it asks the API server for, each with the
/// time.
struct Stage {
    ask: mpsc::UnboundedSender<(Key, String)>,
    requests: mpsc::UnboundedReceiver<(String, Instant)>,
}

fn stage(per_second: u32) -> Stage {
    let (seen, requests) = mpsc::unbounded_channel();
    let server = service_fn(move |request: Request<Body>| {
        let _ = seen.send((request.uri().path().to_owned(), Instant::now()));
        async { Ok::<_, tower::BoxError>(Response::new(Body::from(br#"{"metadata": {}}"#.to_vec()))) }
    });
    let (client, per_second) = (Client::new(server, "default"), NonZeroU32::new(per_second).unwrap());
    let held = Held::told(watch::channel(true).1);
    let (poker, ask) = Poker::new(client, per_second, held, Metrics::new().0);
    tokio::spawn(poker.run(CancellationToken::new()));
    Stage { ask, requests }
}

impl Stage {
    fn ask(&self, namespace: &str, pod: usize, value: &str) {
        self.ask.send((Key::new(namespace, format!("pod-{pod:02}")), value.to_owned())).unwrap();
    }

    fn requests(&mut self) -> Vec<(String, Instant)> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_pods_a_second_and_no_more() {
    let mut stage = stage(10);
    sleep(Duration::from_mins(1)).await;
    // What was not used while nobody waited is not made up for.
    let begin = Instant::now();
    (0..35).for_each(|pod| stage.ask("shop", pod, "abc"));
    sleep(Duration::from_secs(10)).await;
    let times: Vec<_> = stage.requests().into_iter().map(|(_, time)| time).collect();
    assert_eq!(times.len(), 35, "each once");
    let shortest = times.windows(2).map(|pair| pair[1].duration_since(pair[0])).min().unwrap();
    assert!(shortest >= Duration::from_millis(100), "{shortest:?}");
    assert!(times[34].duration_since(begin) <= Duration::from_millis(3_600), "and not fewer");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_changes_all_the_time_does_not_keep_the_others_waiting() {
    let mut stage = stage(10);
    (0..100).for_each(|pod| stage.ask("aaa", pod, "0"));
    stage.ask("shop", 0, "abc");
    for change in 1..60 {
        sleep(Duration::from_millis(200)).await;
        (0..100).for_each(|pod| stage.ask("aaa", pod, &change.to_string()));
    }
    let paths: Vec<_> = stage.requests().into_iter().map(|(path, _)| path).collect();
    let shop = paths.iter().position(|path| path == "/api/v1/namespaces/shop/pods/pod-00");
    assert!(shop.is_some_and(|place| place <= 2), "{shop:?}");
    let last = paths.iter().filter(|path| path.ends_with("/aaa/pods/pod-99")).count();
    assert_eq!(last, 1, "the first has no second turn before the last has one: {paths:?}");
}
