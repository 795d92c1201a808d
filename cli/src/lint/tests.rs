use super::*;
use crate::manifest::Source;

/// `line field: message` of every finding.
fn lint(text: &str) -> Vec<String> {
    let report = check(&Manifests::parse(&[Source { name: "a.yaml".into(), text: text.into() }])).unwrap();
    let line = |finding: &Finding| format!("{} {}: {}", finding.line, finding.field, finding.message);
    report.findings.iter().map(line).collect()
}

/// Findings about a policy whose spec, after targetRefs (line 7), is `rest`.
fn policy(rest: &str) -> Vec<String> {
    lint(&format!(
        "apiVersion: firebreak.dev/v1alpha1\nkind: TrafficPolicy\nmetadata:\n  name: a\n  namespace: shop\nspec:\n  \
         targetRefs: [{{kind: Service, name: a}}]\n{rest}"
    ))
}

fn fault(rest: &str) -> Vec<String> {
    lint(&format!(
        "apiVersion: firebreak.dev/v1alpha1\nkind: FaultSpec\nmetadata:\n  name: a\n  namespace: shop\nspec:\n  \
         targetRefs: [{{kind: Service, name: a}}]\n{rest}"
    ))
}

#[test]
fn sound_objects_have_no_findings() {
    assert_eq!(policy("  timeouts: {attempt: 300ms, request: 3s}\n  retries: {maxRetries: 3}\n"), [""; 0]);
    assert_eq!(fault("  duration: 10m\n  faults:\n  - delay: {percent: \"0.5\", fixed: 20s}\n"), [""; 0]);
    assert_eq!(lint("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"), [""; 0]);
    assert_eq!(lint("replicas: 3\n"), [""; 0], "values of a chart are no object");
}

/// Each row: what stands below targetRefs, and the finding.
const POLICIES: [(&str, &str); 16] = [
    (
        "  timeout: {attempt: 1s}\n  bulkhead: {maxRequests: 1}\n",
        "8 spec.timeout: unknown field; did you mean `timeouts`?",
    ),
    (
        "  timeouts: {attempt: 1.5s}\n",
        "8 spec.timeouts.attempt: `1.5s` is not a duration: write up to four parts such as 1h30m, 3s or 300ms (units h, m, \
             s, ms; no fractions)",
    ),
    (
        "  timeouts: {attempt: 5}\n",
        "8 spec.timeouts.attempt: must be text with a unit, not a number: write 5s or 5ms, if that is meant",
    ),
    (
        "  timeouts: {attempt: 0s}\n",
        "8 spec.timeouts.attempt: must be longer than 0s: to switch a limit off, leave it out",
    ),
    (
        "  timeouts:\n    attempt: 5s\n    request: 1s\n",
        "8 spec.timeouts: attempt is longer than request: one try could never finish; shorten attempt or lengthen request",
    ),
    ("  retries: {maxRetries: 11}\n", "8 spec.retries.maxRetries: must be at most 10, not 11"),
    (
        "  retries: {methods: idempotent}\n",
        "8 spec.retries.methods: must be one of Safe, Idempotent, All, not `idempotent`; did you mean Idempotent?",
    ),
    ("  retries: {codes: [503, 503]}\n", "8 spec.retries.codes: has the same entry twice: remove one of the two"),
    (
        "  retries: {budget: {percent: 101}}\n",
        "8 spec.retries.budget.percent: a percentage is an integer from 0 to 100, or a string with at most four decimals such \
             as \"0.1\"",
    ),
    (
        "  retries: {budget: {percent: 0.5}}\n",
        "8 spec.retries.budget.percent: must be an integer or text: write \"0.5\" in quotes, since YAML floats do not survive \
             every tool",
    ),
    (
        "  bulkhead: {maxPending: 5}\n",
        "8 spec.bulkhead: a bulkhead needs maxConnections or maxRequests: without one of them nothing ever waits",
    ),
    (
        "  routes:\n  - match: {path: {prefix: api}}\n    timeouts: {attempt: 1s}\n",
        "9 spec.routes[0].match.path: a path starts with /",
    ),
    (
        "  routes:\n  - match: {methods: [get]}\n    timeouts: {attempt: 1s}\n",
        "9 spec.routes[0].match.methods[0]: `get` must match ^[A-Z][A-Z-]*$; did you mean `GET`?",
    ),
    (
        "  routes:\n  - match: {headers: {x-beta: {exact: yes}}}\n    timeouts: {attempt: 1s}\n",
        "9 spec.routes[0].match.headers.x-beta.exact: must be text: YAML 1.1, and so kubectl, reads `yes` as true; write \
             \"yes\" in quotes",
    ),
    (
        "  on: {}\n  bulkhead: {maxRequests: 1}\n",
        "8 spec.true: unknown field: YAML 1.1, and so kubectl, reads the key `on` as true; quote it if it is meant",
    ),
    (
        "",
        "6 spec: the policy does nothing: set timeouts, retries, hedge, circuitBreaker, bulkhead, loadBalancing, outlierDetection, healthCheck, rateLimit, inbound or routes",
    ),
];

