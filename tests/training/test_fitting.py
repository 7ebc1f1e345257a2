import json
import os
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from sklearn.metrics import log_loss

from benchmarks.kill_resume import compare, run_until_done
from utils.faces.media import load_crop
from utils.model.network import build_model
from utils.model.scoring import model_transform
from utils.run.artifacts import ARTIFACTS, read_json, write_json
from utils.stats.decisions import fit_calibration
from utils.training import fitting
from utils.training.augmentation import POLICIES
from utils.training.batches import CropSet, CropTable, open_store
from utils.training.checkpoints import has_checkpoint
from utils.training.fitting import (
    best_epoch,
    epoch_line,
    fit,
    read_policy,
    run_processes,
    sum_up,
)
from utils.training.loop import duration, is_launched
from utils.training.recipes import TrainConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
Y_TRUE = [0, 1] * 10
CONFIG = TrainConfig(
    epochs=3, batch_size=5, learning_rate=3e-3, frames_per_video=0, precision="float32", seed=1
)
STRONG = replace(
    CONFIG,
    optimizer="adamw",
    weight_decay=0.05,
    schedule="cosine",
    warm_up=0.1,
    ema=0.9,
    label_smoothing=0.1,
    clip_norm=1.0,
    pairs=True,
    batch_size=6,
)
CLOCK = ["images_per_s", "data_wait_s", "compute_s", "peak_memory_mb", "elapsed_s"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Twenty noisy crops; the odd ones, the fakes, have stripes."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    made = []
    for row, fake in enumerate(Y_TRUE):
        pixels = rng.integers(60, 190, (32, 32, 3))
        pixels[::2] += 60 * fake
        made.append(str(folder / f"{row}.png"))
        Image.fromarray(pixels.astype(np.uint8)).save(made[-1])
    return made


class Stop(Exception):
    pass


def crop_set(paths, y_true, name="train"):
    index = pd.DataFrame({"label": np.where(y_true, "FAKE", "REAL"), "frame": 0, "dataset": "d"})
    index["video"] = [f"v{row}" for row in range(len(y_true))]
    index["source"] = [f"s{row // 2}" for row in range(len(y_true))]
    folder = os.path.join(os.path.dirname(paths[0]), "store")
    store = open_store(paths, 32, folder, f"{name}{len(paths)}", progress=False)
    return CropSet(store, CropTable.from_index(index), paths)


def new_model(name="test_efficientnet", seed=0):
    torch.manual_seed(seed)
    model = build_model(name, image_size=32, pretrained=False)
    model.drop_rate = 0.3  # dropout draws too, and a resumed run must draw the same
    return model


def train(output, paths, config=CONFIG, *, model=None, y_train=Y_TRUE, y_val=Y_TRUE,
          policy="none", device=CPU, **options):  # fmt: skip
    """History and model; the state is in `output/checkpoint`."""
    model, history = fit(
        model or new_model(),
        crop_set(paths, y_train),
        crop_set(paths, y_val, "val"),
        config,
        policy=POLICIES[policy],
        output=output,
        device=device,
        **{"num_workers": 0, "progress": False} | options,
    )
    return history, model


def state_of(output):
    return torch.load(output / "checkpoint" / "last.pt", weights_only=True)


def val_loss(model, paths, y_val):
    """What calibration leaves of it."""
    transform = model_transform(model)
    images = torch.stack([transform(load_crop(path)) for path in paths])
    with torch.inference_mode():
        logits = model.eval()(images).diff()[:, 0].double().numpy()
    temperature, offset = fit_calibration(logits, y_val)
    return log_loss(y_val, expit(logits / temperature + offset))


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.values()))


def same_run(one, two):
    """Histories without what a clock or a memory gauge measured, and weights, to the bit."""
    (history, model), (other, twin) = one, two
    columns = [column for column in history if column not in CLOCK]
    return history[columns].equals(other[columns]) and same_weights(model, twin.state_dict())


