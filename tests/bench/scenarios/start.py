"""From exec to ready."""

import pathlib
import socket
import statistics
import tempfile
import time

import firebreak
import machine
from machine import PROXY_CPU
from peers import PEERS, Setup
from report import Promise, Report

TIMES = 10
COLUMNS = ["proxy", "ready after ms, median", "longest"]


def run(_bench):
    """Time from exec until the proxy says that it is ready, or takes its first connection."""
    rows = {
        "firebreak": ("firebreak", Setup(), lambda: answers_200(firebreak.ADMIN, b"/ready")),
        "firebreak, serving the config": ("firebreak", Setup(), lambda: answers_200(Setup.port, b"/")),
        "firebreak, 1,000 services": ("firebreak", Setup(services=1000), lambda: answers_200(Setup.port, b"/")),
        "envoy, serving the config": ("envoy", Setup(), lambda: answers_200(Setup.port, b"/")),
    }
    seen = {}
    for what, (name, setup, ready) in rows.items():
        machine.say(f"start of {what}")
        seen[what] = [start(name, setup, ready) for _ in range(TIMES)]
    lines = [[what, f"{statistics.median(times):.1f}", f"{max(times):.1f}"] for what, times in seen.items()]
    note = f"{TIMES} starts each, the program being in memory already; the figures include fork and exec. No load: nothing else could be the limit."
    promises = [Promise("ready after ms, median", statistics.median(seen["firebreak"]), 50)]
    return Report(COLUMNS, lines, promises, [note], seen)


def start(name, setup, ready):
    with tempfile.TemporaryDirectory() as folder:
        command = PEERS[name](pathlib.Path(folder), setup)
        began = time.monotonic()
        process = machine.start(command, [PROXY_CPU])
        try:
            while not ready():
                if time.monotonic() - began > 20:
                    raise SystemExit(f"{name} is not ready after 20 s")
                time.sleep(0.0005)
            return (time.monotonic() - began) * 1000
        finally:
            machine.stop(process)


def answers_200(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as stream:
            stream.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: bench\r\n\r\n")
            return stream.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
