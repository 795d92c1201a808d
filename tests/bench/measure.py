"""One measurement: a proxy, a load, and what the load cost the proxy."""

import contextlib
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import machine
from machine import GENERATOR_CPU, ORIGIN_CPU, PROXY_CPU, TARGET
from peers import ORIGINS, PEERS

H1_CONNECTIONS, H2_CONNECTIONS, H2_STREAMS = 64, 8, 16
LOAD = TARGET / "firebreak-bench-load"
# wrk has no option for it.
UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", {length})'


@dataclasses.dataclass
class Bench:
    """What all scenarios share: the origin, and how long and how often is measured."""

    origin: subprocess.Popen
    seconds: float
    rounds: int


@dataclasses.dataclass
class Proxy:
    """A proxy that serves."""

    pid: int
    work: pathlib.Path


@contextlib.contextmanager
def origin():
    command = [TARGET / "firebreak-bench-origin", *(f"127.0.0.1:{ORIGINS[protocol]}" for protocol in ("http1", "http2", "tcp"))]
    process = machine.start(command, [ORIGIN_CPU])
    try:
        for port in ORIGINS.values():
            machine.wait_for_port(port)
        yield process
    finally:
        machine.stop(process)


@contextlib.contextmanager
def running(name, setup, processors=(PROXY_CPU,)):
    """A proxy from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        process = machine.start(PEERS[name](work, setup), processors)
        try:
            machine.wait_for_port(setup.port)
            yield Proxy(process.pid, work)
        finally:
            machine.stop(process)
            machine.wait_for_port(setup.port, wanted=False)


def rounds(bench, names, measure, what):
    """Measures each in turn, round by round, so that a slow minute of the machine slows all of them. Gives medians."""
    runs = {name: [] for name in names}
    for number in range(bench.rounds):
        for name in names:
            machine.say(f"{what}, round {number + 1}/{bench.rounds}: {name}")
            runs[name].append(measure(name))
    return {name: middle(seen) for name, seen in runs.items()}


def middle(runs):
    """Medians, how far the extremes of the cost lie apart, as a share of it, and all that failed."""
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    medians["failed"] = sum(run.get("failed", 0) for run in runs)
    costs = [run["cost"] for run in runs if "cost" in run]
    if costs:
        medians["spread"] = (max(costs) - min(costs)) / 2 / medians["cost"]
    return medians


def loaded(bench, name, setup, load, processors=(PROXY_CPU,)):
    """What a load costs a proxy: `load(port, seconds)` says what was done. The first second warms up."""
    with running(name, setup, processors) as proxy:
        idle = machine.memory(proxy.pid)
        load(setup.port, 1)
        result, parts = watched(bench, proxy, lambda: load(setup.port, bench.seconds))
        return {**result, **parts, "idle": idle, "loaded": machine.memory(proxy.pid)}


def watched(bench, proxy, work):
    """Runs `work` and says what the proxy spent meanwhile: CPU µs for each of what was done, and how busy it and its feeders were."""
    before, feeders, began = machine.cpu(proxy.pid), feeding(bench), time.monotonic()
    result = work()
    took, after, fed = time.monotonic() - began, machine.cpu(proxy.pid), feeding(bench) - feeders
    user, system = after[0] - before[0], after[1] - before[1]
    spent = user + system
    return result, {
        "cost": spent / result["done"] * 1e6,
        "per_cpu_second": result["bytes"] / spent,
        "user": user / spent,
        "busy": spent / took,
        "feeders": fed / took,
    }


def feeding(bench):
    return sum(machine.cpu(bench.origin.pid)) + machine.cpu_of_ended_children()


def direct(setup, load, seconds):
    """How much is done a second without any proxy, generator and origin as they are: what they could have fed."""
    began = time.monotonic()
    return {"rate": load(setup.origin, seconds)["done"] / (time.monotonic() - began)}


def http_load(setup, path="/", body=0, uploads=0):
    """A load of requests, as many as can be answered."""
    tool = h2load if setup.protocol == "http2" else wrk

    def load(port, seconds):
        result = tool(f"http://127.0.0.1:{port}{path}", seconds, uploads)
        return {**result, "rate": result["done"] / seconds, "bytes": result["done"] * (body + uploads)}

    return load


def wrk(url, seconds, uploads=0):
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(UPLOAD.format(length=uploads) if uploads else "")
        script.flush()
        text = machine.run(["wrk", "-t", 1, "-c", H1_CONNECTIONS, "-d", f"{seconds}s", "-s", script.name, url])
    failures = re.findall(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", text)
    counts = [int(count) for pair in failures for count in re.findall(r"\d+", " ".join(pair))]
    return {"done": answered(r"(\d+) requests in", text), "failed": sum(counts)}


def h2load(url, seconds, _uploads=0):
    windows = ["-w", 20, "-W", 24]
    text = machine.run(["h2load", "-c", H2_CONNECTIONS, "-m", H2_STREAMS, *windows, "-D", seconds, url])
    # Those that are under way at the end are neither.
    return {"done": answered(r"(\d+) succeeded", text), "failed": int(re.search(r"(\d+) failed", text)[1])}


def answered(pattern, text):
    count = int(re.search(pattern, text)[1])
    if not count:
        sys.exit(f"no request was answered:\n{text}")
    return count


def generate(*words):
    """Runs the benchmark's own generator."""
    return json.loads(machine.run([LOAD, *words]))


def at_rate(port, protocol, rate, seconds):
    """Requests that come when they are due, however long the answers take."""
    many = ["--connections", H1_CONNECTIONS] if protocol == "http1" else ["--connections", H2_CONNECTIONS, "--streams", H2_STREAMS]
    return generate("rate", f"127.0.0.1:{port}", *many, "--rate", rate, "--seconds", seconds)


def echo_load(connections, length, websocket):
    def load(port, seconds):
        flag = ["--websocket"] if websocket else []
        words = ["echo", f"127.0.0.1:{port}", "--connections", connections, "--bytes", length, "--seconds", seconds, *flag]
        result = generate(*words)
        return {"done": result["messages"], "bytes": result["bytes"], "failed": 0, "rate": result["messages"] / seconds}

    return load


def ask(port, path, protocol, connections=1, requests=1, streams=1):
    """Status and milliseconds of each request."""
    h2 = ["--streams", streams] if protocol == "http2" else []
    return generate("ask", f"127.0.0.1:{port}", path, "--connections", connections, "--requests", requests, *h2)
