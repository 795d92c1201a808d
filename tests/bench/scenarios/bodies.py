"""Where bytes are the load: bodies both ways, WebSocket messages, opaque connections."""

import measure
from peers import Setup, with_before
from report import Promise, Report, not_the_limit

KIB = 1024
COLUMNS = ["load", "proxy", "MiB a CPU second", "of Envoy's", "±", "MiB/s", "its processor", "the load's"]


def loads():
    """Name, set-up and load of each row."""
    for protocol, version in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        setup = Setup(protocol)
        for length, size in ((16 * KIB, "16 KiB"), (1024 * KIB, "1 MiB")):
            yield f"{version}, {size} answers", setup, measure.http_load(setup, f"/body/{length}", body=length)
            if protocol == "http1":
                yield f"{version}, {size} requests", setup, measure.http_load(setup, "/upload", uploads=length)
    yield "WebSocket, 64 connections, 1 KiB messages", Setup("http1"), measure.echo_load(64, KIB, websocket=True)
    yield "opaque TCP, 8 connections, 64 KiB both ways", Setup("tcp"), measure.echo_load(8, 64 * KIB, websocket=False)


def run(bench):
    """16 KiB and 1 MiB bodies, WebSocket messages, opaque TCP: bytes per CPU second."""
    lines, promises, limits, raw = [], [], [], {}
    names = with_before("firebreak", "envoy")
    for what, setup, load in loads():
        rows = measure.rounds(bench, [*names, "direct"], lambda name, s=setup, l=load: one(bench, name, s, l), what)
        raw[what] = dict(rows)
        direct = rows.pop("direct")["rate"]
        envoy = rows["envoy"]["per_cpu_second"]
        for name, row in rows.items():
            mib = row["per_cpu_second"] / KIB / KIB
            lines.append([
                what, name, f"{mib:,.0f}", f"{row['per_cpu_second'] / envoy:.2f}", f"{row['spread']:.0%}",
                f"{mib * row['busy']:,.0f}", f"{row['busy']:.0%}", f"{row['feeders']:.0%}",
            ])
        promises.append(Promise(f"{what}: bytes a CPU second, of Envoy's", rows["firebreak"]["per_cpu_second"] / envoy, 1, "at least"))
        promises.append(Promise(f"{what}: requests that failed", rows["firebreak"]["failed"], 0))
        limits += not_the_limit({f"{what}, {name}": row for name, row in rows.items()}, direct)
    return Report(COLUMNS, lines, [*promises, *limits], raw=raw)


def one(bench, name, setup, load):
    if name == "direct":
        return measure.direct(setup, load, bench.seconds)
    return measure.loaded(bench, name, setup, load)
