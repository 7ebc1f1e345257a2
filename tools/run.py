"""Run the notebooks in order, on real data or on the demo: `make run`."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError

from tools.demo.data import draw_demo
from tools.parameters import checked_parameters, parse_overrides, unknown
from utils.data.datasets import find_datasets, holds, index_videos, lacking
from utils.run.artifacts import read_json, read_table
from utils.run.jobs import HEADLESS
from utils.run.machine import printable

NOTEBOOKS = (
    *("00_extract_faces", "01_explore_data", "02_augment"),
    *("03_train", "04_evaluate", "05_inference"),
)
NOTEBOOK_FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
#: What the demo changes: arguments of `draw_demo`, and parameters of the notebooks.
DEMO = Path(__file__).parent / "demo" / "demo.json"
#: Seconds in which a kernel has to start: a slow home folder or a loaded machine takes its time.
START_S = 900
#: Colours of a traceback.
ANSI = re.compile(r"\x1b\[[\d;]*m")
Overrides = Mapping[str, Mapping[str, Any]]


class NotebookError(RuntimeError):
    """A notebook stopped; the message says where, why, and where its executed copy is."""


class _ThisInterpreter(AsyncKernelManager):
    """Kernels of the running Python, whatever kernels Jupyter knows by the name "python3"."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command += ["--IPKernelApp.log_level=CRITICAL"]  # errors of cells come as messages
        # A backend exported by the caller (Agg, say) would lose every figure.
        figures = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        # What is told there comes past the notebook, at once, to where this process tells things.
        command += ["--IPKernelApp.capture_fd_output=False"]
        # joblib's processes clean up behind themselves, and say so there.
        quiet = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker:UserWarning"]
        env = figures | {HEADLESS: "1", "PYTHONWARNINGS": ",".join(filter(None, quiet))}
        return KernelSpec(argv=command, env=env, display_name="Python 3", language="python")


def run_pipeline(
    data: str | Path | None = None,
    output: str | Path | None = None,
    overrides: Overrides | None = None,
    start: str | None = None,
    stop: str | None = None,
    *,
    notebooks: Path | None = None,
) -> Path:
    """Run the notebooks in order; all names and types are checked before anything starts.

    Args:
        data: folder of any known layout; raw videos start at 00, crops at 01. None draws the
            demo data and applies `demo.json`.
        output: folder of all artefacts, `outputs/run` or `outputs/demo` by default.
        overrides: {notebook: {parameter: value}}; a text is read as the parameter's type.
        start: first notebook, which finds the artefacts of earlier ones in `output`.
        stop: last notebook.
        notebooks: folder of the six notebooks, the project's own by default.
    Returns:
        `output`, absolute; its folder `notebooks` holds the executed copies.
    Raises:
        ValueError, FileNotFoundError: refused, nothing was started or written.
        NotebookError: a notebook failed.
    """
    notebooks = notebooks or NOTEBOOK_FOLDER
    output = Path(output or ("outputs/run" if data else "outputs/demo")).expanduser().resolve()
    demo = {} if data else json.loads(DEMO.read_text(encoding="utf-8"))
    videos = Path(data).expanduser().resolve() if data else output / "demo_data"
    raw = _holds_videos(videos) if data else True
    selected = _select(start, stop, raw=raw)
    if data and {"00_extract_faces", "01_explore_data"} <= {*selected}:
        _check_classes(videos)
    for name in overrides or {}:
        if name not in selected:
            raise ValueError(unknown("notebook of this run", name, selected))
    parameters: dict[str, dict[str, Any]] = {}
    for name in selected:
        on_videos = name in ("00_extract_faces", "05_inference") or not raw
        folders = {"DATA": str(videos if on_videos else output / "faces"), "OUTPUT": str(output)}
        if not data and name == "05_inference":  # of drawn faces: only where it is named
            folders["MODEL"] = str(output / "model")
        layers = (demo.get(name, {}), folders, (overrides or {}).get(name, {}))
        parameters[name] = checked_parameters(notebooks / f"{name}.ipynb", *layers)
    used = {value["DATA"] for value in parameters.values()}
    if selected[0] != "00_extract_faces" and str(output / "faces") in used:
        read_table(output, "faces/metadata.csv")  # says who writes it if it is missing

    (output / "notebooks").mkdir(parents=True, exist_ok=True)
    if not data and str(videos) in used:
        _draw_demo(videos, demo["demo_data"])
    for number, name in enumerate(selected, 1):
        _execute(
            notebooks / f"{name}.ipynb",
            output / "notebooks" / f"{name}.ipynb",
            parameters[name],
            title=f"[{number}/{len(selected)}] {name}",
        )
    return output


