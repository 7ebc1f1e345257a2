from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.artifacts import ARTIFACTS
from utils.checkpoints import has_checkpoint
from utils.engine import (
    TrainConfig,
    balanced_weights,
    best_epoch,
    epoch_line,
    fit,
    predict,
)
from utils.loading import make_loader
from utils.models import build_model, load_model, model_transform, save_model
from utils.transforms import POLICIES, eval_transform, train_transform

CPU = torch.device("cpu")
SIZE = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
PLAIN = eval_transform(**SIZE)
Y_TRUE = [0, 1] * 10
CONFIG = TrainConfig(epochs=3, learning_rate=3e-3, seed=1)
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


def new_model(name="test_efficientnet", seed=0):
    torch.manual_seed(seed)
    model = build_model(name, image_size=32, pretrained=False)
    model.drop_rate = 0.3  # dropout draws too, and a resumed run must draw the same
    return model


def loaders(paths, *, y_train=Y_TRUE, y_val=Y_TRUE, policy="none", batch_size=5, num_workers=0):
    change = train_transform(POLICIES[policy], **SIZE)
    train = make_loader(
        paths, y_train, change, batch_size=batch_size, shuffle=True, num_workers=num_workers
    )
    return train, make_loader(paths, y_val, PLAIN, batch_size=8)


def train(folder, paths, config=CONFIG, *, model=None, resume=False, on_epoch=None, **options):
    model = model or new_model()
    history = fit(
        model,
        *loaders(paths, **options),
        config,
        folder=folder,
        device=CPU,
        resume=resume,
        on_epoch=on_epoch,
        progress=False,
    )
    return history, model


def val_loss(model, paths, y_val, weight=None):
    loader = make_loader(paths, y_val, PLAIN, batch_size=20)
    images, targets, _ = next(iter(loader))
    with torch.inference_mode():
        logits = model.eval()(images)
    weight = weight and torch.tensor(weight)
    return torch.nn.functional.cross_entropy(logits, targets, weight=weight).item()


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.values()))


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


def test_epoch_callback_gets_the_rows_of_the_history(paths, tmp_path):
    rows = []
    history, _ = train(tmp_path, paths, replace(CONFIG, epochs=2), on_epoch=rows.append)
    assert rows == history.to_dict("records")
    assert epoch_line(rows[1]).startswith("epoch   2 · train loss ")


def test_kept_weights_are_those_of_the_best_epoch(overfitted, paths):
    history, model, y_val, _ = overfitted
    best = best_epoch(history)
    assert best < len(history)
    losses = history.set_index("epoch")["val_loss"]
    assert losses[best] == losses.min() < 0.8 * losses.iloc[-1]
    assert val_loss(model, paths, y_val) == pytest.approx(losses[best], abs=1e-4)


def test_best_weights_are_a_copy_and_not_the_last_ones(overfitted):
    _, model, _, folder = overfitted
    state = torch.load(folder / "last.pt", weights_only=True)
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
    one_epoch = [(True, True)] * 4 + [(False, False)] * 3  # 20 crops by 5 and by 8
    assert calls == one_epoch * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_is_the_uninterrupted_one_to_the_bit(paths, tmp_path, num_workers):
    class Stop(Exception):
        pass

    def stop_after_two(row):
        if row["epoch"] == 2:
            raise Stop

    options = {"policy": "reference", "num_workers": num_workers}
    whole, expected = train(tmp_path / "whole", paths, **options)
    with pytest.raises(Stop):
        train(tmp_path / "parts", paths, on_epoch=stop_after_two, **options)
    # Another session: other random weights, another state of the random numbers.
    history, model = train(
        tmp_path / "parts", paths, model=new_model(seed=9), resume=True, **options
    )
    assert history.drop(columns=CLOCK).equals(whole.drop(columns=CLOCK))
    assert same_weights(model, expected.state_dict())


