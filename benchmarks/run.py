"""Run every benchmark and write `outputs/bench.json`: `make bench`, or some: `ONLY=loader`.

The lines that it prints are those of the table in README.md beside this file.

Each module here offers BENCHMARKS: name, baseline, unit and a function that gives a pair (ours,
baseline) for each paired run on this machine; one that has a single benchmark may have NAME,
BASELINE, UNIT and `measure` instead.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import (
    bootstrap_cost,
    bootstrap_coverage,
    detection,
    evaluation_cost,
    extraction,
    fit_speed,
    index_cost,
    judging,
    loader_growth,
    loader_speed,
    sampling,
)
from utils.run.artifacts import atomic_path
from utils.run.machine import device_name, get_device, versions

MODULES = (
    judging,
    *(index_cost, loader_speed, loader_growth, fit_speed),
    *(bootstrap_cost, bootstrap_coverage, evaluation_cost),
    *(sampling, detection, extraction),
)
RESULT = Path("outputs/bench.json")


def offered(module: ModuleType) -> Sequence[tuple]:
    """The benchmarks of a module."""
    alone = ("NAME", "BASELINE", "UNIT", "measure")
    return getattr(module, "BENCHMARKS", None) or [tuple(getattr(module, n) for n in alone)]


def machine() -> str:
    """Device, cores, system, versions and day, for the heading of a table."""
    facts = [device_name(get_device()), f"{os.cpu_count()} cores", platform.machine()]
    facts += [f"{name} {version}" for name, version in versions().items()]
    return ", ".join([*facts, str(datetime.date.today())])


def main() -> None:
    rows = []
    only = os.environ.get("ONLY", "")
    print(f"{machine()}\n\n| ours | beside | unit | ratio (range) | pairs |\n|---|---|---|---|---|")
    for name, baseline_name, unit, measure in (b for module in MODULES for b in offered(module)):
        if only not in name:
            continue
        pairs = measure()
        ratios = sorted(ours / baseline for ours, baseline in pairs)
        ours, baseline = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(ratios)
        print(
            f"| {name}: {ours:.4g} | {baseline_name}: {baseline:.4g} | {unit} "
            f"| **{ratio:.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {len(pairs)} |",
            flush=True,
        )
        rows.append(
            {
                "name": f"{name} / {baseline_name}",
                "ours": ours,
                "baseline": baseline,
                "unit": unit,
                "ratio": ratio,
                "runs": [list(pair) for pair in pairs],
            }
        )
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
