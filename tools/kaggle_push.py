"""Push staged kernels and the data set that they import, by the official `kaggle` client."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from requests import HTTPError, RequestException

UTILS_DATASET = "utils-dataset"
#: Lines of the log of a failed kernel that its error shows.
LOG_LINES = 15
ADVICE = {
    401: "Kaggle does not know these credentials; make new ones at kaggle.com/settings (API)",
    403: "Kaggle forbids it: is OWNER your own name there, is your phone number verified (GPU and "
    "internet need that), and did you accept the rules of the competitions that are attached?",
    404: "Kaggle knows nothing of that name",
    429: "Kaggle takes no more requests for now; try again later",
}
Say = Callable[[str], None]


class KaggleError(RuntimeError):
    """Kaggle, or its client, refused; the message says what and what to do."""


@dataclass(frozen=True)
class StagedKernel:
    """One folder that `kaggle kernels push` takes."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """`owner/slug`."""
        return str(self.metadata["id"])

    @property
    def reads(self) -> list[str]:
        """Kernels whose output is attached to it."""
        return list(self.metadata["kernel_sources"])


def staged_kernels(folder: str | Path) -> dict[str, StagedKernel]:
    """The kernels of a staged folder by name, each after those that it reads."""
    found = {}
    for file in sorted(Path(folder).glob("*/kernel-metadata.json")):
        kernel = StagedKernel(file.parent, json.loads(file.read_text(encoding="utf-8")))
        found[kernel.name] = kernel
    order = TopologicalSorter({name: kernel.reads for name, kernel in found.items()})
    return {name: found[name] for name in order.static_order() if name in found}


def describe_push(folder: str | Path) -> list[str]:
    """What `push` would do, a line a step; asks nobody."""
    dataset = json.loads((Path(folder) / UTILS_DATASET / "dataset-metadata.json").read_text())
    lines = [f"data set {dataset['id']}: create it or add a version, wait until it is ready"]
    for kernel in staged_kernels(folder).values():
        after = f" when complete: {', '.join(kernel.reads)}" if kernel.reads else ""
        gpu = "GPU" if kernel.metadata["enable_gpu"] else "CPU"
        net = "internet" if kernel.metadata["enable_internet"] else "no internet"
        lines.append(f"kernel {kernel.name} ({gpu}, {net}): push and run{after}")
    return lines


def push(folder: str | Path, *, say: Say, pause: float = 20.0) -> dict[str, str]:
    """Push the data set, wait until it is ready, then each kernel after those that it reads.

    Args:
        folder: as `tools.kaggle.stage` writes it.
        say: told what happens.
        pause: seconds between two questions about what is under way.
    Returns:
        "complete", "failed" or "not pushed" by kernel.
    Raises:
        KaggleError: no or other people's credentials, or the data set or a kernel is refused.
    """
    kernels = staged_kernels(folder)
    api = connect(next(iter(kernels)).split("/")[0])
    push_dataset(api, Path(folder) / UTILS_DATASET, say=say, pause=pause)
    # What a kernel reads of others is there already.
    graph = {name: kernels.keys() & kernel.reads for name, kernel in kernels.items()}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    results = dict.fromkeys(kernels, "not pushed")
    running: list[str] = []
    while sorter.is_active():
        for name in sorted(sorter.get_ready()):
            say(f"{name}: {push_kernel(api, kernels[name])}")
            running.append(name)
        if not running:  # what is left reads a kernel that failed
            break
        time.sleep(pause)
        for name in list(running):
            with _readable(f"status of {name}"):
                state = api.with_retry(api.kernels_status)(name)
            if state.status.name in ("QUEUED", "RUNNING", "NEW_SCRIPT"):
                continue
            running.remove(name)
            if state.status.name == "COMPLETE":
                results[name] = "complete"
                sorter.done(name)
                say(f"{name}: complete")
            else:
                results[name] = "failed"
                say(_failure(api, kernels[name], state))
    for name, result in results.items():
        if result == "not pushed":
            say(f"{name}: not pushed, for it reads the output of a kernel that failed")
    return results


def connect(owner: str) -> Any:
    """The client, signed in as `owner`.

    Raises:
        KaggleError: it is not installed, finds no credentials, or finds those of somebody else.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a page of help
            from kaggle.api.kaggle_api_extended import KaggleApi, KaggleClient

            class Client(KaggleApi):
                """Goes where KAGGLE_API_ENVIRONMENT says, as the library below it does."""

                def build_kaggle_client(self) -> KaggleClient:
                    known = self.config_values
                    return KaggleClient(
                        username=known.get(self.CONFIG_NAME_USER),
                        password=known.get(self.CONFIG_NAME_KEY),
                        api_token=known.get(self.CONFIG_NAME_TOKEN),
                        response_processor=self.get_response_processor(),
                    )

            api = Client()
            api.authenticate()
    except ImportError as error:
        raise KaggleError("the client is missing: pip install kaggle") from error
    except SystemExit:
        raise KaggleError(
            "no Kaggle credentials: at kaggle.com/settings (API) create a token, and set "
            "KAGGLE_API_TOKEN to it or save it as ~/.kaggle/access_token; of the older kind, save "
            "~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY"
        ) from None
    user = api.get_config_value("username")
    if str(user).lower() != owner.lower():
        raise KaggleError(f"OWNER={owner}, but these are the credentials of {user}")
    return api