#[test]
fn policies_with_one_mistake() {
    for (text, expected) in POLICIES {
        let found = policy(text);
        let found: Vec<&String> =
            found.iter().filter(|line| !line.contains("codes") || expected.contains("twice")).collect();
        // The last one goes on with every policy there is.
        let fits = |line: &&String| if text.is_empty() { line.starts_with(expected) } else { *line == expected };
        assert!(found.iter().any(fits), "{text}\nwanted {expected}\nfound {found:#?}");
        assert!(found.len() <= 2, "{text}\n{found:#?}");
    }
}

#[test]
fn faults_with_one_mistake() {
    let delay = "  faults: [{delay: {percent: 50, fixed: 20s}}]\n";
    let table = [
        (delay.to_owned(), "6 spec: duration is missing: a fault must have an end, at most 24h after its start"),
        (
            format!("  duration: 25h\n{delay}"),
            "6 spec: duration is longer than 24h: a fault that outlives the day is an outage; split the experiment",
        ),
        (
            "  duration: 1m\n  faults: [{delay: {percent: 101, fixed: 20s}}]\n".to_owned(),
            "9 spec.faults[0].delay.percent: a percentage is an integer from 0 to 100, or a string with at most four decimals \
             such as \"0.1\"",
        ),
        (
            "  duration: 1m\n  faults: [{abort: {percent: 1, httpStatus: 503, reset: true}}]\n".to_owned(),
            "9 spec.faults[0].abort: an abort is exactly one of httpStatus, grpcStatus, reset: true, refuse: true, blackhole: true \
             and resetAfterHeaders: true",
        ),
        ("  duration: 1m\n  faults: []\n".to_owned(), "9 spec.faults: needs at least 1 entry"),
        (
            "  duration: 1m\n".to_owned(),
            "6 spec.faults: is missing: What goes wrong. Each fault is drawn independently; delays come before aborts",
        ),
    ];
    for (text, expected) in table {
        let found = fault(&text);
        let short = expected.split(". ").next().unwrap_or_default();
        assert!(
            found.iter().any(|line| line == expected || line == short),
            "{text}\nwanted {expected}\nfound {found:#?}"
        );
    }
}

#[test]
fn the_object_as_a_whole() {
    let head = "apiVersion: firebreak.dev/v1\nkind: TrafficPolicy\n";
    assert_eq!(
        lint(head),
        ["1 apiVersion: must be firebreak.dev/v1alpha1: v1alpha1 is the only version of firebreak.dev"]
    );
    let head = "apiVersion: firebreak.dev/v1alpha1\nkind: Trafficpolicy\n";
    assert_eq!(lint(head), ["2 kind: must be one of FaultSpec, TrafficPolicy; did you mean TrafficPolicy?"]);
    assert_eq!(lint("kind: FaultSpec\n").len(), 1, "without apiVersion it is still meant to be ours");
    let other = "apiVersion: gateway.kgateway.dev/v1alpha1\nkind: TrafficPolicy\n";
    assert_eq!(lint(other), [""; 0], "another group's kind of the same name");
    let found =
        lint("apiVersion: firebreak.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {Name: A}\nspec:\n  targetRefs: []\n");
    for expected in
        ["3 metadata.Name: unknown field; did you mean `name`?", "5 spec.targetRefs: needs at least 1 entry"]
    {
        assert!(found.contains(&expected.to_owned()), "{found:#?}");
    }
}

#[test]
fn a_null_is_dropped_by_the_api_server_so_it_is_a_warning() {
    let found = policy("  timeouts:\n  bulkhead: {maxRequests: 1}\n");
    assert_eq!(found, ["8 spec.timeouts: is empty, so the API server drops it: give it a value or remove it"]);
}

#[test]
fn transition_rules_do_not_apply_to_files() {
    assert_eq!(fault("  duration: 1m\n  suspend: true\n  faults: [{abort: {percent: 1, reset: true}}]\n"), [""; 0]);
}

#[test]
fn warnings_name_the_field() {
    let found = policy("  timeouts: {attempt: 1s, request: 2s}\n  retries:\n    maxRetries: 3\n");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("9 spec.retries: 4 tries of 1s take up to 4s, which never fits in request (2s)"),
        "{found:#?}"
    );
}