def test_two_runs_of_one_seed_are_equal_to_the_bit_and_another_seed_is_not(paths, tmp_path):
    one, first = train(tmp_path / "1", paths, policy="reference")
    two, second = train(tmp_path / "2", paths, policy="reference")
    three, _ = train(tmp_path / "3", paths, replace(CONFIG, seed=2), policy="reference")
    assert one.drop(columns=CLOCK).equals(two.drop(columns=CLOCK))
    assert same_weights(first, second.state_dict())
    assert not one["train_loss"].equals(three["train_loss"])


def test_more_epochs_may_be_asked_for(paths, tmp_path):
    short, _ = train(tmp_path, paths, replace(CONFIG, epochs=1))
    seen = []
    longer, _ = train(tmp_path, paths, resume=True, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == [2, 3]
    assert longer.head(1).equals(short)


def test_finished_run_is_not_trained_again(overfitted, paths):
    whole, expected, y_val, folder = overfitted
    config = replace(CONFIG, epochs=6)
    history, model = train(folder, paths, config, resume=True, y_val=y_val, model=new_model(seed=5))
    assert history.equals(whole)
    assert same_weights(model, expected.state_dict())


def test_without_resume_a_checkpoint_is_not_gone_on_from(paths, tmp_path):
    one = replace(CONFIG, epochs=1)
    train(tmp_path, paths, one)
    history, _ = train(tmp_path, paths, one)
    assert history["epoch"].tolist() == [1]
    assert has_checkpoint(tmp_path)
    assert not has_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "options", "named"),
    [
        ({"learning_rate": 1e-5}, {}, r"learning_rate 0.003 → 1e-05"),
        ({"seed": 7}, {}, "seed 1 → 7"),
        ({"class_weights": (1.0, 2.0)}, {}, "class_weights None"),
        ({}, {"batch_size": 4}, "batch_size 5 → 4"),
        ({}, {"policy": "reference"}, "RandomHorizontalFlip"),
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


def test_previous_state_serves_where_the_last_one_is_missing(paths, tmp_path):
    whole, expected = train(tmp_path, paths)
    (tmp_path / "last.pt").unlink()
    history, model = train(tmp_path, paths, resume=True)
    assert history.drop(columns=CLOCK).equals(whole.drop(columns=CLOCK))
    assert same_weights(model, expected.state_dict())


def test_failing_save_leaves_a_state_to_go_on_from(paths, tmp_path, monkeypatch):
    def full_disk(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    train(tmp_path, paths, replace(CONFIG, epochs=1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="no space"):
            train(tmp_path, paths, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    history, _ = train(tmp_path, paths, resume=True)
    assert len(history) == 3


class Trap:
    """Whoever unpickles this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoint_is_not_unpickled(paths, tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"model": Trap(trap)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt.*RESUME=False"):
        train(tmp_path, paths, resume=True)
    assert not trap.exists()
    torch.load(tmp_path / "last.pt", weights_only=False)
    assert trap.exists()  # it would have worked


@pytest.mark.parametrize("broken", ["train", "val"])
def test_loss_that_is_no_number_stops_and_leaves_the_last_good_state(paths, tmp_path, broken):
    train_loader, val_loader = loaders(paths)
    data = train_loader.dataset if broken == "train" else val_loader.dataset
    plain = data.transform
    data.transform = lambda crop: (
        plain(crop) * (float("nan") if train_loader.sampler.epoch == 2 else 1.0)
    )
    with pytest.raises(FloatingPointError) as caught:
        fit(
            new_model(),
            train_loader,
            val_loader,
            CONFIG,
            folder=tmp_path,
            device=CPU,
            progress=False,
        )
    message = str(caught.value)
    assert f"{broken} loss is nan at epoch 2" in message
    if broken == "train":
        assert "step 0" in message
        assert sum(path in message for path in paths) == 3
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1]
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.parametrize("empty", ["train", "val"])
def test_no_crops_is_said_clearly(paths, tmp_path, empty):
    pair = dict(zip(["train", "val"], loaders(paths)))
    pair[empty] = make_loader([], [], PLAIN, batch_size=4, shuffle=empty == "train")
    with pytest.raises(ValueError, match="train and the val split need"):
        fit(new_model(), *pair.values(), CONFIG, folder=tmp_path, device=CPU)


def test_no_epochs_is_refused(paths, tmp_path):
    with pytest.raises(ValueError, match="epochs 0"):
        train(tmp_path, paths, replace(CONFIG, epochs=0))


def test_one_crop_left_over_does_not_break_batch_normalisation(paths, tmp_path):
    history, _ = train(tmp_path, paths[:9], replace(CONFIG, epochs=1), batch_size=4,
                       y_train=Y_TRUE[:9], y_val=Y_TRUE[:9])  # fmt: skip
    assert np.isfinite(history["train_loss"]).all()


def test_val_of_one_class_has_a_loss_but_no_auc(paths, tmp_path):
    history, _ = train(tmp_path, paths, replace(CONFIG, epochs=1), y_val=[1] * 20)
    assert np.isfinite(history["val_loss"]).all()
    assert history["val_auc"].isna().all()


def test_balanced_weights_by_hand():
    # n / (2 n_class): 5 / (2 · 1) and 5 / (2 · 4)
    assert balanced_weights([1, 1, 0, 1, 1]) == (2.5, 0.625)


def test_balanced_weights_need_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        balanced_weights([1, 1])


def test_class_weights_enter_the_loss(paths, tmp_path):
    weights = (1.0, 4.0)
    config = replace(CONFIG, epochs=1, class_weights=weights)
    y_val = [0] * 15 + [1] * 5
    history, model = train(tmp_path, paths, config, y_val=y_val)
    weighted = val_loss(model, paths, y_val, weights)
    assert history["val_loss"].item() == pytest.approx(weighted, abs=1e-4)
    assert weighted != pytest.approx(val_loss(model, paths, y_val), abs=1e-3)


class Brightness(torch.nn.Module):
    """Logits (-m, 2 m) of the mean brightness m; training would crash it."""

    def forward(self, images):
        assert not self.training
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, 2 * mean], 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_predictions_are_logits_of_fake_in_the_order_of_the_rows(tmp_path, num_workers):
    levels = [200, 0, 255, 51, 102]
    for row, level in enumerate(levels):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{9 - row}.png")
    rows = [str(tmp_path / f"{9 - row}.png") for row in range(5)]
    change = eval_transform(image_size=8, mean=[0] * 3, std=[1] * 3)
    loader = make_loader(rows, [0] * 5, change, batch_size=2, num_workers=num_workers)
    logits = predict(Brightness().train(), loader, device=CPU, progress=False)
    assert logits.dtype == np.float64
    assert logits.tolist() == pytest.approx([3 * level / 255 for level in levels], abs=1e-5)


def test_prediction_does_not_depend_on_the_batch_size(learned, paths):
    _, model, _ = learned
    alone, together = (
        predict(model, make_loader(paths, Y_TRUE, PLAIN, batch_size=n), device=CPU, progress=False)
        for n in (1, 20)
    )
    assert alone == pytest.approx(together, abs=1e-4)


def test_predicting_nothing_gives_nothing():
    loader = make_loader([], [], PLAIN, batch_size=4)
    assert predict(Brightness(), loader, device=CPU, progress=False).shape == (0,)


def test_trained_model_answers_the_same_after_saving_and_loading(learned, paths, tmp_path):
    _, model, _ = learned
    again, _ = load_model(save_model(model, tmp_path / "model", extra={}, card=""))
    loader = make_loader(paths, Y_TRUE, model_transform(model), batch_size=8)
    before = predict(model, loader, device=CPU, progress=False)
    assert predict(again, loader, device=CPU, progress=False) == pytest.approx(before, abs=1e-5)
