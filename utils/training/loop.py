"""The training loop, as each process runs it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from sklearn.metrics import roc_auc_score
from timm.data import resolve_model_data_config
from timm.utils import ModelEmaV3
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy

from utils.model.scoring import mixed_precision, normalise
from utils.run.artifacts import ARTIFACTS
from utils.run.machine import seed_torch
from utils.stats.decisions import fit_calibration
from utils.training.augmentation import Policy
from utils.training.batches import CropSet, make_loaders
from utils.training.checkpoints import CheckpointWriter, copied, load_checkpoint
from utils.training.recipes import (
    TrainConfig,
    balanced_weights,
    freeze,
    make_optimizer,
    make_scheduler,
    norms,
)

#: Called with the kind of a message and its content.
Report = Callable[[str, dict[str, Any]], None]
ADVICE = "lower the learning rate; the checkpoint holds the last good state"
#: Steps between two looks at the clock that all processes have to agree on.
AGREE_EVERY = 8
#: Crops that an error names.
NAMED = 8


def is_launched() -> bool:
    """Tell whether this process is one of several already, as under `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Tell whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def make_accelerator(device: torch.device, wanted: str) -> Accelerator:
    """Where tensors go, in which precision (of `mixed_precision`), beside which processes."""
    on_cpu = device.type == "cpu"
    if on_cpu and wanted == "float16":
        raise ValueError("PRECISION float16 is for GPUs; on a CPU use auto, float32 or bfloat16")
    if not is_launched():
        # Accelerate keeps its first settings for ever; a notebook may train again with others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    return Accelerator(mixed_precision=mixed_precision(device, wanted), cpu=on_cpu)


def duration(seconds: float) -> str:
    """A time that a person waits, such as "48 s", "12 min" or "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


@dataclass(frozen=True)
class Setup:
    """All that a training process needs; it travels to other processes as it is."""

    model: torch.nn.Module
    train: CropSet
    val: CropSet
    config: TrainConfig
    policy: Policy
    folder: Path
    device: torch.device
    resume: Path | None
    num_workers: int
    checkpoint_minutes: float
    time_budget_min: float

    def settings(self) -> dict[str, Any]:
        """What makes a run this run; a checkpoint goes on only under the same."""
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            **asdict(self.config),
            **self.train.facts("train"),
            **self.val.facts("val"),
            "augmentation": str(self.policy.to_dict()["parameters"]),
            "model": f"{type(self.model).__name__}, {n_parameters:,}",
            "input": list(resolve_model_data_config(self.model)["input_size"]),
        }


def train(setup: Setup, report: Report) -> None:
    """Train to the end of the epochs or of the time, and leave the state in the checkpoint."""
    run = _Run(setup, report)
    try:
        run.loop()
    except Exception as error:
        # The CPU's allocator raises a RuntimeError of no class of its own.
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not full and "DefaultCPUAllocator" not in str(error):
            raise
        config, parts = setup.config, 2 * setup.config.accumulate
        raise MemoryError(
            f"out of memory with BATCH_SIZE={config.batch_size} in {config.accumulate} part(s): "
            f"set ACCUMULATE={parts}, which computes {math.ceil(config.batch_size / parts)} crops "
            "at a time and keeps the batch (batch norms see the parts), or lower IMAGE_SIZE. "
            f"{str(error).splitlines()[0][:200]}"
        ) from error
    finally:
        run.close()


@dataclass
class Position:
    """Where a run stands, and what it has measured of the epoch that it is in."""

    epoch: int = 1
    step: int = 0  # steps of this epoch that are done
    loss_sum: float = 0.0
    counted: int = 0  # crops that loss_sum is of: those of this process
    seen: int = 0  # crops of all processes
    waited: float = 0.0  # seconds
    seconds: float = 0.0
    elapsed: float = 0.0  # seconds of the whole run, earlier sessions included
    history: list[dict[str, float]] = field(default_factory=list)


class _Run:
    def __init__(self, setup: Setup, report: Report) -> None:
        self.setup, self.config, self.report = setup, setup.config, report
        self.began = self.saved_at = time.monotonic()
        self.settings = setup.settings()
        resume = setup.resume if is_first() else None
        state = load_checkpoint(resume, self.settings) if resume else None
        self.accelerator = make_accelerator(setup.device, self.config.precision)
        self.device = self.accelerator.device
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if self.processes > 1:
            [state] = broadcast_object_list([state])
        self.writer = CheckpointWriter(setup.folder) if is_first() else None

        facts = resolve_model_data_config(setup.model)
        self.mean, self.std = facts["mean"], facts["std"]
        share = {"rank": self.rank, "processes": self.processes, "num_workers": setup.num_workers}
        crops, side = (setup.train, setup.val), facts["input_size"][-1]
        self.plan, self.train_loader, self.val_loader = make_loaders(
            *crops, setup.policy, self.config, image_size=side, **share
        )
        # Convolutions are about twice as fast with the channels last, on CPU and on tensor cores.
        self.model = setup.model.to(self.device).to(memory_format=torch.channels_last)
        freeze(self.model, self.config.train_only)
        optimizer = make_optimizer(self.model, self.config)
        decay = self.config.ema
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        self.scored = self.ema.module if self.ema else self.model  # what is validated and kept
        if self.config.compile:
            # As CUDA graphs: of a network of a thousand small kernels most of the time goes into
            # starting them. But a second forward pass of a step would overwrite its gradients.
            graphs = self.device.type == "cuda" and self.config.accumulate == 1
            self.model.compile(mode="reduce-overhead" if graphs else None)
        self.network, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.steps = len(self.plan.sizes)
        self.scheduler = make_scheduler(optimizer, self.config, self.steps * self.config.epochs)
        self.weights: torch.Tensor | None = None  # of the classes in the loss, shape (2,)
        if self.config.class_weights == "balanced":
            self.weights = torch.tensor(balanced_weights(self.plan.labels())).to(self.device)
        # A sum: a share of a batch does not know the mean over all of it.
        smoothing = self.config.label_smoothing
        self.loss = CrossEntropyLoss(self.weights, label_smoothing=smoothing, reduction="sum")
        self.val_seconds = self.save_seconds = 0.0
        self.at = Position()
        #: Loss, rows and number of a step whose loss was not checked yet.
        self.pending: tuple[_OnItsWay, torch.Tensor, int] | None = None
        self.elapsed_before = state["elapsed"] if state else 0.0
        self.best: dict[str, torch.Tensor] = {}
        if state:
            self._restore(state)
            if setup.resume != setup.folder:  # an attached output: what is here must stand alone
                self._save()

    def loop(self) -> None:
        """All epochs that are left."""
        while self.at.epoch <= self.config.epochs and self._train_epoch():
            began = time.monotonic()
            row = self._row() | self._validate()
            self.val_seconds = time.monotonic() - began
            loss, history = row["val_loss"], self.at.history
            if not np.isfinite(loss):
                raise FloatingPointError(f"val loss is {loss} at epoch {self.at.epoch}: {ADVICE}")
            row["elapsed_s"] = self._elapsed()
            if not history or loss < min(past["val_loss"] for past in history):
                # A copy: the live state_dict goes on changing with every step.
                self.best = copied(self.scored.state_dict())
            row = {name: row[name] for name in ARTIFACTS["history.csv"].columns}
            self.at = Position(epoch=self.at.epoch + 1, history=[*history, row])
            self._save()
            self.report("epoch", {"history": self.at.history})
        if self.writer:
            self.writer.wait()

    def close(self) -> None:
        """End the thread that writes; what went wrong there was raised by `wait`."""
        if self.writer:
            self.writer.stop()
        # Without autocast around its forward, the model is its own again.
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        vars(self.model).pop("forward", None)
        freeze(self.model, "")

    def _train_epoch(self) -> bool:
        """Go on with the epoch; False where the time ends before it does."""
        self.network.train()
        if self.config.train_only == "head":  # a frozen norm keeps its statistics, too
            for norm in norms(self.model):
                norm.eval()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.plan.epoch, self.plan.start = self.at.epoch, self.at.step
        batches = iter(self.train_loader)
        start = time.perf_counter() - self.at.seconds
        for step in range(self.at.step, self.steps):
            if self._time_is_up(step):
                self._save()
                return False
            ready = time.perf_counter()
            images, targets, rows = next(batches)
            self.at.waited += time.perf_counter() - ready
            loss = self._step(images, targets, step)
            # The loss of the step before: with that of this step a GPU would stand still meanwhile.
            self._check()
            self.pending = loss, rows, step
            self.at.step = step + 1
            self.at.seconds = time.perf_counter() - start
            if time.monotonic() - self.saved_at > self.setup.checkpoint_minutes * 60:
                self._save()
            self._report_step()
        self._check()
        self.at.seconds = time.perf_counter() - start
        return True

    def _step(self, images: torch.Tensor, targets: torch.Tensor, step: int) -> _OnItsWay:
        """One step of the optimiser; returns the summed loss of the crops of this process."""
        number = (self.at.epoch - 1) * self.steps + step
        # Dropout follows from here: a resumed step repeats exactly.
        draw = np.random.SeedSequence([self.config.seed % 2**32, number, self.rank])
        seed_torch(int(draw.generate_state(1, np.uint64)[0]), self.device)
        self.scheduler.step_update(number)
        self.optimizer.zero_grad(set_to_none=True)
        inputs = normalise(images, self.mean, self.std, self.device)  # (B, 3, H, W)
        targets = targets.to(self.device, non_blocking=True)
        parts = max(1, min(self.config.accumulate, len(targets) // 2))
        total = torch.zeros((), device=self.device)
        chunks = list(zip(inputs.tensor_split(parts), targets.tensor_split(parts)))
        for i, (part, labels) in enumerate(chunks):
            with self.accelerator.no_sync(self.network) if i + 1 < parts else nullcontext():
                with self.accelerator.autocast():
                    logits = self.network(part)  # (B, 2)
                loss = self.loss(logits.float(), labels)
                # Gradients are averaged over processes, the loss over the crops of all of them.
                self.accelerator.backward(loss * (self.processes / self.plan.sizes[step]))
            total += loss.detach()
        if self.config.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, step=number)
        return _OnItsWay(total)

    def _check(self) -> None:
        """Count the loss of a step that was run, or stop where it is no number."""
        if self.pending is None:
            return
        total, rows, step = self.pending
        self.pending, value = None, float(total)
        if not np.isfinite(value):
            paths = [self.setup.train.paths[row] for row in rows.tolist()]
            where = f"at epoch {self.at.epoch}, step {step}"
            named = ", ".join(paths[:NAMED]) + " …" * (len(paths) > NAMED)
            raise FloatingPointError(
                f"train loss is {value / len(rows)} {where}: {ADVICE}. Crops of the batch: {named}"
            )
        self.at.loss_sum += value
        self.at.counted += len(rows)
        self.at.seen += self.plan.sizes[step]

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Score all of val, each process its batches, gathered row by row: loss and ROC AUC.

        The loss is what calibration leaves of it, for 04 calibrates on val too. A network that
        learns pairs or weighted classes learns another mix of them: its plain loss on val rises
        with every epoch that makes it surer, and an early one would be kept. Where val has one
        class it is the plain loss, and the AUC NaN.
        """
        model = self.scored.eval()
        if self.processes > 1:  # each process has counted its own statistics for batch norms
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        parts = []
        for images, _, rows in self.val_loader:
            with self.accelerator.autocast():
                inputs = normalise(images, self.mean, self.std, self.device)
                parts.append((rows, model(inputs).float().cpu()))
        if self.processes > 1:
            parts = gather_object(parts)
        order = torch.cat([rows for rows, _ in parts]).argsort()
        logits = torch.cat([part for _, part in parts])[order]  # (n, 2), in the order of the index
        y_true, y_score = self.setup.val.table.y_true, (logits[:, 1] - logits[:, 0]).numpy()
        if len(np.unique(y_true)) < 2 or not np.isfinite(y_score).all():
            plain = cross_entropy(logits, torch.from_numpy(y_true)).item()
            return {"val_loss": plain, "val_auc": float("nan")}
        temperature, offset = fit_calibration(y_score, y_true)
        margin = np.where(y_true == 1, 1, -1) * (y_score / temperature + offset)
        loss = float(np.logaddexp(0, -margin.astype(np.float64)).mean())
        return {"val_loss": loss, "val_auc": float(roc_auc_score(y_true, y_score))}

    def _row(self) -> dict[str, float]:
        sums = torch.tensor([self.at.loss_sum, self.at.counted], dtype=torch.float64)
        if self.processes > 1:
            sums = self.accelerator.reduce(sums.to(self.device), "sum").cpu()
        return {
            "epoch": self.at.epoch,
            "train_loss": (sums[0] / sums[1]).item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": self.at.seen / self.at.seconds,
            "data_wait_s": self.at.waited,
            "compute_s": self.at.seconds - self.at.waited,
            "peak_memory_mb": _peak_memory_mb(self.device),
        }

    def _report_step(self) -> None:
        at, epochs = self.at, self.config.epochs
        done, total = (at.epoch - 1) * self.steps + at.step, epochs * self.steps
        left = (total - done) * at.seconds / at.step + (epochs - at.epoch + 1) * self.val_seconds
        text = (
            f"epoch {at.epoch}, loss {at.loss_sum / max(1, at.counted):.3f}, "
            f"{at.seen / at.seconds:.0f} images/s, {at.waited / at.seconds:.0%} waiting, "
            f"{duration(left)} left in all"
        )
        self.report("step", {"done": done, "total": total, "text": text})

    def _elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.began

    def _time_is_up(self, step: int) -> bool:
        """Tell whether another step, and what has to follow it, may outlast the time budget."""
        budget = self.setup.time_budget_min * 60
        if not budget or (self.processes > 1 and step % AGREE_EVERY):
            return False
        each = self.at.seconds / max(1, self.at.step)
        needed = each * (AGREE_EVERY if self.processes > 1 else 1) + self.save_seconds
        if step + 1 == self.steps:
            # Before the first validation: it has no backward pass, a third of the work.
            per_crop = each / self.plan.sizes[step] / 3
            needed += self.val_seconds or per_crop * len(self.setup.val)
        up = time.monotonic() - self.began + needed > budget
        if self.processes > 1:
            [up] = broadcast_object_list([up])  # those who go on would wait for the others
        return up

    def _save(self) -> None:
        self._check()
        began = self.saved_at = time.monotonic()
        if not self.writer:
            return
        self.at.elapsed = self._elapsed()
        scaler = self.accelerator.scaler
        self.writer.save(
            {
                "settings": self.settings,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "ema": self.ema.module.state_dict() if self.ema else {},
                **vars(self.at),
            },
            best=self.best,
        )
        self.save_seconds = time.monotonic() - began

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.best = state["best"]
        self.at = Position(**{f.name: state[f.name] for f in fields(Position)})
        if self.rank:  # the sums are those of the first process
            self.at.loss_sum, self.at.counted = 0.0, 0


class _OnItsWay:
    """A number that a GPU will have computed; `float` waits for it, and for nothing behind it.

    `tensor.item()` would wait for all that the GPU was given since.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value.to("cpu", non_blocking=value.is_cuda)
        self.copied = torch.cuda.Event() if value.is_cuda else None
        if self.copied:
            self.copied.record()

    def __float__(self) -> float:
        if self.copied:
            self.copied.synchronize()
        return float(self.value)


def _peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: on the GPU in this epoch, else in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
