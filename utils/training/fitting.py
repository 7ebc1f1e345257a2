"""From an index to a model folder: what 03_train does step by step."""

from __future__ import annotations

import copy
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.data import resolve_model_data_config
from torch import multiprocessing

from utils.data.crops import crop_paths, crop_recipes, describe_cuts, spread_frames
from utils.data.splits import check_splits, control_labels
from utils.faces.detection import DRAWN, nearest_recipe
from utils.faces.media import load_crop
from utils.model.network import check_ours, load_model, model_card, save_model
from utils.run.artifacts import bring, find_artifact, read_json, read_table, write_json, write_table
from utils.run.jobs import Bar, tell
from utils.run.machine import default_workers, device_name, time_budget, versions
from utils.stats.metrics import y_true_of
from utils.training.augmentation import OVERSAMPLE, POLICIES, Policy, make_policy
from utils.training.batches import (
    BatchPlan,
    CropSet,
    CropTable,
    fill_train,
    open_store,
    store_folder,
)
from utils.training.checkpoints import find_checkpoint, load_checkpoint
from utils.training.loop import Report, Setup, duration, is_first, is_launched, train
from utils.training.recipes import TrainConfig

#: So many crops are looked at where nobody knows how they were cut.
LOOKED_AT = 48


def read_policy(output: str | Path) -> tuple[Policy, str]:
    """The policy of augment.json: OUTPUT's, an attached one, or the reference; and a line on it."""
    found = bring(["augment.json"], output)
    if not found:
        write_json(POLICIES["reference"].to_dict(), output, "augment.json")
        found = "No augment.json here or attached: the policy is `reference`, 02_augment's default."
    content = read_json(output, "augment.json")
    return make_policy(content["policy"], content["parameters"]), found


def open_crops(
    output: str | Path,
    data: str | Path,
    *,
    image_size: int,
    store: str = "",
    frames_stored: int = 0,
    frames_per_video: int = 0,
    shuffle_labels: bool = False,
    seed: int = 0,
) -> tuple[pd.DataFrame, CropSet, CropSet]:
    """Check the index for leaks, and decode the crops of train and val, once for all runs.

    Args:
        output, data, store: OUTPUT, DATA and STORE.
        image_size: side of the network's input in pixels.
        frames_stored: evenly spaced frames of each train video to draw from; 0: all.
        frames_per_video: evenly spaced frames of each val video; 0: all.
        shuffle_labels: for the control: labels that say nothing; `seed` is of that shuffling.
    Returns:
        The rows of train and val, the train set, the val set; the test split stays closed.
    Raises:
        ValueError: the split leaks, a split is empty, a crop recipe is damaged, or OUTPUT's
            `model/` is none.
        ImportError: nobody knows how the crops were cut, and there is no detector to look.
    """
    index = read_table(find_artifact("index.csv", output), "index.csv")
    check_splits(index)
    if shuffle_labels:
        index["label"] = control_labels(index, seed=seed % 2**64)
    frames = {"train": frames_stored, "val": frames_per_video}
    parts = {name: spread_frames(index[index["split"] == name], n) for name, n in frames.items()}
    if empty := [name for name, rows in parts.items() if rows.empty]:
        raise ValueError(f"index.csv holds no crop of the {empty[0]} split; run 01_explore_data")
    index = pd.concat(parts.values())
    _how_cut(index, data)  # refused now, and not when the model is saved
    check_ours(Path(output) / "model")
    sets = []
    for name, rows in parts.items():
        # Val is resized to the network's input here, exactly as by the eval transform. Nothing is
        # enlarged: 160 pixels take half the disk of 224.
        of_use = round(OVERSAMPLE * image_size) if name == "train" else image_size
        side = min(int(rows[["width", "height"]].to_numpy().max()), of_use)
        paths = crop_paths(rows, data)
        crops = open_store(paths, side, store_folder(output, store), name)
        sets.append(CropSet(crops, CropTable.from_index(rows), paths))
    return index, sets[0], sets[1]


