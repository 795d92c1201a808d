//! The wire format: whatever a user may write survives the way from operator to proxy, and what was ever written parses.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which the lint does not recognise as such")]

use std::{collections::BTreeMap, fs, path::Path};

use firebreak_crds::{
    spec::{
        Abort, Algorithm, Backoff, BlastRadius, Budget, Bulkhead, CircuitBreaker, Concurrency, Condition, Delay,
        Deviation, Duration, EjectFor, Expression, FailureRate, Fault, Force, GrpcCheck, HalfOpen, HashKey,
        HealthCheck, Hedge, HttpCheck, HttpMatch, LabelSelector, LoadBalancing, Methods, OpenFor, Operator,
        OutlierDetection, PathMatch, Percent, Position, RateLimit, Recovery, Retries, Route, SlowCalls, TcpCheck,
        Throttle, Timeouts, TripOn, Truncate, ValueMatch,
    },
    wire::{self, Body, Config, Entry, Policy, Port, Protocol, Service, decode},
};
use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::select, sample::subsequence};

fn duration() -> impl Strategy<Value = Duration> {
    (1u64..400_000_000).prop_map(Duration::from_millis)
}

fn percent() -> impl Strategy<Value = Percent> {
    (0u32..100, 0u32..10_000).prop_map(|(whole, part)| format!("{whole}.{part:04}").parse().unwrap())
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let clock = || option::of(duration());
    (clock(), clock(), clock(), clock()).prop_map(|(connect, attempt, request, idle)| Timeouts {
        mode: None,
        connect,
        attempt,
        request,
        idle,
    })
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let all = vec![
        Condition::ConnectFailure,
        Condition::ResetBeforeResponse,
        Condition::RefusedStream,
        Condition::GatewayError,
        Condition::ServerError,
        Condition::Retriable4xx,
        Condition::Codes,
        Condition::GrpcCancelled,
        Condition::GrpcDeadlineExceeded,
        Condition::GrpcResourceExhausted,
        Condition::GrpcInternal,
        Condition::GrpcUnavailable,
    ];
    subsequence(all, 1..12)
}

fn retries() -> impl Strategy<Value = Retries> {
    let backoff = (option::of(duration()), option::of(duration())).prop_map(|(base, max)| Backoff { base, max });
    let budget = (option::of(percent()), option::of(0u32..1_000), option::of(duration()))
        .prop_map(|(percent, min_per_second, window)| Budget { percent, min_per_second, window });
    let methods = select(vec![Methods::Safe, Methods::Idempotent, Methods::All]);
    let codes = option::of(vec(400u16..600, 0..4));
    (
        option::of(0u8..=10),
        option::of(conditions()),
        codes,
        option::of(methods),
        option::of(backoff),
        option::of(budget),
    )
        .prop_map(|(max_retries, conditions, codes, methods, backoff, budget)| Retries {
            mode: None,
            max_retries,
            conditions,
            codes,
            methods,
            backoff,
            budget,
        })
}

fn bulkhead() -> impl Strategy<Value = Bulkhead> {
    let limit = || option::of(1u32..10_000);
    (limit(), limit(), limit(), option::of(duration())).prop_map(
        |(max_connections, max_requests, max_pending, max_pending_time)| Bulkhead {
            mode: None,
            max_connections,
            max_requests,
            max_pending,
            max_pending_time,
        },
    )
}

fn circuit_breaker() -> impl Strategy<Value = CircuitBreaker> {
    let rate = || (percent(), option::of(duration()), option::of(1u32..1_000));
    let failures = rate().prop_map(|(percent, window, min_requests)| FailureRate { percent, window, min_requests });
    let slow = (rate(), duration()).prop_map(|((percent, window, min_requests), threshold)| SlowCalls {
        percent,
        threshold,
        window,
        min_requests,
    });
    let trips = (option::of(1u32..100), option::of(failures), option::of(slow)).prop_map(
        |(consecutive_failures, failure_rate, slow_calls)| TripOn { consecutive_failures, failure_rate, slow_calls },
    );
    let open = (option::of(duration()), option::of(duration())).prop_map(|(initial, max)| OpenFor { initial, max });
    let half = option::of(1u32..100).prop_map(|probes| HalfOpen { probes });
    let recovery = (option::of(duration()), option::of(percent()))
        .prop_map(|(ramp, start_percent)| Recovery { ramp, start_percent });
    let force = select(vec![Force::Open, Force::Closed]);
    (option::of(trips), option::of(open), option::of(half), option::of(recovery), option::of(force)).prop_map(
        |(trip_on, open_for, half_open, recovery, force)| CircuitBreaker {
            mode: None,
            trip_on,
            open_for,
            half_open,
            recovery,
            force,
        },
    )
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let algorithm = select(vec![
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::Hash,
    ]);
    let hash = either().prop_map(|(header, cookie)| HashKey { header, cookie });
    (option::of(algorithm), option::of(hash), option::of(duration()))
        .prop_map(|(algorithm, hash, slow_start)| LoadBalancing { algorithm, hash, slow_start })
}

fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let rate = (option::of(percent()), option::of(duration()), option::of(1u32..1_000))
        .prop_map(|(above_others, window, min_requests)| Deviation { above_others, window, min_requests });
    let eject_for =
        (option::of(duration()), option::of(duration())).prop_map(|(initial, max)| EjectFor { initial, max });
    (option::of(1u32..100), option::of(rate), option::of(eject_for)).prop_map(
        |(consecutive_failures, failure_rate, eject_for)| OutlierDetection {
            mode: None,
            consecutive_failures,
            failure_rate,
            eject_for,
        },
    )
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let text = || option::of("[a-z.]{1,20}");
    let asks = (
        option::of(("/[a-z]{0,9}", text()).prop_map(|(path, host)| HttpCheck { path, host })),
        option::of(text().prop_map(|service| GrpcCheck { service })),
        option::of(Just(TcpCheck {})),
    );
    let times = (option::of(duration()), option::of(duration()));
    (asks, option::of(1u16..), times, option::of(1u32..100), option::of(1u32..100)).prop_map(
        |((http, grpc, tcp), port, (interval, timeout), unhealthy_after, healthy_after)| HealthCheck {
            http,
            grpc,
            tcp,
            port,
            interval,
            timeout,
            unhealthy_after,
            healthy_after,
        },
    )
}

fn either() -> impl Strategy<Value = (Option<String>, Option<String>)> {
    ("[ -~]{0,20}", any::<bool>()).prop_map(|(text, exact)| if exact { (Some(text), None) } else { (None, Some(text)) })
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = either().prop_map(|(exact, prefix)| PathMatch { exact, prefix });
    let value = either().prop_map(|(exact, prefix)| ValueMatch { exact, prefix });
    let headers = vec(("[a-z-]{1,12}", value), 0..3).prop_map(|pairs| pairs.into_iter().collect::<BTreeMap<_, _>>());
    (option::of(path), vec("[A-Z]{1,8}", 0..3), headers).prop_map(|(path, methods, headers)| HttpMatch {
        path,
        methods,
        headers,
    })
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let operator = select(vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let expression = ("[a-z]{1,8}", operator, vec("[a-z]{1,8}", 0..3)).prop_map(|(key, operator, values)| Expression {
        key,
        operator,
        values,
    });
    (prop::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..3), vec(expression, 0..3))
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_labels, match_expressions })
}

fn policy() -> impl Strategy<Value = Policy> {
    (part(), option::of(part())).prop_map(|(policy, observe)| Policy { observe: observe.map(Box::new), ..policy })
}

fn part() -> impl Strategy<Value = Policy> {
    let hedge = || {
        let hedge = (option::of(duration()), option::of(percent()));
        option::of(hedge.prop_map(|(after, max_extra_load_percent)| Hedge {
            mode: None,
            after,
            max_extra_load_percent,
        }))
    };
    let route = (http_match(), option::of(timeouts()), option::of(retries()), hedge())
        .prop_map(|(matches, timeouts, retries, hedge)| Route { matches, timeouts, retries, hedge });
    let (breaker, bulkhead) = (option::of(circuit_breaker()), option::of(bulkhead()));
    let rate = (1u32..1_000, option::of(1u32..1_000)).prop_map(|(requests_per_second, burst)| RateLimit {
        mode: None,
        requests_per_second,
        burst,
    });
    let clocks = (option::of(timeouts()), option::of(retries()), hedge());
    let limits = (bulkhead, option::of(rate));
    let balancing = (option::of(load_balancing()), option::of(outlier_detection()), option::of(health_check()));
    (option::of(selector()), clocks, breaker, limits, balancing, vec(route, 0..3)).prop_map(
        |(
            from,
            (timeouts, retries, hedge),
            circuit_breaker,
            (bulkhead, rate_limit),
            (load_balancing, outlier_detection, health_check),
            routes,
        )| Policy {
            from,
            timeouts,
            retries,
            hedge,
            circuit_breaker,
            bulkhead,
            load_balancing,
            outlier_detection,
            health_check,
            rate_limit,
            routes,
            observe: None,
        },
    )
}

