"""System calls a request, counted in the kernel: by perf where its counters may be used, else by strace, which slows the proxy."""

import re
import signal
import subprocess

import machine
import measure
from peers import Setup
from report import Promise, Report

COLUMNS = ["proxy", "version", "calls a request", "the most frequent"]
EVENTS = "raw_syscalls:sys_enter"
NAMES = ["epoll_wait", "epoll_pwait", "recvfrom", "sendto", "read", "write", "readv", "writev", "recvmsg", "sendmsg", "futex", "epoll_ctl",
         "accept4", "getpeername", "setsockopt"]


def run(bench):
    """System calls a request on connections that stay open."""
    lines, promises, raw = [], [], {}
    for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        setup = Setup(protocol)
        for name in ("firebreak", "envoy", "nginx", "haproxy"):
            machine.say(f"system calls of {name}, {version}")
            counts, requests = count(bench, name, setup)
            raw[f"{name} {protocol}"] = {"requests": requests, **counts}
            total = counts.pop("all") / requests
            most = sorted(counts.items(), key=lambda pair: -pair[1])[:4]
            lines.append([name, version, f"{total:.2f}", ", ".join(f"{call} {number / requests:.2f}" for call, number in most if number)])
            if (name, protocol) == ("firebreak", "http1"):
                promises.append(Promise(f"{version}: system calls a request", total, 4.3))
    note = ("The load is that of the throughput tables. How fast it is does not matter, except that a proxy which has pauses waits more "
            "often, and so makes more calls.")
    return Report(COLUMNS, lines, promises, [note], raw)


def count(bench, name, setup):
    load = measure.http_load(setup)
    with measure.running(name, setup) as proxy:
        load(setup.port, 1)
        counter = by_perf(proxy.pid) or by_strace(proxy.pid)
        done = load(setup.port, bench.seconds)["done"]
        return counter(), done


def by_perf(pid):
    """Starts counting; returns what ends it and gives the counts, or nothing where this is not allowed."""
    events = [EVENTS, *(f"syscalls:sys_enter_{name}" for name in NAMES)]
    pids = ",".join(str(member) for member in machine.family(pid))
    probe = subprocess.run(["perf", "stat", "-x", ",", "-e", ",".join(events), "true"], capture_output=True, check=False)
    if probe.returncode != 0 or b"not supported" in probe.stderr:
        return None
    perf = machine.start(["perf", "stat", "-x", ",", "-e", ",".join(events), "-p", pids], machine.PROCESSORS, stderr=subprocess.PIPE, text=True)

    def counts():
        perf.send_signal(signal.SIGINT)
        found = dict(reversed(line.split(",")[0:3:2]) for line in perf.communicate()[1].splitlines() if ":sys_enter" in line)
        return {name.removeprefix("syscalls:sys_enter_").replace(EVENTS, "all"): int(number) for name, number in found.items()}

    return counts


def by_strace(pid):
    pids = [word for member in machine.family(pid) for word in ("-p", member)]
    strace = machine.start(["strace", "-c", "-f", *pids], machine.PROCESSORS, stderr=subprocess.PIPE, text=True)
    # It says so when it has attached.
    strace.stderr.readline()

    def counts():
        strace.send_signal(signal.SIGINT)
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", strace.communicate()[1], re.M)
        found = {name: int(number) for number, name in rows}
        return {"all": found.pop("total"), **found}

    return counts
