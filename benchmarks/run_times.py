"""How long each notebook of a finished run took, as a row of the table in docs/hardware.md.

make run
python -m benchmarks.run_times outputs/demo
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from utils.run.artifacts import read_any_json
from utils.run.machine import get_device, version_line


def main() -> int:
    """Print the seconds that papermill noted in each executed notebook, and on what."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo") / "notebooks"
    seconds = {
        path.stem[:2]: read_any_json(path)["metadata"]["papermill"]["duration"]
        for path in sorted(folder.glob("*.ipynb"))
    }
    if not seconds:
        print(f"{folder} holds no executed notebook: run `make run` first", file=sys.stderr)
        return 2
    each = " / ".join(f"{value:.0f}" for value in seconds.values())
    print(f"| {' / '.join(seconds)} | {each} s, {sum(seconds.values()) / 60:.1f} minutes in all |")
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, "
          f"{version_line(get_device())}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
