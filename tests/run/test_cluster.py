"""Faces are cut on a Dask cluster and in local processes; a killed worker loses nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.faces.test_detection import scene
from tests.faces.test_extraction import same_tree
from utils.faces.extraction import RECORDS, extract_faces
from utils.faces.media import write_video

pytest.importorskip("distributed", reason="requirements-dev.txt installs it")
ROOT = Path(__file__).resolve().parents[2]
N_VIDEOS, FRAMES = 10, 12


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten short videos of one drawn person."""
    folder = tmp_path_factory.mktemp("raw")
    rows = []
    for number in range(N_VIDEOS):
        frames = (scene((200 + 5 * number + i, 170, 150)) for i in range(FRAMES))
        path = write_video(folder / f"v{number}.mp4", frames, fps=12, preset="ultrafast")
        rows.append((str(path), "demo", path.stem, path.name, "REAL", "", "original", ""))
    columns = ["path", "dataset", "video", "filename", "label", "original", "method", "split"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def alone(videos, tmp_path_factory):
    """What one process makes of them."""
    folder = tmp_path_factory.mktemp("alone") / "faces"
    extract_faces(videos, folder, progress=False)
    return folder


@contextmanager
def cluster(folder, python_path=ROOT):
    """A scheduler and two workers on this machine, in processes of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(python_path), "OMP_NUM_THREADS": "1"}
    where = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    alone = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
    commands = [
        ["scheduler", *where, "--no-dashboard"],
        *[["worker", address, *alone, "--name", f"worker-{n}"] for n in (1, 2)],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=environment,
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        from distributed import Client

        with Client(address, timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
        yield address, [process.pid for process in processes[1:]]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def kill_half_way(folder, pids):
    """Once two videos are finished, kill the first of these processes."""

    def wait():
        while len(list((folder / RECORDS).glob("v*.json"))) < 2:
            time.sleep(0.02)
        os.kill(pids()[0], signal.SIGKILL)
        killed.append(True)

    killed: list[bool] = []
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return killed


def check(report, videos, folder, alone, killed):
    assert killed
    assert report["video"].tolist() == videos["video"].tolist()
    assert report["n_faces"].tolist() == [FRAMES] * N_VIDEOS
    assert same_tree(folder, alone)  # nothing is lost, nothing is there twice
    again = extract_faces(videos, folder, progress=False)
    assert again["kept"].all()


def test_a_killed_dask_worker_loses_nothing(videos, alone, tmp_path):
    folder = tmp_path / "faces"
    with cluster(tmp_path) as (address, workers):
        killed = kill_half_way(folder, lambda: workers)
        report = extract_faces(videos, folder, scheduler=address, progress=False)
    check(report, videos, folder, alone, killed)


def test_workers_that_do_not_find_the_project_are_told_how_to(videos, tmp_path):
    with (
        cluster(tmp_path, python_path="") as (address, _),
        pytest.raises(ImportError, match="PYTHONPATH=path/to/the/project"),
    ):
        extract_faces(videos[:1], tmp_path / "faces", scheduler=address, progress=False)


def test_a_killed_local_process_loses_nothing(videos, alone, tmp_path):
    def workers():
        children = psutil.Process().children()
        return [child.pid for child in children if "LokyProcess" in " ".join(child.cmdline())]

    folder = tmp_path / "faces"
    killed = kill_half_way(folder, workers)
    report = extract_faces(videos, folder, workers=2, progress=False)
    check(report, videos, folder, alone, killed)


def test_a_scheduler_that_does_not_answer_is_named(videos, tmp_path):
    with pytest.raises(OSError, match=r"tcp://127\.0\.0\.1:9"):
        extract_faces(videos[:1], tmp_path / "faces", scheduler="tcp://127.0.0.1:9", progress=False)