def _holds_videos(data: Path) -> bool:
    """Tell raw videos from face crops."""
    found = {dataset: "videos" in holds(dataset) for dataset in find_datasets(data)}
    if len(set(found.values())) > 1:
        kinds = {True: "videos", False: "crops"}
        names = ", ".join(f"{dataset.name} ({kinds[raw]})" for dataset, raw in found.items())
        raise ValueError(f"{data} mixes raw videos and face crops: {names}; name one kind's folder")
    return True in found.values()


def _check_classes(data: Path) -> None:
    """Refuse videos of one class before hours are spent on cutting them."""
    videos = index_videos(data)
    usable = videos["reason"] == ""
    if lack := lacking(videos.loc[usable, "label"], videos.loc[~usable, "reason"]):
        raise ValueError(f"{data}: {lack} TO=00_extract_faces cuts them all the same.")


def _select(start: str | None, stop: str | None, *, raw: bool) -> tuple[str, ...]:
    """Name the notebooks from `start` to `stop`."""
    for name in (start, stop):
        if name and name not in NOTEBOOKS:
            raise ValueError(unknown("notebook", name, NOTEBOOKS))
    first = NOTEBOOKS.index(start or NOTEBOOKS[0 if raw else 1])
    last = NOTEBOOKS.index(stop or NOTEBOOKS[-1])
    if first == 0 and not raw:
        raise ValueError(f"DATA holds face crops: start at {NOTEBOOKS[1]}, not {NOTEBOOKS[0]}")
    if first > last:
        raise ValueError(f"the first notebook, {NOTEBOOKS[first]}, comes after {NOTEBOOKS[last]}")
    return NOTEBOOKS[first : last + 1]


def _draw_demo(folder: Path, arguments: dict[str, Any]) -> None:
    """Draw the demo data, unless the same code has drawn it with the same arguments."""
    modules = sorted(DEMO.parent.glob("*.py"))
    code = hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()
    recipe = json.dumps({"arguments": arguments, "code": code}, indent=2)
    stamp = folder / "drawn_with.json"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe:
        return
    if folder.exists():
        if not stamp.is_file():
            raise ValueError(f"{folder} is not ours to replace: move it, or name another OUTPUT")
        shutil.rmtree(folder)
    print(f"drawing the demo data in {_shown(folder)}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo_data-") as temporary:
        drawn = Path(temporary) / folder.name
        draw_demo(drawn, **arguments)
        (drawn / stamp.name).write_text(recipe, encoding="utf-8")
        os.replace(drawn, folder)


