"""Resident memory, and that a request costs the same however many services there are."""

import subprocess

import machine
import measure
from machine import GENERATOR_CPU
from peers import Setup
from report import Promise, Report, not_the_limit

CONNECTIONS, SERVICES = 10_000, 1000
COLUMNS = ["what", "firebreak", "envoy"]


def run(bench):
    """Resident memory: idle, with 10,000 idle connections, with 1,000 services; and the cost of looking one up."""
    names = ("firebreak", "envoy")
    idle = {name: at_rest(name, Setup()) for name in names}
    crowd = {name: with_connections(name) for name in names}
    many = at_rest("firebreak", Setup(services=SERVICES))
    costs, direct = look_up(bench)
    ratio = costs["many"]["cost"] / costs["one"]["cost"]
    lines = [
        ["idle, MiB", *(f"{idle[name]:.1f}" for name in names)],
        [f"{CONNECTIONS:,} idle connections, MiB", *(f"{crowd[name]:.1f}" for name in names)],
        [f"{SERVICES:,} services with policies, MiB", f"{many:.1f}", ""],
        ["CPU µs a request with 1 service", f"{costs['one']['cost']:.2f} ±{costs['one']['spread']:.0%}", ""],
        [f"CPU µs a request with {SERVICES:,} services", f"{costs['many']['cost']:.2f} ±{costs['many']['spread']:.0%}", ""],
    ]
    promises = [
        Promise("idle, MiB", idle["firebreak"], 10),
        Promise(f"{CONNECTIONS:,} idle connections, MiB", crowd["firebreak"], 100),
        Promise(f"{SERVICES:,} services with policies, MiB", many, 40),
        Promise(f"CPU a request with {SERVICES:,} services, of that with 1", ratio, 1.05),
        *not_the_limit(costs, direct),
    ]
    note = "Each of the idle connections has carried one request. Memory is the resident set, once it has come to rest."
    return Report(COLUMNS, lines, promises, [note], {"idle": idle, "connections": crowd, "services": many, "look_up": costs})


def at_rest(name, setup):
    machine.say(f"memory of {name} with {setup.services} services")
    with measure.running(name, setup) as proxy:
        measure.ask(setup.port, "/", setup.protocol)
        return machine.settle(lambda: machine.memory(proxy.pid))


def with_connections(name):
    machine.say(f"{CONNECTIONS:,} idle connections to {name}")
    setup = Setup()
    command = [measure.LOAD, "idle", f"127.0.0.1:{setup.port}", "--connections", CONNECTIONS]
    with measure.running(name, setup) as proxy:
        holder = machine.start(command, [GENERATOR_CPU], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if holder.stdout.readline() != "ready\n":
                raise SystemExit(f"{CONNECTIONS} connections could not be opened to {name}")
            # Upstream connections that served the start go after four seconds, and what callers' connections need only at work; they stay.
            resident = machine.settle(lambda: machine.memory(proxy.pid), quiet=6)
            result = holder.communicate(input="")[0]
        finally:
            machine.stop(holder)
    if '"lost":0' not in result:
        raise SystemExit(f"{name} lost idle connections: {result}")
    return resident


def look_up(bench):
    setups = {"one": Setup(), "many": Setup(services=SERVICES)}

    load = measure.http_load(Setup())

    def one(name):
        if name == "direct":
            return measure.direct(Setup(), load, bench.seconds)
        return measure.loaded(bench, "firebreak", setups[name], load)

    rows = measure.rounds(bench, [*setups, "direct"], one, "look-up")
    return rows, rows.pop("direct")["rate"]