def push_dataset(api: Any, folder: Path, *, say: Say, pause: float) -> None:
    """Create the data set or add a version to it, and wait until it can be attached.

    Raises:
        KaggleError: refused, or Kaggle could not process it.
    """
    name = json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    with _readable(f"data set {name}"):
        exists = _dataset_status(api, name) is not None
        arguments: dict[str, Any] = {"quiet": True, "dir_mode": "zip"}
        if exists:
            answer = api.dataset_create_version(str(folder), "make kaggle-push", **arguments)
        else:
            answer = api.dataset_create_new(str(folder), **arguments)
        if answer.error or answer.status.lower() != "ok":
            raise KaggleError(
                f"data set {name} is refused: {answer.error or answer.status}. If the name is "
                "taken, change `utils.slug` and `utils.title` in kaggle-metadata.json"
            )
    say(f"data set {name}: {'new version' if exists else 'created'}")
    status = api.with_retry(_dataset_status)
    while True:
        time.sleep(pause)  # at once, Kaggle would still answer for the version before
        with _readable(f"data set {name}"):
            now = status(api, name)
        if now == "ready":
            break
        if now in ("failed", "deleted"):
            raise KaggleError(f"data set {name}: Kaggle reports {now!r} while processing it")
    say(f"data set {name}: ready")


def _dataset_status(api: Any, name: str) -> str | None:
    """Its status, None if there is no such data set."""
    try:
        return str(api.dataset_status(name))
    except HTTPError as error:
        # Of what is nobody's, Kaggle says that it is forbidden as often as that it is not there.
        if error.response is not None and error.response.status_code in (403, 404):
            return None
        raise


def push_kernel(api: Any, kernel: StagedKernel) -> str:
    """Push one kernel, which runs it; return where it can be watched.

    Raises:
        KaggleError: refused, or something that it attaches does not exist.
    """
    with _readable(f"kernel {kernel.name}"):
        answer = api.kernels_push(str(kernel.folder))
    if answer.error:
        raise KaggleError(
            f"kernel {kernel.name} is refused: {answer.error}. If the title is taken, change "
            "`slug` and `title` in kaggle-metadata.json"
        )
    kinds = ("dataset", "competition", "kernel", "model")
    refused = {kind: getattr(answer, f"invalid_{kind}_sources", None) for kind in kinds}
    for kind, names in refused.items():
        if names:
            raise KaggleError(
                f"kernel {kernel.name} was pushed without its {kind}_sources "
                f"{', '.join(names)}: they do not exist, are private, or their rules were not "
                "accepted"
            )
    return f"version {answer.version_number} runs, {answer.url}"


def _failure(api: Any, kernel: StagedKernel, state: Any) -> str:
    """What is known of a failed run; its whole log goes beside the kernel."""
    with _readable(f"log of {kernel.name}"):
        log = api.kernels_logs(kernel.name)
    path = kernel.folder / "run.log"
    path.write_text(log, encoding="utf-8")
    tail = "\n".join(f"    {line}" for line in _log_lines(log)[-LOG_LINES:])
    reason = f" ({state.failure_message})" if state.failure_message else ""
    return f"{kernel.name}: failed{reason}\n{tail}\n    whole log: {path}"


def _log_lines(log: str) -> list[str]:
    """The text of a log, which Kaggle keeps as a list of {stream_name, time, data}."""
    try:
        text = "".join(entry["data"] for entry in json.loads(log))
    except (ValueError, TypeError, KeyError):
        text = log
    return [line for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn what the client raises and prints into one sentence."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise KaggleError(f"{what}: {ADVICE.get(status, str(error))} (HTTP {status})") from error
    except RequestException as error:
        raise KaggleError(f"{what}: Kaggle cannot be reached ({error})") from error
    except (ValueError, OSError) as error:
        detail = (printed.getvalue().strip().splitlines() or [""])[-1]
        raise KaggleError(f"{what}: {error} {detail}".strip()) from error
