"""What a proxy adds to the time of a request when it is half busy."""

import measure
from peers import Setup
from report import Promise, Report

NAMES = ["direct", "firebreak", "envoy"]
COLUMNS = ["version", "proxy", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "added p50", "added p99", "its processor", "the load's"]


def run(bench):
    """Requests that come at a fixed rate, half of what saturates Envoy: added p99."""
    lines, promises, raw = [], [], {}
    for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        setup = Setup(protocol)
        rate = saturating(bench, setup) / 2
        rows = measure.rounds(bench, NAMES, lambda name, s=setup, r=rate: one(bench, name, s, r), f"{version} at {rate:,.0f}/s")
        raw[protocol] = {"rate": rate, **rows}
        bare = rows["direct"]
        for name, row in rows.items():
            added = ["", ""] if name == "direct" else [f"{row[key] - bare[key]:.3f}" for key in ("p50", "p99")]
            busy = ["", ""] if name == "direct" else [f"{row[key]:.0%}" for key in ("busy", "feeders")]
            lines.append([version, name, f"{rate:,.0f}", *(f"{row[key]:.3f}" for key in ("p50", "p99", "p999")), *added, *busy])
        added = {name: rows[name]["p99"] - bare["p99"] for name in ("firebreak", "envoy")}
        # Envoy adds something; where that does not show, nothing is shown.
        ratio = added["firebreak"] / added["envoy"] if added["envoy"] > 0 else float("inf")
        promises.append(Promise(f"{version}: added p99, of what Envoy adds", ratio, 0.5))
        promises.append(Promise(f"{version}: requests that failed", rows["firebreak"]["failed"], 0))
        promises += [enough(f"{version}, {name}", rows[name]) for name in added]
    notes = ["The rate is half of what Envoy, the slower of the two, can do. Requests come as a Poisson process, the same for all, and "
             "their time counts from when they were due. Direct is the same load without a proxy."]
    return Report(COLUMNS, lines, promises, notes, raw)


def enough(what, row):
    """That the load has processor to spare: its own delays, which direct shows, would grow otherwise."""
    return Promise(f"the load was not the limit, {what}: share of its processor used", row["feeders"], 0.75)


def saturating(bench, setup):
    return measure.loaded(bench, "envoy", setup, measure.http_load(setup))["rate"]


def one(bench, name, setup, rate):
    if name == "direct":
        return {**measure.at_rate(setup.origin, setup.protocol, rate, bench.seconds), "busy": 0, "feeders": 0}
    with measure.running(name, setup) as proxy:

        def work():
            result = measure.at_rate(setup.port, setup.protocol, rate, bench.seconds)
            return {**result, "done": result["sent"], "bytes": 0}

        result, parts = measure.watched(bench, proxy, work)
        return {**result, **parts}