def _how_cut(index: pd.DataFrame, data: str | Path) -> dict[str, Any]:
    """`crop_recipe` by which 05 is to cut, None for whole images, and `cut`, how crops were cut.

    It is that of the data set with most training crops; where nobody knows it, the nearest one.
    """
    train = index[index["split"] == "train"]
    recipes = crop_recipes(train, data)
    name, recipe = next(iter(recipes.items()))
    told = describe_cuts(recipes)
    if recipe is None:
        rows = train[train["dataset"] == name]
        paths = crop_paths(rows.sample(min(LOOKED_AT, len(rows)), random_state=0), data)
        recipe = nearest_recipe([load_crop(path) for path in paths])
        told += f"; new files nearest to it: {recipe or 'as whole images'}"
    elif len(set(recipes.values())) > 1:
        told += f"; new files as {name}"
    return {"crop_recipe": recipe and recipe.to_dict(), "cut": told}


def first_batch(
    train_set: CropSet, policy: Policy, config: TrainConfig, *, image_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `fit` will begin with: images (B, H, W, 3) uint8, targets (B,) int64."""
    epoch, units = next(iter(BatchPlan(train_set.table, config)))
    images = np.empty((units.size, image_size, image_size, 3), np.uint8)
    targets, _ = fill_train(train_set, policy, config.seed, (epoch, units), images)
    return torch.from_numpy(images), torch.from_numpy(targets)


def fit(
    model: torch.nn.Module,
    train_set: CropSet,
    val_set: CropSet,
    config: TrainConfig,
    *,
    policy: Policy,
    output: str | Path,
    device: torch.device,
    resume: bool = False,
    num_workers: int = -1,
    processes: int = 0,
    checkpoint_minutes: float = 10,
    time_budget_min: float = -1,
    on_epoch: Callable[[pd.DataFrame], Any] | None = None,
    progress: bool | None = True,
) -> tuple[torch.nn.Module, pd.DataFrame]:
    """Train a copy of a model, and keep its best epoch, that of lowest val loss (calibrated).

    The full state is written to `checkpoint/last.pt` after every epoch and every so many minutes;
    the one before it stays as `previous.pt`. A run that goes on from it gives the very weights that
    the uninterrupted one would have given (to the bit on one CPU; a GPU's kernels add in an order
    of their own).

    Where several GPUs are visible, each gets a process and a share of every batch. Under
    `accelerate launch` this process is one of several already: all of them call `fit`, the first
    one writes, and only there is what it returns of use.

    Args:
        model: of `build_model`. It stays as it is.
        train_set, val_set: of `open_crops`.
        output: OUTPUT, for `checkpoint/`.
        device: of `get_device`; "cuda" without a number means every visible GPU.
        resume: go on from the checkpoint of OUTPUT or of an attached output, if there is one.
        num_workers: loader processes of each training process; 0 loads in that one, -1 chooses.
        processes: training processes on this machine; 0: as many as GPUs.
        checkpoint_minutes: longest time between two states on disk.
        time_budget_min: as for `time_budget`; the run then stops cleanly, wherever it is.
        on_epoch: called with history.csv so far after every epoch.
        progress: show a bar over the steps and a line an epoch; None: no bar in a file.
    Returns:
        The trained model, on the CPU, and history.csv, earlier sessions included.
    Raises:
        ValueError: settings that do not fit, or a checkpoint of other settings.
        FloatingPointError: the loss is not finite; names epoch, step and files.
        MemoryError: the batch does not fit; proposes parts of it.
        OSError: the checkpoint cannot be written.
        TimeoutError: the time ended before the first epoch did; the state is kept.
    """
    folder = Path(output) / "checkpoint"
    setup = Setup(
        *(copy.deepcopy(model), train_set, val_set, config, policy, folder, device),
        resume=find_checkpoint(output) if resume else None,
        num_workers=default_workers(device) if num_workers < 0 else num_workers,
        checkpoint_minutes=checkpoint_minutes,
        time_budget_min=time_budget(time_budget_min),
    )
    progress = progress if is_first() else False
    hidden = None if progress is None else not progress

    def say(line: str) -> None:
        if progress is not False:
            Bar.write(line)
            sys.stdout.flush()  # a log file would show it hours later
            tell(line)

    with Bar(desc="train", unit="batch", leave=False, disable=hidden) as bar:

        def show(kind: str, facts: dict[str, Any]) -> None:
            if kind == "step":
                if bar.total is None:
                    bar.reset(total=facts["total"])
                    bar.initial = bar.n = facts["done"] - 1  # what an earlier session did
                bar.set_postfix_str(facts["text"], refresh=False)
                bar.update(facts["done"] - bar.n)
                return
            history = pd.DataFrame(facts["history"])
            if on_epoch:
                on_epoch(history)
            say(epoch_line(history.iloc[-1], config.epochs))

        if not processes:  # one for each visible GPU, unless one is named
            every = device.type == "cuda" and device.index is None
            processes = torch.cuda.device_count() if every else 1
        if processes > 1 and not is_launched():
            run_processes(train, setup, processes, show)
        else:
            train(setup, show)
    trained = setup.model.cpu()
    if not is_first():
        return trained, pd.DataFrame()
    state = load_checkpoint(folder, setup.settings())
    if state is None or not state["history"]:
        raise TimeoutError(
            f"TIME_BUDGET_MIN={setup.time_budget_min:g} ended before the first epoch did. The "
            f"state is in {folder}: run again with RESUME=True, and more time if that is possible"
        )
    if (done := len(state["history"])) < config.epochs:
        say(f"stopped by the time budget after {done} of {config.epochs} epochs: go on with RESUME")
    trained.load_state_dict(state["best"])
    return trained, pd.DataFrame(state["history"])


def run_processes(
    function: Callable[[Any, Report], Any], argument: Any, processes: int, report: Report
) -> None:
    """Run `function(argument, report)` in new processes of this machine, and wait for them.

    They are spawned, for a notebook that has used its GPU once cannot be forked any more; what
    they need travels by pickle between our own processes. The messages of the first one reach
    `report` here; what a process raises is raised here, and the others are stopped.
    """
    queue = multiprocessing.get_context("spawn").Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = multiprocessing.start_processes(
        _enter, (place, function, argument, queue), processes, join=False, start_method="spawn"
    )
    failures: list[BaseException] = []

    def drain() -> None:
        while not queue.empty():
            kind, content = queue.get()
            if kind == "error":
                failures.append(content)
            else:
                report(kind, content)

    try:
        while not context.join(timeout=0.2):
            drain()
    except multiprocessing.ProcessRaisedException:
        drain()
        if failures:  # the first error; those of the others are about its absence
            raise failures[0] from None
        raise
    finally:
        for process in context.processes:  # of a user's interruption
            process.terminate()
    drain()


def _enter(rank: int, place: dict[str, str], function: Callable, argument: Any, queue: Any) -> None:
    os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    # Each process would take all cores for itself, and wait for the others' threads.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(place["WORLD_SIZE"])))

    def report(kind: str, content: dict[str, Any]) -> None:
        if rank == 0:
            queue.put((kind, content))

    try:
        # A copy: what arrives shares its memory with the other processes, the model's weights too.
        function(copy.deepcopy(argument), report)
    except Exception as error:
        queue.put(("error", error))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch (from 1) of lowest val loss, the first one of equals."""
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def epoch_line(row: Mapping[str, float] | pd.Series, epochs: int) -> str:
    """One epoch of `epochs` as one line of text, with the time that the others will take."""
    left = row["elapsed_s"] / row["epoch"] * (epochs - row["epoch"])
    waiting = row["data_wait_s"] / (row["data_wait_s"] + row["compute_s"])
    return (
        f"epoch {row['epoch']:3.0f} of {epochs} · train loss {row['train_loss']:.3f} · "
        f"val loss {row['val_loss']:.3f} · val AUC {row['val_auc']:.3f} · "
        f"{row['images_per_s']:.0f} images/s, {waiting:.0%} waiting · "
        f"{row['peak_memory_mb']:.0f} MB · {duration(row['elapsed_s'])}, {duration(left)} left"
    )


def sum_up(history: pd.DataFrame, epochs: int) -> str:
    """A run of up to `epochs` epochs in Markdown: what is kept, how fast it was, how it ended."""
    best = best_epoch(history)
    kept = history.set_index("epoch").loc[best]
    waited, computed = history["data_wait_s"].sum(), history["compute_s"].sum()
    stopped = " **Stopped by the time budget: go on with RESUME.**" * (len(history) < epochs)
    return (
        f"Epoch **{best}** of {len(history)} has the lowest val loss, {kept['val_loss']:.3f} "
        f"(val AUC {kept['val_auc']:.3f}, by crop). {history['images_per_s'].median():.0f} crops a "
        f"second; {waited / (waited + computed):.1%} of the time went into waiting for data; at "
        f"most {history['peak_memory_mb'].max():,.0f} MB of memory.{stopped}"
    )


def _faces(audit: Mapping[str, Any]) -> set[str]:
    """What the data sets of an audit say of their faces; nothing of older ones."""
    return {row.get("faces", "") for row in audit["datasets"] if isinstance(row, dict)}


def save_run(
    model: torch.nn.Module,
    history: pd.DataFrame,
    index: pd.DataFrame,
    data: str | Path,
    output: str | Path,
    *,
    config: TrainConfig,
    policy: Policy,
    device: torch.device,
    **facts: Any,
) -> tuple[dict[str, Any], float]:
    """Write `model/` with the card of the run, read it back, and write history.csv.

    `model` and `history` are those of `fit`, `index` that of `open_crops`, `facts` more for the
    card, such as `pretrained` or `recipe`.

    Returns:
        All facts of the run, as the card shows them, and the largest difference in a logit between
        the model and what was read back.
    Raises:
        ValueError: that difference is more than rounding.
    """
    audit = read_json(find_artifact("data_audit.json", output), "data_audit.json")
    videos = index.drop_duplicates(["dataset", "video"])
    size = resolve_model_data_config(model)["input_size"]
    facts |= {
        "ingredients": asdict(config),
        "augmentation": policy.to_dict(),
        "image_size": size[-1],
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        **_how_cut(index, data),
        "prior": float(y_true_of(videos[videos["split"] == "train"]).mean()),
        "datasets": sorted(index["dataset"].unique()),
        "faces": DRAWN if _faces(audit) == {DRAWN} else "",
        "split_by": audit.get("split_by", ""),
        "data_fingerprint": audit.get("fingerprint", ""),
        "splits": {
            split: f"{(index['split'] == split).sum():,} crops of {len(rows):,} videos, "
            f"{rows['source'].nunique():,} sources, {y_true_of(rows).mean():.0%} FAKE"
            for split, rows in videos.groupby("split", sort=False)
        },
        "seed": config.seed,
        "duration": duration(history["elapsed_s"].iloc[-1]),
        "images_per_s": round(float(history["images_per_s"].median()), 1),
        "device": device_name(device),
        "versions": versions(),
    }
    folder = save_model(model, Path(output) / "model", extra=facts, card=model_card(facts))
    again, _ = load_model(folder)
    inputs = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        # `forward`: a compiled network would be built again, for a CPU.
        logits = model.eval().forward(inputs)
        difference = (again(inputs) - logits).abs().max().item()
    if not difference <= 1e-4:
        raise ValueError(f"the saved model answers differently, by up to {difference:.2g}")
    write_table(history, output, "history.csv")
    return facts, difference
