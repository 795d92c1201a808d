"""What a request makes the proxy do in user mode: instructions and allocations, counted one by one by valgrind.

The counts hardly change from run to run, however busy the machine is, so that a small step shows. They say nothing of the kernel's
part, which is most of a request's time over HTTP/1.1, nor of how long an instruction takes.
"""

import collections
import pathlib
import re
import subprocess
import tempfile

import machine
import measure
from machine import GENERATOR_CPU, PROXY_CPU
from peers import PEERS, Setup, with_before
from report import Promise, Report

COLUMNS = ["proxy", "version", "instructions a request", "allocations a request"]
REQUESTS = 10_000
ALLOCATE = re.compile(r"mi_(malloc|zalloc|realloc)_aligned$")

# What is reached stays reached: lower these when a change makes do with less.
ALLOCATIONS = {"http1": 8, "http2": 15}


def run(_bench):
    """Firebreak's instructions and allocations a request, in user mode."""
    lines, promises, raw = [], [], {}
    for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        for name in with_before("firebreak"):
            machine.say(f"instructions of {name}, {version}")
            seen = raw[f"{name} {protocol}"] = count(name, Setup(protocol))
            lines.append([name, version, f"{seen['instructions']:,.0f}", f"{seen['allocations']:.1f}"])
        seen = raw[f"firebreak {protocol}"]
        promises.append(Promise(f"{version}: allocations a request", seen["allocations"], ALLOCATIONS[protocol]))
    note = f"Over {REQUESTS:,} requests on connections that are open already, of the load of the throughput tables."
    return Report(COLUMNS, lines, promises, [note], raw)


def count(name, setup):
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        profile = work / "profile"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={profile}"]
        process = machine.start([*valgrind, *PEERS[name](work, setup)], [PROXY_CPU])
        try:
            machine.wait_for_port(setup.port)
            load(setup, REQUESTS // 10)
            control(process, "--instr=on")
            load(setup, REQUESTS)
            control(process, "--instr=off")
            control(process, "--dump")
        finally:
            machine.stop(process)
            machine.wait_for_port(setup.port, wanted=False)
        # The one at the end of the process has nothing in it.
        return per_request(profile.with_name("profile.1"))


def load(setup, requests):
    shape = ["--h1", "-c", measure.H1_CONNECTIONS] if setup.protocol == "http1" else ["-c", measure.H2_CONNECTIONS, "-m", measure.H2_STREAMS]
    text = machine.run(["h2load", *shape, "-n", requests, f"http://127.0.0.1:{setup.port}/"], [GENERATOR_CPU])
    if f" {requests} succeeded" not in text:
        raise SystemExit(f"requests failed:\n{text}")


def control(process, order):
    subprocess.run(["callgrind_control", order, str(process.pid)], check=True, capture_output=True)


def per_request(profile):
    """Sums up a profile: names stand where they first appear, later only their numbers; a call's line is followed by its cost."""
    names, calls, callee, instructions = {}, collections.Counter(), "", 0
    lines = iter(profile.read_text().splitlines())
    for line in lines:
        if line.startswith(("fn=", "cfn=")):
            number, name = re.match(r"c?fn=\((\d+)\)(?: (.*))?", line).groups()
            callee = names.setdefault(number, name)
        elif line.startswith("calls="):
            calls[callee] += int(line.removeprefix("calls=").split()[0])
            next(lines)
        elif re.match(r"[\d+*-]", line):
            instructions += int(line.split()[1])
    allocations = sum(number for name, number in calls.items() if ALLOCATE.match(name))
    return {"instructions": instructions / REQUESTS, "allocations": allocations / REQUESTS}
