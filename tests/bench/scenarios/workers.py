"""What a second worker costs."""

import measure
from machine import PROCESSORS
from peers import Setup
from report import Promise, Report

COLUMNS = ["workers", "CPU µs a request", "±", "requests/s", "processors used", "the load's"]


def run(bench):
    """CPU a request with two workers, of that with one; all processors for everybody."""
    setups = {"1": Setup(workers=1), "2": Setup(workers=2)}

    def one(name):
        return measure.loaded(bench, "firebreak", setups[name], measure.http_load(setups[name]), PROCESSORS)

    rows = measure.rounds(bench, setups, one, "workers")
    lines = [
        [name, f"{row['cost']:.1f}", f"{row['spread']:.0%}", f"{row['rate']:,.0f}", f"{row['busy']:.2f}", f"{row['feeders']:.2f}"]
        for name, row in rows.items()
    ]
    promises = [
        Promise("CPU a request with 2 workers, of that with 1", rows["2"]["cost"] / rows["1"]["cost"], 1.1),
        Promise("requests that failed", rows["1"]["failed"] + rows["2"]["failed"], 0),
    ]
    note = ("Generator, origin and proxy share all processors, so the load is part of the limit, for one worker as for two; what is "
            "compared is the cost of a request, not the rate.")
    return Report(COLUMNS, lines, promises, [note], rows)