@pytest.fixture(scope="module")
def learned(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    return *train(folder, paths, replace(CONFIG, epochs=8)), folder


@pytest.fixture(scope="module")
def overfitted(paths, tmp_path_factory):
    """A run whose val labels are the opposite of what it learns, so its val loss rises."""
    folder = tmp_path_factory.mktemp("overfitted")
    y_val = [1 - label for label in Y_TRUE]
    return *train(folder, paths, replace(CONFIG, epochs=6), y_val=y_val), y_val, folder


# learning


def test_loss_falls_on_what_can_be_learned(learned):
    history, *_ = learned
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert history["val_loss"].min() < 0.5
    assert history["val_auc"].max() > 0.95


def test_history_has_the_columns_of_the_contract_and_a_row_an_epoch(learned):
    history, *_ = learned
    assert history.columns.tolist() == ARTIFACTS["history.csv"].columns
    assert history["epoch"].tolist() == list(range(1, 9))
    assert history.notna().all(axis=None)
    assert (history["lr"] == CONFIG.learning_rate).all()
    assert history["elapsed_s"].is_monotonic_increasing
    seconds = history["data_wait_s"] + history["compute_s"]
    assert history["images_per_s"].tolist() == pytest.approx((20 / seconds).tolist())


def test_epoch_callback_gets_the_history_so_far_and_a_line_is_shown(paths, tmp_path, capsys):
    seen = []
    config = replace(CONFIG, epochs=2)
    history, _ = train(tmp_path, paths, config, on_epoch=seen.append, progress=None)
    assert [len(past) for past in seen] == [1, 2]
    assert seen[1].equals(history)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [epoch_line(row, 2) for _, row in history.iterrows()]


def test_the_given_model_stays_as_it_was_and_a_second_call_gives_the_same(paths, tmp_path):
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = train(tmp_path / "1", paths, STRONG, model=model, policy="reference")
    assert same_weights(model, before)
    assert not same_weights(first[1], before)
    second = train(tmp_path / "2", paths, STRONG, model=model, policy="reference")
    assert same_run(first, second)


def test_epoch_line_tells_the_time_left():
    row = dict.fromkeys(ARTIFACTS["history.csv"].columns, 0.5)
    line = epoch_line(row | {"epoch": 2, "elapsed_s": 240, "data_wait_s": 1, "compute_s": 3}, 6)
    assert line.startswith("epoch   2 of 6 · train loss 0.500")
    assert "25% waiting" in line
    assert line.endswith("4 min, 8 min left")
    assert [duration(s) for s in (5, 99, 6000)] == ["5 s", "99 s", "1 h 40 min"]


def test_summary_tells_what_is_kept_and_that_the_time_was_up(learned):
    history, *_ = learned
    shown = history.assign(val_loss=[0.9, 0.25, *[0.5] * 6], data_wait_s=1.0, compute_s=3.0)
    assert sum_up(shown, 8).startswith("Epoch **2** of 8 has the lowest val loss, 0.250 (val AUC")
    assert "; 25.0% of the time" in sum_up(shown, 8)
    assert "RESUME" not in sum_up(shown, 8)
    assert sum_up(shown, 9).endswith("**Stopped by the time budget: go on with RESUME.**")


def test_kept_weights_are_those_of_the_best_epoch(overfitted, paths):
    history, model, y_val, _ = overfitted
    best = best_epoch(history)
    assert best < len(history)
    losses = history.set_index("epoch")["val_loss"]
    assert losses[best] == losses.min() < 0.95 * losses.iloc[-1]
    assert val_loss(model, paths, y_val) == pytest.approx(losses[best], abs=1e-4)


def test_best_weights_are_a_copy_and_not_the_last_ones(overfitted):
    _, model, _, folder = overfitted
    state = state_of(folder)
    assert same_weights(model, state["best"])
    assert not same_weights(model, state["model"])


def test_best_of_equal_epochs_is_the_first_one(learned):
    history, *_ = learned
    assert best_epoch(history.assign(val_loss=[3, 1, 2, 1, 1, 2, 3, 4])) == 2


def test_training_with_gradients_and_validation_without_them_and_in_eval_mode(paths, tmp_path):
    model, calls = new_model(), []
    model.register_forward_hook(
        lambda module, _, logits: calls.append((module.training, logits.requires_grad))
    )
    train(tmp_path, paths, replace(CONFIG, epochs=2), model=model)
    one_epoch = [(True, True)] * 4 + [(False, False)] * 4  # 20 crops by 5
    assert calls == one_epoch * 2


# the ingredients


def test_averaged_weights_are_validated_and_kept(paths, tmp_path):
    config = replace(CONFIG, ema=0.999, epochs=2)
    history, model = train(tmp_path, paths, config)
    state = state_of(tmp_path)
    assert not same_weights(model, state["model"])
    best = history["val_loss"].min()
    assert val_loss(model, paths, Y_TRUE) == pytest.approx(best, abs=1e-4)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(paths, tmp_path):
    def weights(parts):
        model = new_model()
        for layer in model.modules():  # batch norms see the parts, and dropout draws for each
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.0
                layer.train = lambda mode=True, layer=layer: layer
                layer.training = False
        model.drop_rate = 0.0
        config = replace(CONFIG, epochs=1, batch_size=20, accumulate=parts, learning_rate=1e-3)
        _, trained = train(tmp_path / str(parts), paths, config, model=model)
        return torch.cat([value.flatten() for value in trained.state_dict().values()])

    start = torch.cat([value.flatten() for value in new_model().state_dict().values()])
    whole, parts = weights(1), weights(3)
    assert (whole - start).abs().max() > 5e-4
    assert parts == pytest.approx(whole, abs=1e-4)


def test_large_gradients_are_clipped(paths, tmp_path, monkeypatch):
    norms = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, n, **k: norms.append(n) or clip(p, n, **k)
    )
    train(tmp_path, paths, replace(CONFIG, epochs=1, clip_norm=0.25))
    assert norms == [0.25] * 4


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("train_only", ["norms", "head"])
def test_only_what_train_only_names_moves(paths, tmp_path, name, train_only):
    side = 160 if name == "test_vit" else 32
    model = build_model(name, image_size=side, pretrained=False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _, trained = train(tmp_path, paths, replace(CONFIG, train_only=train_only), model=model)
    moved = {k for k, v in trained.state_dict().items() if not torch.equal(v, before[k])}
    head = {key for key in before if key.startswith(("classifier.", "head."))}
    norms = {
        key for key in before if re.search(r"(bn\d*|norm\d*)\.(weight|bias|running_\w+)$", key)
    }
    assert head and norms
    assert {k for k in moved if "num_batches" not in k} == (
        head | norms if train_only == "norms" else head
    )
    assert all(p.requires_grad for p in trained.parameters())


def test_class_weights_enter_the_loss_of_training_alone(paths, tmp_path):
    config = replace(CONFIG, epochs=1, batch_size=20, learning_rate=1e-9)
    y_train = [0] * 5 + [1] * 15
    found = {}
    for weights in ("none", "balanced"):
        chosen = replace(config, class_weights=weights)
        history, model = train(tmp_path / weights, paths, chosen, y_train=y_train, y_val=y_train)
        assert history["val_loss"].item() == pytest.approx(
            val_loss(model, paths, y_train), abs=1e-5
        )
        found[weights] = history["train_loss"].item(), history["val_loss"].item()
    assert found["none"][0] != pytest.approx(found["balanced"][0], abs=1e-4)
    assert found["none"][1] == pytest.approx(found["balanced"][1], abs=1e-4)


def test_an_epoch_that_is_only_surer_of_another_mix_is_not_worse(paths, tmp_path):
    """Pairs teach a mix of 50:50, and the plain loss on val then picks the least sure epoch."""
    y_val = np.array([0] * 4 + [1] * 16)
    first = np.concatenate([[-0.5, 0.5, -0.2, 0.8], np.linspace(-0.5, 1.5, 16)])
    better = np.concatenate([np.linspace(-5, -3, 4), np.linspace(-3.2, 0, 16)])  # and far off
    sure = [first, better]
    plain = [np.logaddexp(0, -np.where(y_val == 1, 1, -1) * logits).mean() for logits in sure]
    assert plain[0] < plain[1]
    batches = iter(np.concatenate(sure).reshape(-1, 5))

    def say(module, _, logits):
        if module.training:
            return logits
        told = torch.tensor(next(batches), dtype=torch.float32)
        return torch.stack([torch.zeros_like(told), told], dim=1)

    model = new_model()
    model.register_forward_hook(say)
    config = replace(CONFIG, epochs=2)
    history, _ = train(tmp_path, paths, config, model=model, y_val=y_val.tolist())
    assert history["val_auc"].iloc[0] < history["val_auc"].iloc[1]
    assert best_epoch(history) == 2


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_model_is_its_own_again_after_any_precision(paths, tmp_path, precision):
    history, model = train(tmp_path, paths, replace(CONFIG, epochs=1, precision=precision))
    assert history["train_loss"].notna().all()
    assert "forward" not in vars(model)
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())
    assert model.eval()(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_half_precision_is_refused_on_a_cpu(paths, tmp_path):
    with pytest.raises(ValueError, match="float16 is for GPUs"):
        train(tmp_path, paths, replace(CONFIG, precision="float16"))


# several processes


def test_two_processes_learn_what_one_learns_and_only_one_writes(paths, tmp_path):
    """A network without batch norms or dropout, whose gradient does not depend on the shares."""
    config = replace(CONFIG, epochs=2, batch_size=10, learning_rate=1e-3)
    seen = []
    start = new_model("test_convnext")
    one, _ = train(tmp_path / "one", paths, config, model=start)
    two, model = train(
        tmp_path / "two", paths, config, model=start, processes=2, on_epoch=seen.append
    )
    assert same_weights(start, new_model("test_convnext").state_dict())
    assert [len(past) for past in seen] == [1, 2]
    assert sorted(os.listdir(tmp_path / "two" / "checkpoint")) == ["last.pt", "previous.pt"]
    for column in ("train_loss", "val_loss", "val_auc"):
        assert two[column].tolist() == pytest.approx(one[column].tolist(), abs=1e-4)
    # The gathered scores are those of one process, row by row.
    state = state_of(tmp_path / "two")
    assert same_weights(model, state["best"])
    best = two["val_loss"].min()
    assert val_loss(model, paths, Y_TRUE) == pytest.approx(best, abs=1e-5)


def test_an_error_in_a_process_arrives_as_what_it_is(paths, tmp_path):
    with pytest.raises(ValueError, match="batch_size 3 gives each of 2 processes"):
        train(tmp_path, paths, replace(CONFIG, batch_size=3), processes=2)


def tell_rank(argument, report):
    report(
        "rank", {"rank": os.environ["RANK"], "of": os.environ["WORLD_SIZE"], "argument": argument}
    )


def fail_in_the_second(argument, report):
    if os.environ["RANK"] == "1":
        raise FloatingPointError(f"{argument} is no number")
    torch.ones(1).sum()


def test_processes_run_a_function_and_the_first_one_reports():
    seen = []
    run_processes(tell_rank, "train", 2, lambda kind, content: seen.append((kind, content)))
    assert seen == [("rank", {"rank": "0", "of": "2", "argument": "train"})]
    assert not is_launched()  # this process is not one of them


def test_what_a_process_raises_is_raised_here():
    with pytest.raises(FloatingPointError, match="the loss is no number"):
        run_processes(fail_in_the_second, "the loss", 2, lambda *_: None)


@pytest.mark.parametrize(
    ("device", "processes"), [("cuda", 2), ("cuda:1", 1), ("cpu", 1)]
)  # fmt: skip
def test_every_visible_gpu_gets_a_process_unless_one_is_named(
    paths, tmp_path, monkeypatch, device, processes
):
    started = []

    def run_several(function, setup, number, report):
        started.append(number)
        raise Stop

    def run_one(setup, report):
        started.append(1)
        raise Stop

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(fitting, "run_processes", run_several)
    monkeypatch.setattr(fitting, "train", run_one)
    with pytest.raises(Stop):
        train(tmp_path, paths, device=torch.device(device))
    assert started == [processes]


# stop and go on


@pytest.mark.parametrize("config", [CONFIG, STRONG], ids=["reference", "strong"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_is_the_uninterrupted_one_to_the_bit(paths, tmp_path, num_workers, config):
    def stop_after_two(history):
        if len(history) == 2:
            raise Stop

    options = {"policy": "robust", "num_workers": num_workers}
    whole = train(tmp_path / "whole", paths, config, **options)
    with pytest.raises(Stop):
        train(tmp_path / "parts", paths, config, on_epoch=stop_after_two, **options)
    # Another session: other random weights, another state of the random numbers.
    rest = train(tmp_path / "parts", paths, config, model=new_model(seed=9), resume=True, **options)
    assert same_run(whole, rest)


def test_run_stopped_within_an_epoch_goes_on_to_the_bit(paths, tmp_path, monkeypatch, capsys):
    """The time budget ends in the middle of the second epoch, by a clock that the test moves."""
    whole = train(tmp_path / "whole", paths, STRONG, policy="robust")
    clock, real = [0.0], time.monotonic

    def count_steps(module, _):
        clock[0] += 60 * module.training

    model = new_model()
    model.register_forward_pre_hook(count_steps)
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: real() + clock[0])
        history, _ = train(
            tmp_path / "parts", paths, STRONG, model=model, policy="robust", time_budget_min=5.5,
            checkpoint_minutes=1e9, progress=None,
        )  # fmt: skip
    said = f"stopped by the time budget after 1 of {STRONG.epochs} epochs: go on with RESUME"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert len(history) == 1  # four steps an epoch, a minute each
    state = state_of(tmp_path / "parts")
    assert (state["epoch"], state["step"]) == (2, 2)
    rest = train(tmp_path / "parts", paths, STRONG, model=new_model(seed=9), policy="robust",
                 resume=True)  # fmt: skip
    assert same_run(whole, rest)


def test_budget_that_ends_in_the_first_epoch_keeps_the_state_and_says_so(paths, tmp_path):
    with pytest.raises(TimeoutError, match="RESUME=True"):
        train(tmp_path, paths, time_budget_min=1e-9)
    assert has_checkpoint(tmp_path / "checkpoint")
    history, _ = train(tmp_path, paths, resume=True)
    assert len(history) == 3


def test_states_between_epochs_change_nothing(paths, tmp_path):
    rare = train(tmp_path / "rare", paths)
    often = train(tmp_path / "often", paths, checkpoint_minutes=0)
    assert same_run(rare, often)


def test_killed_runs_end_like_the_uninterrupted_one(tmp_path):
    """SIGKILL at random moments, and while a state is being written; see the benchmark for 20."""
    whole = run_until_done(tmp_path / "whole")
    for number, while_writing in enumerate((False, True)):
        killed = run_until_done(
            tmp_path / str(number), kills=2, while_writing=while_writing, seed=number
        )
        assert killed.kills == 2
        assert killed.signal == signal.SIGKILL
        assert compare(whole, killed) == []


def test_two_runs_of_one_seed_are_equal_to_the_bit_and_another_seed_is_not(paths, tmp_path):
    one = train(tmp_path / "1", paths, policy="reference")
    two = train(tmp_path / "2", paths, policy="reference")
    three, _ = train(tmp_path / "3", paths, replace(CONFIG, seed=2), policy="reference")
    assert same_run(one, two)
    assert not one[0]["train_loss"].equals(three["train_loss"])


def test_more_epochs_may_be_asked_for(paths, tmp_path):
    short, _ = train(tmp_path, paths, replace(CONFIG, epochs=1))
    seen = []
    longer, _ = train(tmp_path, paths, resume=True, on_epoch=lambda past: seen.append(len(past)))
    assert seen == [2, 3]
    assert longer.head(1).equals(short)


def test_finished_run_is_not_trained_again(overfitted, paths):
    whole, expected, y_val, folder = overfitted
    config = replace(CONFIG, epochs=6)
    history, model = train(folder, paths, config, resume=True, y_val=y_val, model=new_model(seed=5))
    assert history.equals(whole)
    assert same_weights(model, expected.state_dict())


def test_run_goes_on_from_an_attached_output_and_leaves_that_as_it_was(
    overfitted, paths, tmp_path, monkeypatch
):
    whole, expected, y_val, output = overfitted
    folder = output / "checkpoint"
    before = {name: os.stat(folder / name).st_mtime_ns for name in os.listdir(folder)}
    monkeypatch.setattr("utils.training.checkpoints.input_roots", lambda: [output])
    config = replace(CONFIG, epochs=6)
    history, model = train(
        tmp_path, paths, config, resume=True, y_val=y_val, model=new_model(seed=5)
    )
    assert history.equals(whole)
    assert same_weights(model, expected.state_dict())
    assert {name: os.stat(folder / name).st_mtime_ns for name in os.listdir(folder)} == before
    assert has_checkpoint(tmp_path / "checkpoint")


def test_without_resume_a_checkpoint_is_not_gone_on_from(paths, tmp_path):
    one = replace(CONFIG, epochs=1)
    train(tmp_path, paths, one)
    history, _ = train(tmp_path, paths, one)
    assert history["epoch"].tolist() == [1]
    assert has_checkpoint(tmp_path / "checkpoint")
    assert not has_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "options", "named"),
    [
        ({"learning_rate": 1e-5}, {}, r"learning_rate 0.003 → 1e-05"),
        ({"seed": 7}, {}, "seed 1 → 7"),
        ({"class_weights": "balanced"}, {}, "class_weights none"),
        ({"batch_size": 4}, {}, "batch_size 5 → 4"),
        ({}, {"policy": "reference"}, "augmentation"),
        ({}, {"y_train": Y_TRUE[::-1]}, "labels"),
        ({}, {"model": "test_resnet"}, "EfficientNet.* → ResNet"),
    ],
)
def test_resume_under_other_settings_is_refused(learned, paths, settings, options, named):
    *_, folder = learned
    if "model" in options:
        options = {"model": new_model(options["model"])}
    with pytest.raises(ValueError, match=rf"(?s)other settings.*{named}.*RESUME=False"):
        train(folder, paths, replace(CONFIG, epochs=9, **settings), resume=True, **options)