fn fault() -> impl Strategy<Value = wire::Fault> {
    let length = || option::of(duration());
    let delay = (percent(), length(), length(), length(), length(), length())
        .prop_map(|(percent, fixed, min, max, p50, p99)| Delay { percent, fixed, min, max, p50, p99 });
    let ends = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let abort = (percent(), option::of(400u16..600), option::of(1u8..=16), ends).prop_map(
        |(percent, http_status, grpc_status, (reset, refuse, blackhole, reset_after_headers))| Abort {
            percent,
            http_status,
            grpc_status,
            reset,
            refuse,
            blackhole,
            reset_after_headers,
        },
    );
    let truncate = (percent(), any::<u64>()).prop_map(|(percent, after_bytes)| Truncate { percent, after_bytes });
    let throttle =
        (percent(), any::<u32>()).prop_map(|(percent, bytes_per_second)| Throttle { percent, bytes_per_second });
    let one = (option::of(delay), option::of(abort), option::of(truncate), option::of(throttle))
        .prop_map(|(delay, abort, truncate, throttle)| Fault { delay, abort, truncate, throttle });
    let end = (0i64..4_000_000_000).prop_map(|second| Timestamp::from_second(second).unwrap());
    let radius = option::of((1u32..1_000_000).prop_map(|max_active| BlastRadius { max_active }));
    let at = select(vec![Position::Attempt, Position::Request]);
    let what = (vec(http_match(), 0..3), vec(one, 1..4), at);
    (option::of(selector()), what, any::<u64>(), radius, end, duration()).prop_map(
        |(from, (matches, faults, at), seed, blast_radius, expires_at, duration)| wire::Fault {
            from,
            matches,
            faults,
            at,
            seed,
            blast_radius,
            expires_at,
            duration,
        },
    )
}

fn inbound() -> impl Strategy<Value = wire::Inbound> {
    let limit = || option::of(1u32..10_000);
    let concurrency = (limit(), limit(), limit(), limit(), limit(), option::of(duration())).prop_map(
        |(initial, min, max, tolerance_percent, max_pending, max_pending_time)| Concurrency {
            initial,
            min,
            max,
            tolerance_percent,
            max_pending,
            max_pending_time,
        },
    );
    let name = || "[a-z]{1,8}/[a-z]{1,8}";
    let targets = (option::of("[a-z]{1,8}"), vec(any::<u16>(), 0..3), vec(endpoint(), 0..3));
    let port = (any::<u16>(), targets, option::of(name()), option::of(concurrency), vec(name(), 0..3)).prop_map(
        |(port, (target_name, targets, endpoints), policy, concurrency, faults)| wire::InboundPort {
            port,
            target_name,
            targets,
            endpoints,
            policy,
            concurrency,
            faults,
        },
    );
    let labels = || proptest::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..3);
    (labels(), vec(port, 0..3)).prop_map(|(selector, ports)| wire::Inbound { selector, ports })
}

fn endpoint() -> impl Strategy<Value = wire::Endpoint> {
    let address = || any::<std::net::SocketAddrV4>().prop_map(Into::into);
    (address(), option::of(address())).prop_map(|(address, beside)| wire::Endpoint { address, beside })
}

fn service() -> impl Strategy<Value = Service> {
    let protocol = select(vec![Protocol::Detect, Protocol::Http, Protocol::Tcp]);
    let endpoints = vec(endpoint(), 0..3);
    let names = || vec("[a-z]{1,8}/[a-z]{1,8}", 0..3);
    let port = (option::of("[a-z]{1,8}"), any::<u16>(), protocol, option::of(endpoints), names(), names(), names())
        .prop_map(|(name, port, protocol, endpoints, policies, observe, faults)| Port {
            name,
            port,
            protocol,
            listen: Vec::new(),
            endpoints,
            policies,
            observe,
            faults,
        });
    (vec(any::<std::net::IpAddr>(), 0..3), vec(port, 0..3)).prop_map(|(addresses, ports)| Service { addresses, ports })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read(
        services in vec(service(), 0..3),
        policies in vec(policy(), 0..3),
        faults in vec(fault(), 0..3),
        inbound in vec(inbound(), 0..3),
        transparent: bool,
    ) {
        let services = services.into_iter().map(Body::Service);
        let bodies = services.chain(policies.into_iter().map(Body::Policy)).chain(faults.into_iter().map(Body::Fault));
        let bodies = bodies.chain(inbound.into_iter().map(Body::Inbound));
        let entry = |(number, body)| Entry { name: format!("shop/o{number}"), generation: 7, body };
        let config = Config { namespace: "shop".into(), transparent, entries: bodies.enumerate().map(entry).collect() };
        let (document, revision) = config.encode().unwrap();
        let decoded = decode(document.as_bytes()).unwrap();
        prop_assert_eq!(&decoded.problems, &[]);
        prop_assert_eq!(&decoded.ignored, &[] as &[String]);
        let mut expected = config.entries;
        expected.sort_by(|a, b| (a.body.kind(), &a.name).cmp(&(b.body.kind(), &b.name)));
        prop_assert_eq!(&decoded.config.entries, &expected);
        prop_assert_eq!(decoded.config.encode().unwrap(), (document, revision));
    }

    /// Nothing that a file may hold makes a reader panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }
}

/// Every document that a released operator could write, as it was written.
#[test]
fn documents_of_every_version_parse() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let decoded = decode(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((decoded.problems, decoded.ignored), (vec![], vec![]), "{}", path.display());
        assert!(!decoded.config.entries.is_empty(), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 1);
}
