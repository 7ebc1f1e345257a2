"""Run every benchmark and write `outputs/bench.json`: `make bench`.

Each benchmark is a module here with NAME, BASELINE, UNIT and `measure()`, which gives a pair
(ours, baseline) for each paired run on this machine.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks import bootstrap_cost, bootstrap_coverage, index_cost
from utils.artifacts import atomic_path

BENCHMARKS = (index_cost, bootstrap_cost, bootstrap_coverage)
RESULT = Path("outputs/bench.json")


def main() -> None:
    rows = []
    for benchmark in BENCHMARKS:
        pairs = benchmark.measure()
        ratios = sorted(ours / baseline for ours, baseline in pairs)
        ours, baseline = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(ratios)
        print(
            f"{benchmark.NAME}: {ours:.3f} {benchmark.UNIT}; {benchmark.BASELINE}: {baseline:.3f}; "
            f"ratio {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(pairs)} paired runs)"
        )
        rows.append(
            {
                "name": benchmark.NAME,
                "ours": ours,
                "baseline": baseline,
                "unit": benchmark.UNIT,
                "ratio": ratio,
                "runs": [list(pair) for pair in pairs],
            }
        )
    with atomic_path(RESULT) as temporary:
        temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
