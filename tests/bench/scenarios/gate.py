"""What tests/run refuses: counts that hardly depend on the machine, and one ratio with room for a noisy one.

What noise does to them is make them larger, so that a second look at one that is too large is fair, and what is under its bound
once can be reached. Allocations do not depend on noise and are looked at once.
"""

import dataclasses

import machine
import measure
from peers import Setup
from report import Promise, Report
from scenarios import syscalls, work

COLUMNS = ["what", "figure"]
SECONDS, LOOKS = 2, 2

SYSTEM_CALLS = 4.3
CPU_OF_ENVOY = 0.75
# As many as there are now and half of one, since a connection's own are shared out among its requests. Lower them when a change
# makes do with less.
ALLOCATIONS = {"http1": 7.6, "http2": 17.6}


def run(bench):
    """System calls and allocations a request, and CPU beside Envoy."""
    bench = dataclasses.replace(bench, seconds=SECONDS, rounds=1)
    promises = [
        least("HTTP/1.1: system calls a request", SYSTEM_CALLS, lambda: system_calls(bench)),
        *(allocations(protocol, version) for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2"))),
        least("HTTP/1.1: CPU a request, of Envoy's", CPU_OF_ENVOY, lambda: of_envoy(bench)),
    ]
    lines = [[promise.text, f"{promise.value:.2f}"] for promise in promises]
    return Report(COLUMNS, lines, promises, raw={promise.text: promise.value for promise in promises})


def least(text, limit, look):
    """The figure, looked at again if it is too large."""
    seen = []
    while len(seen) < LOOKS and min(seen, default=limit + 1) > limit:
        machine.say(f"{text}, look {len(seen) + 1} of at most {LOOKS}")
        seen.append(look())
    return Promise(text, min(seen), limit)


def system_calls(bench):
    counts, requests = syscalls.count(bench, "firebreak", Setup("http1"))
    return counts["all"] / requests


def allocations(protocol, version):
    machine.say(f"allocations, {version}")
    return Promise(f"{version}: allocations a request", work.count("firebreak", Setup(protocol))["allocations"], ALLOCATIONS[protocol])


def of_envoy(bench):
    setup = Setup("http1")
    load = measure.http_load(setup)
    costs = measure.rounds(bench, ["firebreak", "envoy"], lambda name: measure.loaded(bench, name, setup, load), "HTTP/1.1")
    if costs["firebreak"]["failed"]:
        raise SystemExit(f"{costs['firebreak']['failed']:.0f} requests through the proxy failed")
    return costs["firebreak"]["cost"] / costs["envoy"]["cost"]
