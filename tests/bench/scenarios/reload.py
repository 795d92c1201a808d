"""A new config each second, under load."""

import itertools
import threading

import firebreak
import measure
from peers import Setup
from report import Promise, Report
from scenarios.latency import enough

SIZES = (10, 1000)
COLUMNS = ["services", "p50 ms", "p99 ms", "p99 with swaps", "ratio", "swaps", "failed", "its processor with swaps"]


def run(bench):
    """A new config each second under load: failed requests, p99 with and without."""
    lines, promises, raw = [], [], {}
    for services in SIZES:
        setup = Setup(services=services)
        rate = measure.loaded(bench, "firebreak", setup, measure.http_load(setup))["rate"] / 3
        with measure.running("firebreak", setup) as proxy:
            swaps = Swaps(proxy, setup)
            swaps.load(bench, rate, swap=False)
            what = f"{services} services at {rate:,.0f}/s"
            rows = measure.rounds(bench, ["without", "with"], lambda name, s=swaps, r=rate: s.load(bench, r, name == "with"), what)
        raw[services] = rows
        calm, churn = rows["without"], rows["with"]
        ratio = churn["p99"] / calm["p99"]
        lines.append([
            services, f"{calm['p50']:.3f}", f"{calm['p99']:.3f}", f"{churn['p99']:.3f}", f"{ratio:.2f}", swaps.swaps,
            f"{calm['failed'] + churn['failed']:.0f}", f"{churn['busy']:.0%}",
        ])
        promises += [
            Promise(f"{services} services: p99 with a swap each second, of without", ratio, 1.2),
            Promise(f"{services} services: requests that failed", calm["failed"] + churn["failed"], 0),
            enough(f"{services} services", churn),
        ]
    notes = ["The rate is a third of what saturates the proxy, so that the generator has time to spare. Each swap changes every policy. The thread that compiles the config has the "
             "same processor as the one that serves, as in a pod with one processor."]
    return Report(COLUMNS, lines, promises, notes, raw)


class Swaps:
    """A proxy whose config is replaced while it is loaded."""

    def __init__(self, proxy, setup):
        self.proxy, self.setup, self.swaps = proxy, setup, 0
        # Written before: to make a document of 1,000 services takes longer than to put it in force, and the generator would wait.
        self.folders = itertools.cycle([firebreak.write(proxy.work, setup, revision) for revision in (1, 2)])

    def load(self, bench, rate, swap):
        stop = threading.Event()
        swapper = threading.Thread(target=self.swap_until, args=(stop,))
        if swap:
            swapper.start()

        def work():
            result = measure.at_rate(self.setup.port, "http1", rate, max(bench.seconds, 5))
            return {**result, "done": result["sent"], "bytes": 0}

        try:
            result, parts = measure.watched(bench, self.proxy, work)
        finally:
            stop.set()
            if swap:
                swapper.join()
        return {**result, **parts}

    def swap_until(self, stop):
        while not stop.wait(1):
            self.swaps += 1
            firebreak.put_in_place(self.proxy.work, next(self.folders))
