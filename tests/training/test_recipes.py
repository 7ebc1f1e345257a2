import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.training.recipes import (
    INGREDIENTS,
    RECIPES,
    SETTINGS,
    TrainConfig,
    balanced_weights,
    make_config,
    make_optimizer,
    make_scheduler,
)

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "03_train.ipynb"


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


def learning_rates(config, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = make_scheduler(optimizer, config, steps)
    rates = []
    for step in range(steps):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_reference_is_the_recipe_of_the_field(model):
    config = make_config("reference")
    assert config == TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (60, 35, 0.001)
    assert not any((config.ema, config.label_smoothing, config.clip_norm, config.weight_decay))
    assert not any((config.balanced, config.pairs, config.warm_up))
    optimizer = make_optimizer(model, config)
    assert type(optimizer) is torch.optim.Adam
    assert set(learning_rates(config, 50)) == {0.001}


def test_weight_decay_leaves_biases_and_norms_alone(model):
    config = make_config("strong", {"weight_decay": 0.1})
    optimizer = make_optimizer(model, config)
    assert type(optimizer) is torch.optim.AdamW
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0, 0, 0]


def test_ingredients_of_a_recipe_are_changed_by_key_and_the_others_left():
    config = make_config("strong", {"ema": 0, "pairs": False}, epochs=3)
    assert config == replace(RECIPES["strong"], ema=0, pairs=False, epochs=3)
    assert make_config("strong", None) == make_config("strong", {}) == RECIPES["strong"]


def test_every_seed_is_one_of_its_own():
    assert make_config("reference", seed=-1).seed == -1


def test_recipe_and_settings_share_the_fields_without_overlap():
    assert sorted((*INGREDIENTS, *SETTINGS)) == sorted(vars(TrainConfig()))


def test_notebook_explains_every_ingredient():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert [name for name in INGREDIENTS if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": "sgd"}, "optimizer 'sgd'; accepted: adam, adamw"),
        ({"schedule": "linear"}, "schedule 'linear'"),
        ({"ema": 1.0}, r"ema 1\.0 is not in"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        (
            {"learning_rate": "3e-4"},
            r"learning_rate '3e-4' is not a number \(YAML reads .* 0\.0003",
        ),
        ({"ema": True}, "ema True is not a number"),
        ({"pairs": 2}, "pairs 2 is not True or False"),
        ({"optimizer": None}, "optimizer None is not text"),
        ({"learning_rat": 1}, "'learning_rat', did you mean learning_rate\\? Known: optimizer, "),
        ({"epochs": 3}, "no key of CHANGES is called 'epochs'"),
        ({1: 2}, "no key of CHANGES is called '1'"),
        ("{'ema': 0.9}", r"CHANGES is a dictionary.* -y 'CHANGES: \{ema: 0\.99\}'"),
        (["ema"], "CHANGES is a dictionary"),
    ],
)
def test_bad_change_is_named_with_what_is_accepted(changes, named):
    with pytest.raises(ValueError, match=named):
        make_config("reference", changes)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"precision": "int8"}, "precision 'int8'"),
        ({"class_weights": "equal"}, "class_weights 'equal'; accepted: none, balanced"),
        ({"epochs": 0}, "epochs 0"),
        ({"epochs": 2.5}, "epochs 2.5 is not a whole number"),
        ({"batch_size": -3}, "batch_size -3"),
        ({"frames_per_video": -2}, "frames_per_video -2"),
        ({"compile": 1}, "compile 1 is not True or False"),
    ],
)
def test_bad_setting_is_named_with_what_is_accepted(settings, named):
    with pytest.raises(ValueError, match=named):
        make_config("reference", **settings)


def test_unknown_recipe_is_named():
    with pytest.raises(ValueError, match=r"'best'\. Known: reference, strong"):
        make_config("best")


def test_cosine_rises_and_falls_to_zero_by_hand():
    config = make_config("reference", {"schedule": "cosine", "warm_up": 0.2, "learning_rate": 1.0})
    rates = learning_rates(config, 10)
    # Two steps of warm-up from a hundredth, then (1 + cos(pi k / 8)) / 2.
    expected = [0.01, 0.505, *[(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]]
    assert rates == pytest.approx(expected)


def test_constant_rate_may_warm_up_too():
    rates = learning_rates(make_config("reference", {"warm_up": 0.5, "learning_rate": 1.0}), 4)
    assert rates == pytest.approx([0.01, 0.505, 1, 1])


def test_balanced_weights_by_hand():
    # n / (2 n_class): 5 / (2 · 1) and 5 / (2 · 4)
    assert balanced_weights([1, 1, 0, 1, 1]) == (2.5, 0.625)
    assert np.isfinite(balanced_weights([0, 1])).all()


def test_balanced_weights_need_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        balanced_weights([1, 1])
