"""That each proxy does what its config claims, before anything is compared."""

import json
import urllib.request

import firebreak
import machine
import measure
from peers import ORIGINS, Setup
from report import Promise, Report

COLUMNS = ["proxy", "version", "connections for 50 requests", "after a 503", "callee hangs", "after ms", "refused at once of 1,300"]
REQUESTS, AT_ONCE = 50, 1300
NOTES = [
    "Of 1,300 requests at once to a callee that hangs, a limit of 1,000 and a queue of 100 leave 200 to be refused.",
    "Envoy's queue over HTTP/1.1 holds 100 requests that wait for a connection to open, so that a burst is refused that would have had "
    "room; over HTTP/2 it has none. nginx has no queue. HAProxy's has room for 100, but what is beyond waits too, for a second.",
    "The end of a request comes after 3 s; HAProxy has no clock for it, and ends it after four tries of 1 s.",
]


def run(_bench):
    """Each proxy's keep-alive, retry, time-out and queue, tried against the origin."""
    lines, promises, raw = [], [], {}
    for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        for name in ("firebreak", "envoy", "nginx", "haproxy"):
            machine.say(f"duty of {name}, {version}")
            seen = look(name, Setup(protocol))
            raw[f"{name} {protocol}"] = seen
            lines.append([name, version, *seen.values()])
            promises.append(Promise(f"{name}, {version}: parts of the duty that are not done", deviations(name, seen), 0))
    return Report(COLUMNS, lines, promises, NOTES, raw)


def look(name, setup):
    with measure.running(name, setup):
        if name == "firebreak":
            all_understood()
        before = count()
        in_turn = measure.ask(setup.port, "/", setup.protocol, requests=REQUESTS)
        after = count()
        [[retried, _]] = measure.ask(setup.port, f"/once/{name}-{setup.protocol}", setup.protocol)
        [[hung, millis]] = measure.ask(setup.port, "/hang", setup.protocol)
        # The connection with which the origin is asked counts too.
        connections = after["connections"] - before["connections"] - 1
        assert all(status == 200 for status, _ in in_turn), in_turn
        assert after["requests"] - before["requests"] == REQUESTS, "the origin saw other requests"
        return {"connections": connections, "retried": retried, "hung": hung, "millis": millis, "refused": crowd(setup)}


def crowd(setup):
    """How many of more requests than there is room for are refused before any clock runs out."""
    connections, streams = (AT_ONCE, 1) if setup.protocol == "http1" else (26, AT_ONCE // 26)
    answers = measure.ask(setup.port, "/hang", setup.protocol, connections, streams=streams)
    return sum(1 for status, millis in answers if status >= 500 and millis < 900)


def deviations(name, seen):
    """Which parts of the duty a proxy does not do. How long a queue is can be said for two of them only."""
    parts = [seen["connections"] == 1, seen["retried"] == 200, seen["hung"] == 504, seen["millis"] <= 4500]
    return sum(not kept for kept in [*parts, seen["refused"] >= 200 or name in ("nginx", "haproxy")])


def count():
    """What the origin has seen, over both versions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ORIGINS['http1']}/count") as answer:
        return json.load(answer)


def all_understood():
    """That the proxy knows every word of the config: a policy with a typing error would cost nothing."""
    with urllib.request.urlopen(f"http://127.0.0.1:{firebreak.ADMIN}/config") as answer:
        report = json.load(answer)["report"]
    assert not report["ignored"] and not report["problems"] and not report.get("refused"), report
