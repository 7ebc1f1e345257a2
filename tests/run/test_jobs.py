"""Every item gives one result, also where a process dies under it."""

import os
import signal
import threading
import time
from pathlib import Path

import cv2
import pytest
import torch

from utils.run.jobs import ATTEMPTS, CHUNK, HEADLESS, Bar, map_threads, prefetch, run_jobs


def square(number):
    return number**2


def where(_):
    time.sleep(0.2)  # so that one process cannot take all
    return os.getpid(), torch.get_num_threads(), cv2.getNumThreads()


def die_once(item):
    """Kill the process at item 3, the first time."""
    folder, number = item
    with (Path(folder) / str(number)).open("a") as log:
        log.write("tried\n")
    if number == 3 and (Path(folder) / "3").read_text().count("tried") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_always(item):
    folder, number = item
    with (Path(folder) / str(number)).open("a") as log:
        log.write("tried\n")
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number):
    raise ValueError(f"item {number} is bad")


def test_bars_tell_of_themselves_where_nobody_sees_them(monkeypatch, capfd):
    monkeypatch.setattr("utils.run.jobs.TELL_EVERY", 0)
    assert list(Bar(range(3), "judge", unit="file", mininterval=0)) == [0, 1, 2]
    assert "left" not in capfd.readouterr().err
    monkeypatch.setenv(HEADLESS, "1")
    list(map_threads(square, range(3), desc="decode", unit="crop"))
    list(Bar(range(3), "judge", disable=True))
    told = [line for line in capfd.readouterr().err.splitlines() if "left" in line]
    assert told and all(line.startswith("decode: ") and "/3 crop" in line for line in told)
    assert not any("\r" in line for line in told)


def test_each_item_gives_one_result_here_and_in_processes():
    for workers in (1, 2):
        assert sorted(run_jobs(square, range(7), workers=workers)) == [n**2 for n in range(7)]
    assert list(run_jobs(square, [], workers=2)) == []


def test_one_worker_is_this_process():
    assert {pid for pid, *_ in run_jobs(where, range(2), workers=1)} == {os.getpid()}


def test_processes_have_one_thread_each():
    results = list(run_jobs(where, range(6), workers=2))
    assert len({pid for pid, *_ in results} | {os.getpid()}) == 3
    assert {threads for _, *threads in map(tuple, results) for threads in [tuple(threads)]} == {
        (1, 1)
    }


def test_a_process_that_dies_loses_nothing_and_doubles_nothing(tmp_path):
    items = [(str(tmp_path), number) for number in range(8)]
    assert sorted(run_jobs(die_once, items, workers=2)) == list(range(8))
    assert (tmp_path / "3").read_text().count("tried") == 2


def test_an_item_that_always_kills_its_process_is_given_up_and_the_others_go_on(tmp_path):
    items = [(str(tmp_path), number) for number in range(8)]
    results = run_jobs(die_always, items, workers=2, lost=lambda item: -item[1])
    assert sorted(results) == [-3, 0, 1, 2, 4, 5, 6, 7]
    assert (tmp_path / "3").read_text().count("tried") == ATTEMPTS
    with pytest.raises(RuntimeError, match=r", 3\) took its process down"):
        list(run_jobs(die_always, items, workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_is_raised(workers):
    with pytest.raises(ValueError, match="is bad"):
        list(run_jobs(fail, range(3), workers=workers))


def test_prefetched_items_come_in_order_and_are_made_in_another_thread():
    made = []

    def items():
        for number in range(5):
            made.append(threading.current_thread())
            yield number

    assert list(prefetch(items(), 2)) == [0, 1, 2, 3, 4]
    assert threading.current_thread() not in made


def test_prefetching_stays_within_its_bounds():
    made = []
    source = prefetch((made.append(n) or n for n in range(100)), 3)
    assert next(source) == 0
    time.sleep(0.2)
    assert len(made) == 4  # the one that was given and three that lie ready
    source.close()
    time.sleep(0.1)
    assert len(made) <= 5


def test_prefetching_raises_what_the_source_raises_in_its_place():
    def items():
        yield 1
        raise ValueError("frame 2 is broken")

    source = prefetch(items(), 4)
    assert next(source) == 1
    with pytest.raises(ValueError, match="frame 2"):
        next(source)


def test_threads_give_every_result_in_order_and_raise_what_the_function_raises():
    items = list(range(2 * CHUNK + 3))
    how = {"desc": "square", "unit": "number", "progress": False}
    assert list(map_threads(square, items, **how)) == [n**2 for n in items]
    assert list(map_threads(square, [], **how)) == []
    with pytest.raises(ValueError, match="is bad"):
        list(map_threads(fail, items, **how))


def test_threads_show_how_far_they_are(capsys):
    list(map_threads(square, [1, 2, 3], desc="square them", unit="number"))
    assert "square them: 100%" in capsys.readouterr().err