# what goes wrong


class Broken(torch.nn.Module):
    """Gives no number from its third training step on, or in validation."""

    def __init__(self, where):
        super().__init__()
        self.inner, self.where, self.steps = new_model(), where, 0
        self.pretrained_cfg = self.inner.pretrained_cfg

    def forward(self, images):
        self.steps += self.training
        broken = self.steps > 6 if self.where == "train" else self.steps > 4 and not self.training
        return self.inner(images) * (float("nan") if broken else 1)


@pytest.mark.parametrize("broken", ["train", "val"])
def test_loss_that_is_no_number_stops_and_leaves_the_last_good_state(paths, tmp_path, broken):
    with pytest.raises(FloatingPointError) as caught:
        train(tmp_path, paths, model=Broken(broken))
    message = str(caught.value)
    assert f"{broken} loss is nan at epoch 2" in message
    if broken == "train":
        assert "step 2:" in message
        assert sum(path in message for path in paths) == 5
    state = state_of(tmp_path)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


class Hungry(torch.nn.Module):
    """Asks for more memory than any machine has, and gets the allocator's real answer."""

    def __init__(self):
        super().__init__()
        self.inner = new_model()
        self.pretrained_cfg = self.inner.pretrained_cfg

    def forward(self, images):
        return self.inner(images) + torch.zeros(2**50)[0]