def _execute(path: Path, copy: Path, parameters: dict[str, Any], *, title: str) -> None:
    """Run one notebook in a kernel of its own; relative paths are of the folder we are in."""
    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"{title}: running", flush=True)
    begin = time.monotonic()
    try:
        papermill.execute_notebook(
            _literal(path),  # papermill writes both paths into the copy: as short as they can be
            _literal(copy),
            parameters,
            kernel_name="python3",
            language="python",
            kernel_manager_class=_ThisInterpreter,
            progress_bar={"desc": title, "leave": False} if terminal else False,
            cwd=Path.cwd(),
            start_timeout=START_S,
        )
    except papermill.PapermillExecutionError as error:
        told = ANSI.sub("", "\n".join(error.traceback))
        line = re.search(r"^-+> \d+ +(.*)", told, re.MULTILINE)  # the line of the cell comes first
        code = line[1] if line else (error.source.strip().splitlines() or [""])[0]
        reason = "\n".join(error.evalue.strip().splitlines()[:5])
        raise NotebookError(
            f"{path.stem} stopped in cell [{error.exec_count}]: {code}\n"
            f"{error.ename}: {reason}\nexecuted copy: {_shown(copy)}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{path.stem} stopped: its kernel died, most often for lack of memory\n"
            f"executed copy: {_shown(copy)}"
        ) from None
    except RuntimeError as error:  # of nbclient, which waits for the first sign of a kernel
        if "Kernel" not in str(error):
            raise
        raise NotebookError(
            f"{path.stem} did not start ({error}): its kernel has {START_S / 60:.0f} minutes for "
            "that; free some memory, or run again when this machine has less to do"
        ) from None
    print(f"{title}: done in {timedelta(seconds=round(time.monotonic() - begin))}", flush=True)


def _literal(path: Path) -> str:
    """A path for papermill, which would put parameters into the braces of one."""
    return _shown(path).replace("{", "{{").replace("}", "}}")


def _shown(path: Path) -> str:
    """Give a path relative to the working directory if it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _summary(output: Path) -> str:
    """Sum up what 04 found, from `metrics.json`."""
    metrics = read_json(output, "metrics.json")
    auc = metrics["video"]["roc_auc"]
    numbers = [auc[key] for key in ("value", "low", "high")]
    if None in numbers:
        area = "not defined: test videos of one class only"
    else:
        area = "{:.3f} (95% interval {:.3f} to {:.3f}, by video)".format(*numbers)
    rule = f", {metrics['threshold_rule']} on val" if "threshold_rule" in metrics else ""
    return (
        f"report     {_shown(output / 'report.html')}\ntest AUC   {area}\n"
        f"threshold  {metrics['threshold']:.3f}{rule}\nmodel      {_shown(output / 'model')}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns 0, 1 (a notebook failed), 2 (refused) or 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.run",
        description="Run the notebooks in order, on your data or on a demo that is drawn first.",
        epilog=f"Notebooks: {', '.join(NOTEBOOKS)}.",
    )
    parser.add_argument("--data", metavar="FOLDER", help="of a known layout; default: the demo")
    parser.add_argument("--output", metavar="FOLDER", help="default: outputs/run, or outputs/demo")
    # One text for several parameters, as make hands it on, or several texts.
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="*",
        action="extend",
        metavar="NOTEBOOK.PARAMETER=VALUE",
        help='parameters, such as "03_train.EPOCHS=2 03_train.IMAGE_SIZE=96"',
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="NOTEBOOK",
        help="first notebook; default: 00, or 01 for crops",
    )
    parser.add_argument("--to", dest="stop", metavar="NOTEBOOK", help="last notebook; default: 05")
    args = parser.parse_args(argv)
    # papermill doubts parameters whose comment holds a "="; ours are checked already.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        overrides = parse_overrides(" ".join(args.overrides or []))
        output = run_pipeline(args.data, args.output, overrides, args.start, args.stop)
        # The names sort in the order of the run.
        evaluated = (args.start or "") <= "04_evaluate" <= (args.stop or NOTEBOOKS[-1])
        print(_summary(output) if evaluated else f"outputs    {_shown(output)}")
        if args.start == NOTEBOOKS[-1]:
            print(f"answers    {_shown(output / 'answers.html')}")
    except (NotebookError, ValueError, OSError) as error:
        print("error:", printable(str(error), keep="\n"), file=sys.stderr)
        return 1 if isinstance(error, NotebookError) else 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