#[test]
fn what_has_no_effect_in_a_cluster_is_a_note() {
    let text = "apiVersion: firebreak.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  \
                targetRefs: [{kind: Service, name: a}]\n  loadBalancing: {}\n  outlierDetection: {}\n";
    let report = check(&Manifests::parse(&[Source { name: "a.yaml".into(), text: text.into() }])).unwrap();
    let found: Vec<_> = report.findings.iter().map(|it| (it.severity, it.field.as_str())).collect();
    assert_eq!(found, [(Severity::Note, "spec.loadBalancing"), (Severity::Note, "spec.outlierDetection")]);
    assert!(report.findings[0].message.starts_with("has no effect in a cluster yet"));
}

const TWO: &str = "
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: first, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a}]
  timeouts: {attempt: 1s}
---
apiVersion: firebreak.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: second, namespace: shop}
spec:
  targetRefs:
  - {kind: Service, name: b}
  - {kind: Service, name: a, namespace: shop}
  timeouts: {attempt: 2s}
";

#[test]
fn two_policies_that_claim_the_same() {
    let found = lint(TWO);
    assert_eq!(found.len(), 1, "{found:#?}");
    let start =
        "15 spec.targetRefs[1]: TrafficPolicy shop/first (a.yaml:2) claims the same target for the same callers";
    assert!(found[0].starts_with(start), "{found:#?}");
    let apart = TWO.replacen(
        "  timeouts: {attempt: 2s}",
        "  from: {podSelector: {matchLabels: {app: web}}}\n  timeouts: {attempt: 2s}",
        1,
    );
    assert_eq!(lint(&apart), [""; 0], "other callers");
    let port = TWO.replacen("name: a, namespace: shop", "name: a, sectionName: http", 1);
    assert_eq!(lint(&port), [""; 0], "a port is more specific, which is no conflict");
    let consumer = TWO.replacen("{name: second, namespace: shop}", "{name: second, namespace: web}", 1);
    assert_eq!(lint(&consumer), [""; 0], "a consumer's policy wins over the producer's");
}

#[test]
fn a_limit_beside_the_callee_that_a_stronger_policy_takes_away() {
    let whole = TWO.replacen("{kind: Service, name: a}", "{kind: Namespace, name: shop}", 1);
    let limit = "  inbound: {concurrency: {}}\n";
    let found = lint(&whole.replacen("---", &format!("{limit}---"), 1));
    assert_eq!(found.len(), 2, "one for each target: {found:#?}");
    assert!(
        found[0].starts_with("8 spec.inbound: has no effect at Service shop/b: TrafficPolicy shop/second is stronger"),
        "{found:#?}"
    );
    assert_eq!(lint(&(whole.replacen("---", &format!("{limit}---"), 1) + limit)), [""; 0], "it has one of its own");
}

#[test]
fn the_same_object_twice() {
    let found = lint(&TWO.replacen("name: second", "name: first", 1));
    assert_eq!(found, ["11 metadata.name: is defined already at a.yaml:2: the one applied last wins"]);
}

#[test]
fn a_port_that_the_service_does_not_have() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    let text = TWO.replacen("name: a, namespace: shop", "name: a, sectionName: https", 1) + service;
    let expected =
        "15 spec.targetRefs[1].sectionName: Service a (a.yaml:18) has no port named `https`; its ports are http";
    assert_eq!(lint(&text), [expected]);
}

#[test]
fn a_namespace_target_is_the_objects_own() {
    let text = TWO.replacen("{kind: Service, name: b}", "{kind: Namespace, name: prod}", 1);
    let found = lint(&text);
    assert!(found[0].starts_with("14 spec.targetRefs[0].name: `prod` is not the object's own namespace"), "{found:#?}");
    assert_eq!(lint(&text.replace(", namespace: shop", "")), [""; 0], "kubectl may yet choose prod");
}

#[test]
fn two_faults_on_one_target() {
    let one = "
apiVersion: firebreak.dev/v1alpha1
kind: FaultSpec
metadata: {name: first, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: a}]
  duration: 10m
  faults: [{abort: {percent: 10, httpStatus: 503}}]
";
    let two = one.replace("first", "second").replace("name: a}", "name: a, sectionName: http}");
    let found = lint(&format!("{one}---{two}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("14 spec.targetRefs[0]: FaultSpec shop/first (a.yaml:2) has the same target"),
        "{found:#?}"
    );
    let suspended = two.replace("  duration", "  suspend: true\n  duration");
    assert_eq!(lint(&format!("{one}---{suspended}")), [""; 0]);
}
