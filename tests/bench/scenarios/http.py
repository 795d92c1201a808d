"""Small requests on connections that stay open: CPU a request."""

import measure
from peers import PEERS, Setup
from report import Promise, Report, not_the_limit

COLUMNS = [
    "proxy", "CPU µs a request", "of Envoy's", "user", "±", "requests/s", "its processor", "the load's", "idle MiB", "after load MiB", "failed",
]


def http1(bench):
    """HTTP/1.1, 64 keep-alive connections, small bodies: CPU a request."""
    rows, direct = compare(bench, Setup("http1"), PEERS)
    promises = [
        Promise("CPU a request, of Envoy's", ratio(rows, "envoy"), 0.55),
        Promise("CPU a request, of HAProxy's in TCP mode", ratio(rows, "haproxy-tcp"), 1.4),
    ]
    return report(rows, direct, promises, ("firebreak", "envoy", "haproxy-tcp"))


def http2(bench):
    """HTTP/2, 8 connections of 16 streams, small bodies: CPU a request."""
    rows, direct = compare(bench, Setup("http2"), PEERS)
    return report(rows, direct, [Promise("CPU a request, of Envoy's", ratio(rows, "envoy"), 0.60)], ("firebreak", "envoy"))


def compare(bench, setup, names):
    load = measure.http_load(setup)

    def one(name):
        if name == "direct":
            return measure.direct(setup, load, bench.seconds)
        return measure.loaded(bench, name, setup, load)

    rows = measure.rounds(bench, [*names, "direct"], one, {"http1": "HTTP/1.1", "http2": "HTTP/2"}[setup.protocol])
    return rows, rows.pop("direct")["rate"]


def ratio(rows, name):
    return rows["firebreak"]["cost"] / rows[name]["cost"]


def failed(rows):
    return Promise("requests that failed", rows["firebreak"]["failed"], 0)


def report(rows, direct, promises, judged):
    """`judged` are those that promises rest on."""
    promises = [*promises, failed(rows), *not_the_limit({name: rows[name] for name in judged}, direct)]
    return Report(COLUMNS, table(rows, direct), promises, raw={**rows, "direct": direct})


def table(rows, direct):
    lines = []
    for name, row in rows.items():
        lines.append([
            name, f"{row['cost']:.1f}", f"{row['cost'] / rows['envoy']['cost']:.2f}", f"{row['user']:.0%}", f"{row['spread']:.0%}",
            f"{row['rate']:,.0f}", f"{row['busy']:.0%}", f"{row['feeders']:.0%}", f"{row['idle']:.1f}", f"{row['loaded']:.1f}",
            f"{row['failed']:.0f}",
        ])
    return [*lines, ["no proxy", *[""] * 4, f"{direct:,.0f}", *[""] * 5]]
