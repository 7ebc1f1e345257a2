"""Keep the report of the demo to be looked at: `make run`, then `.venv/bin/python docs/report.py`.

Drawn faces only. The pictures are made small: 256 colours, at most WIDEST pixels wide.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDEST = 1000


def main(output: Path) -> None:
    """Copy report.md of OUTPUT with its figures to report/, in place of what was there."""
    kept = HERE / "report"
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "figures").mkdir(parents=True)
    shutil.copy(output / "report.md", kept)
    for path in sorted((output / "figures").glob("*.png")):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        picture.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
        picture.quantize(256).save(kept / "figures" / path.name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "outputs" / "demo"))
