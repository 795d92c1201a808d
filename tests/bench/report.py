"""What a scenario brought: a table, whether the promises hold, and how they get into docs/benchmarks.md."""

import dataclasses
import datetime
import operator
import os
import pathlib
import re

from machine import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
KEPT = {"at most": operator.le, "at least": operator.ge}


@dataclasses.dataclass
class Promise:
    """A figure and its limit."""

    text: str
    value: float
    limit: float
    kind: str = "at most"

    @property
    def kept(self):
        return KEPT[self.kind](self.value, self.limit)

    def __str__(self):
        return f"{'ok  ' if self.kept else 'MISS'} {self.text}: {self.value:.2f} ({self.kind} {self.limit:g})"


@dataclasses.dataclass
class Report:
    """One scenario's."""

    columns: list
    rows: list
    promises: list
    notes: list = dataclasses.field(default_factory=list)
    # The figures behind the rows.
    raw: dict = dataclasses.field(default_factory=dict)

    def markdown(self):
        """The first column is a name, the others are figures."""
        lines = [self.columns, ["---", *["--:"] * (len(self.columns) - 1)], *self.rows]
        table = "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
        notes = "".join(f"\n* {note}" for note in self.notes)
        promises = "".join(f"\n{promise}" for promise in self.promises)
        return table + (f"\n{notes}" if notes else "") + (f"\n\n```text{promises}\n```" if promises else "")

    def figures(self):
        """For programs."""
        promises = [{**dataclasses.asdict(promise), "kept": promise.kept} for promise in self.promises]
        return {"figures": self.raw, "promises": promises}


def not_the_limit(rows, direct=None):
    """That generator and origin were not the limit: each proxy's processor was full, or they alone do much more than through it.

    Where neither holds, a proxy had pauses, and pauses cost it wake-ups: its figure is then a bound from above.
    """
    promises = []
    for name, row in rows.items():
        headroom = direct / row["rate"] if direct else 0
        if direct and headroom >= 1.3:
            promises.append(Promise(f"the load was not the limit, {name}: direct rate over its rate", headroom, 1.3, "at least"))
        else:
            promises.append(Promise(f"the load was not the limit, {name}: share of its processor used", row["busy"], 0.95, "at least"))
    return promises


def write(reports, command):
    """Puts each report between its marks in docs/benchmarks.md."""
    text = PAGE.read_text()
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    system = os.uname().release.split("-")[0]
    note = f"Measured on {datetime.date.today()} by `{command}` on {model}, {os.cpu_count()} processors, Linux {system}."
    for name, report in reports.items():
        marked = f"<!-- {name} -->\n{note}\n\n{report.markdown()}\n<!-- /{name} -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, marked=marked: marked, text, flags=re.S)
        if not count:
            raise SystemExit(f"{PAGE} has no place for {name}")
    PAGE.write_text(text)
