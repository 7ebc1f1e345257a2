import os

import pytest
import torch

from utils.model import scoring
from utils.model.scoring import mixed_precision
from utils.training import loop
from utils.training.loop import process_count, run_processes

CPU = torch.device("cpu")


def tell_rank(job, report):
    report("rank", {"rank": os.environ["RANK"], "of": os.environ["WORLD_SIZE"], "job": job})


def fail_in_the_second(job, report):
    if os.environ["RANK"] == "1":
        raise FloatingPointError(f"{job} is no number")
    torch.ones(1).sum()


def test_processes_run_the_job_and_the_first_one_reports():
    seen = []
    run_processes(tell_rank, "train", 2, lambda kind, content: seen.append((kind, content)))
    assert seen == [("rank", {"rank": "0", "of": "2", "job": "train"})]
    assert not loop.is_launched()  # this process is not one of them


def test_what_a_process_raises_is_raised_here():
    with pytest.raises(FloatingPointError, match="the loss is no number"):
        run_processes(fail_in_the_second, "the loss", 2, lambda *_: None)


def test_every_visible_gpu_gets_a_process_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_count(torch.device("cuda")) == 2
    assert process_count(torch.device("cuda:1")) == process_count(CPU) == 1


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_gpu_computes_in_what_it_has_in_hardware(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert mixed_precision(torch.device("cuda")) == expected
    assert mixed_precision(torch.device("cuda"), "float32") == "no"


@pytest.mark.parametrize(("half", "expected"), [(0.5, "bf16"), (0.9, "no"), (5.0, "no")])
def test_cpu_computes_in_bfloat16_only_where_that_is_clearly_faster(monkeypatch, half, expected):
    monkeypatch.setattr(scoring, "_seconds", lambda _, autocast: half if autocast else 1.0)
    assert mixed_precision(CPU) == expected


def test_measuring_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert mixed_precision(CPU) in ("no", "bf16")
    assert torch.equal(torch.rand(2), expected)