def test_full_memory_ends_with_a_batch_size_that_may_fit(paths, tmp_path):
    config = replace(CONFIG, batch_size=10, accumulate=2)
    with pytest.raises(MemoryError, match=r"BATCH_SIZE=10 in 2 part.*ACCUMULATE=4.* 3 crops"):
        train(tmp_path, paths, config, model=Hungry())


@pytest.mark.parametrize("one", [True, False])
def test_one_crop_left_over_does_not_break_batch_normalisation(paths, tmp_path, one):
    n = 9 if one else 10
    history, _ = train(tmp_path, paths[:n], replace(CONFIG, epochs=1, batch_size=4),
                       y_train=Y_TRUE[:n], y_val=Y_TRUE[:n])  # fmt: skip
    assert np.isfinite(history["train_loss"]).all()


def test_val_of_one_class_has_a_loss_but_no_auc(paths, tmp_path):
    history, _ = train(tmp_path, paths, replace(CONFIG, epochs=1), y_val=[1] * 20)
    assert np.isfinite(history["val_loss"]).all()
    assert history["val_auc"].isna().all()


# on a GPU


@gpu
@pytest.mark.parametrize("precision", ["auto", "float16", "float32"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_gpu_learns_what_can_be_learned_and_goes_on(paths, tmp_path, precision, num_workers):
    options = {"device": GPU, "num_workers": num_workers}
    config = replace(CONFIG, precision=precision, ema=0.5, clip_norm=1.0)
    train(tmp_path, paths, replace(config, epochs=5), **options)
    history, model = train(tmp_path, paths, replace(config, epochs=10), resume=True, **options)
    assert history["epoch"].tolist() == list(range(1, 11))
    assert history["val_auc"].max() > 0.9
    lowest = history["val_loss"].min()
    assert val_loss(model.cpu(), paths, Y_TRUE) == pytest.approx(lowest, abs=0.05)


@gpu
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gpu_learns_with_a_compiled_network(paths, tmp_path, accumulate):
    config = replace(CONFIG, epochs=8, accumulate=accumulate, ema=0.5, batch_size=8, compile=True)
    history, _ = train(tmp_path, paths, config, device=GPU)
    assert history["val_auc"].max() > 0.9


@gpu
def test_a_gpu_that_is_full_ends_with_a_batch_size_that_may_fit(paths, tmp_path):
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(MemoryError, match=r"BATCH_SIZE=5 in 1 part.*ACCUMULATE=2"):
            train(tmp_path, paths, device=GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@gpu
def test_a_gpu_stops_at_a_loss_that_is_no_number(paths, tmp_path):
    model = new_model()
    torch.nn.init.constant_(model.get_classifier().weight, float("nan"))
    with pytest.raises(FloatingPointError, match="epoch 1, step 0"):
        train(tmp_path, paths, model=model, device=GPU)


# --- what an earlier notebook hands on ----------------------------------------------------------


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Kaggle's inputs: another run."""
    monkeypatch.setattr("utils.run.machine.KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "input" / "run").mkdir(parents=True)
    return tmp_path / "input" / "run"


def test_policy_that_is_nowhere_is_the_reference(tmp_path, attached):
    policy, said = read_policy(tmp_path / "out")
    assert "`reference`" in said
    assert policy == POLICIES["reference"]
    assert read_json(tmp_path / "out", "augment.json") == json.loads(json.dumps(policy.to_dict()))


def test_attached_policy_is_brought_along(tmp_path, attached):
    write_json(POLICIES["robust"].to_dict(), attached, "augment.json")
    policy, said = read_policy(tmp_path / "out")
    assert str(attached) in said
    assert policy == POLICIES["robust"]
    assert (tmp_path / "out" / "augment.json").is_file()
