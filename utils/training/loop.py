"""The training loop, as each process runs it."""

from __future__ import annotations

import copy
import math
import os
import socket
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
from torch import multiprocessing
from torch.nn.functional import cross_entropy

from utils.model.scoring import mixed_precision, normalise
from utils.run.artifacts import ARTIFACTS
from utils.run.machine import seed_torch
from utils.training.augmentation import Policy, policy_to_dict
from utils.training.batches import CropSet, make_loaders
from utils.training.checkpoints import CheckpointWriter, copied, load_checkpoint
from utils.training.recipes import TrainConfig, balanced_weights, make_optimizer, make_scheduler


def compile_model(model: torch.nn.Module, device: torch.device, *, parts: int = 1) -> None:
    """Let torch.compile build the network, in place; the first step takes minutes.

    On a GPU as CUDA graphs: of a network of a thousand small kernels most of the time goes into
    starting them one by one. But not where a batch is computed in parts, for there the second
    forward pass would write over the gradients of the first.

    Args:
        model: to compile.
        device: of `get_device`.
        parts: forward and backward passes to a step.
    """
    graphs = device.type == "cuda" and parts == 1
    model.compile(mode="reduce-overhead" if graphs else None)


def make_accelerator(
    device: torch.device, wanted: str, *, before: str | None = None
) -> Accelerator:
    """Hugging Face Accelerate on a device: where tensors go, in which precision, beside whom.

    Args:
        device: of `get_device`.
        wanted: as for `mixed_precision`.
        before: the precision that an interrupted run was computed in, if this one goes on from it.
    Raises:
        ValueError: float16 on a CPU.
    """
    on_cpu = device.type == "cpu"
    if on_cpu and wanted == "float16":
        raise ValueError("PRECISION float16 is for GPUs; on a CPU use auto, float32 or bfloat16")
    if on_cpu and wanted == "auto" and is_launched():
        precision = "no"  # each process might measure something else
    elif on_cpu and wanted == "auto" and before:
        precision = before  # so that the run stays the same to the bit
    else:
        precision = mixed_precision(device, wanted)
    if not is_launched():
        # Accelerate keeps its first settings for ever; a notebook may train again with others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    return Accelerator(mixed_precision=precision, cpu=on_cpu)


@dataclass(frozen=True)
class Job:
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
            **{f"train_{name}": value for name, value in self.train.facts().items()},
            **{f"val_{name}": value for name, value in self.val.facts().items()},
            "augmentation": str(policy_to_dict(self.policy)["parameters"]),
            "model": f"{type(self.model).__name__}, {n_parameters:,}",
            "input": list(resolve_model_data_config(self.model)["input_size"]),
        }


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

    def progress(self, steps: int, epochs: int, val_seconds: float) -> dict[str, Any]:
        """What the user wants to know while it runs.

        Args:
            steps: of an epoch.
            epochs: of the run.
            val_seconds: of one validation.
        """
        left = (epochs - self.epoch + 1) * steps - self.step
        return {
            "task": f"epoch {self.epoch} of {epochs}",
            "done": self.step,
            "total": steps,
            "loss": self.loss_sum / max(1, self.counted),
            "images_per_s": self.seen / self.seconds,
            "waiting": self.waited / self.seconds,
            "left_s": left * self.seconds / self.step + (epochs - self.epoch + 1) * val_seconds,
        }


class OnItsWay:
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


def summed_loss(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """Cross-entropy, added over the crops: a share of a batch does not know the mean over all.

    Args:
        logits: REAL and FAKE, shape (n, 2).
        targets: shape (n,).
        weight: of the classes, shape (2,).
        smoothing: share of the target that goes to both classes alike.
    """
    return cross_entropy(
        logits.float(), targets, weight=weight, label_smoothing=smoothing, reduction="sum"
    )


def val_figures(
    logits: torch.Tensor, y_true: np.ndarray, weight: torch.Tensor | None
) -> dict[str, float]:
    """Loss and ROC AUC on val; the AUC is NaN where there is one class.

    Args:
        logits: REAL and FAKE, shape (n, 2).
        y_true: shape (n,).
        weight: of the classes in the loss, shape (2,).
    """
    y_score = (logits[:, 1] - logits[:, 0]).numpy()
    both = len(np.unique(y_true)) == 2 and np.isfinite(y_score).all()
    return {
        "val_loss": cross_entropy(logits, torch.from_numpy(y_true), weight=weight).item(),
        "val_auc": float(roc_auc_score(y_true, y_score)) if both else float("nan"),
    }


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that the GPU's or the machine's memory is full."""
    # The CPU's allocator raises a RuntimeError of no class of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def out_of_memory(error: Exception, job: Job) -> MemoryError:
    """Say what to do about it."""
    config = job.config
    parts = 2 * config.accumulate
    return MemoryError(
        f"out of memory with BATCH_SIZE={config.batch_size} in {config.accumulate} part(s): set "
        f"ACCUMULATE={parts}, which computes {math.ceil(config.batch_size / parts)} crops at a "
        "time and keeps the batch (batch norms see the parts), or lower IMAGE_SIZE. "
        f"{str(error).splitlines()[0][:200]}"
    )


def peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: on the GPU in this epoch, else in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


ADVICE = "lower the learning rate; the checkpoint holds the last good state"
#: Steps between two looks at the clock that all processes have to agree on.
AGREE_EVERY = 8
#: Crops that an error names.
NAMED = 8


def train(job: Job, report: Report) -> None:
    """Train to the end of the epochs or of the time, and leave the state in the checkpoint."""
    run = _Run(job, report)
    try:
        run.loop()
        if run.writer:
            run.writer.wait()
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, job) from error
        raise
    finally:
        run.close()


class _Run:
    def __init__(self, job: Job, report: Report) -> None:
        self.job, self.config, self.report = job, job.config, report
        self.began = time.monotonic()
        first = int(os.environ.get("RANK", "0")) == 0
        self.settings = job.settings()
        state = load_checkpoint(job.resume, self.settings) if first and job.resume else None
        self.accelerator = make_accelerator(
            job.device, self.config.precision, before=state["precision"] if state else None
        )
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        if self.processes > 1:
            [state] = broadcast_object_list([state])
        self.writer = CheckpointWriter(job.folder) if first else None

        facts = resolve_model_data_config(job.model)
        self.mean, self.std = facts["mean"], facts["std"]
        self.plan, self.train_loader, self.val_loader = make_loaders(
            job.train,
            job.val,
            job.policy,
            self.config,
            image_size=facts["input_size"][-1],
            rank=self.rank,
            processes=self.processes,
            num_workers=job.num_workers,
        )
        # Convolutions are about twice as fast with the channels last, on CPU and on tensor cores.
        self.model = job.model.to(self.accelerator.device).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(self.model, self.config)
        decay = self.config.ema
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=True) if decay else None
        self.scored = self.ema.module if self.ema else self.model  # what is validated and kept
        if self.config.compile:
            compile_model(self.model, self.accelerator.device, parts=self.config.accumulate)
        self.network, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.steps = len(self.plan.sizes)
        self.scheduler = make_scheduler(optimizer, self.config, self.steps * self.config.epochs)
        self.weights: torch.Tensor | None = None
        if self.config.class_weights == "balanced":
            weights = torch.tensor(balanced_weights(self.plan.labels()))
            self.weights = weights.to(self.accelerator.device)
        self.saved_at = time.monotonic()
        self.val_seconds = self.save_seconds = 0.0
        self.at = Position()
        self.elapsed_before = state["elapsed"] if state else 0.0
        self.best: dict[str, torch.Tensor] = {}
        if state:
            self._restore(state)
            if job.resume != job.folder:  # an attached output: what is here must stand alone
                self._save()

    def loop(self) -> None:
        """All epochs that are left."""
        while self.at.epoch <= self.config.epochs:
            if not self._train_epoch():
                break
            began = time.monotonic()
            row = self._row() | self._validate()
            self.val_seconds = time.monotonic() - began
            if not np.isfinite(row["val_loss"]):
                where = f"at epoch {self.at.epoch}"
                raise FloatingPointError(f"val loss is {row['val_loss']} {where}: {ADVICE}")
            row["elapsed_s"] = self._elapsed()
            history = self.at.history
            if not history or row["val_loss"] < min(past["val_loss"] for past in history):
                # A copy: the live state_dict goes on changing with every step.
                self.best = copied(self.scored.state_dict())
            row = {name: row[name] for name in ARTIFACTS["history.csv"].columns}
            self.at = Position(epoch=self.at.epoch + 1, history=[*history, row])
            self._save()
            self.report("epoch", {"history": self.at.history})

    def _train_epoch(self) -> bool:
        """Go on with the epoch; False where the time ends before it does."""
        self.network.train()
        if self.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.plan.epoch, self.plan.start = self.at.epoch, self.at.step
        pending: tuple[OnItsWay, torch.Tensor, int] | None = None
        batches = iter(self.train_loader)
        start = time.perf_counter() - self.at.seconds
        for step in range(self.at.step, self.steps):
            if self._time_is_up(step):
                self._check(pending)
                self._save()
                return False
            ready = time.perf_counter()
            images, targets, rows = next(batches)
            self.at.waited += time.perf_counter() - ready
            loss = self._step(images, targets, step)
            # The loss of the step before: with that of this step a GPU would stand still meanwhile.
            self._check(pending)
            pending = loss, rows, step
            self.at.step = step + 1
            self.at.seconds = time.perf_counter() - start
            if self.writer and time.monotonic() - self.saved_at > self.job.checkpoint_minutes * 60:
                self._check(pending)
                pending = None
                self._save()
            self.report("step", self.at.progress(self.steps, self.config.epochs, self.val_seconds))
        self._check(pending)
        self.at.seconds = time.perf_counter() - start
        return True

    def _step(self, images: torch.Tensor, targets: torch.Tensor, step: int) -> OnItsWay:
        """One step of the optimiser; returns the summed loss of the crops of this process."""
        number = (self.at.epoch - 1) * self.steps + step
        # Dropout follows from here: a resumed step repeats exactly.
        draw = np.random.SeedSequence([self.config.seed % 2**32, number, self.rank])
        seed_torch(int(draw.generate_state(1, np.uint64)[0]), self.accelerator.device)
        self.scheduler.step_update(number)
        self.optimizer.zero_grad(set_to_none=True)
        inputs = normalise(images, self.mean, self.std, self.accelerator.device)  # (B, 3, H, W)
        targets = targets.to(self.accelerator.device, non_blocking=True)
        # Gradients are averaged over processes, and the losses are a mean over all of the batch.
        scale = self.processes / self.plan.sizes[step]
        parts = max(1, min(self.config.accumulate, len(targets) // 2))
        total = torch.zeros((), device=self.accelerator.device)
        chunks = list(zip(inputs.tensor_split(parts), targets.tensor_split(parts)))
        for i, (part, labels) in enumerate(chunks):
            with self.accelerator.no_sync(self.network) if i + 1 < parts else nullcontext():
                with self.accelerator.autocast():
                    logits = self.network(part)  # (B, 2)
                loss = summed_loss(logits, labels, self.weights, self.config.label_smoothing)
                self.accelerator.backward(loss * scale)
            total += loss.detach()
        if self.config.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, step=number)
        return OnItsWay(total)

    def _check(self, pending: tuple[OnItsWay, torch.Tensor, int] | None) -> None:
        """Count the loss of a step that was run, or stop where it is no number."""
        if pending is None:
            return
        total, rows, step = pending
        value = float(total)
        if not np.isfinite(value):
            paths = [self.job.train.paths[row] for row in rows.tolist()]
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
        """Score all of val, each process its batches, and gather the scores row by row."""
        model = self.scored.eval()
        if self.processes > 1:  # each process has counted its own statistics for batch norms
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        parts = []
        for images, _, rows in self.val_loader:
            with self.accelerator.autocast():
                inputs = normalise(images, self.mean, self.std, self.accelerator.device)
                parts.append((rows, model(inputs).float().cpu()))
        if self.processes > 1:
            parts = gather_object(parts)
        order = torch.cat([rows for rows, _ in parts]).argsort()
        logits = torch.cat([part for _, part in parts])[order]  # (n, 2), in the order of the index
        weight = None if self.weights is None else self.weights.cpu()
        return val_figures(logits, self.job.val.table.y_true, weight)

    def _row(self) -> dict[str, float]:
        sums = torch.tensor([self.at.loss_sum, self.at.counted], dtype=torch.float64)
        if self.processes > 1:
            sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").cpu()
        return {
            "epoch": self.at.epoch,
            "train_loss": (sums[0] / sums[1]).item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": self.at.seen / self.at.seconds,
            "data_wait_s": self.at.waited,
            "compute_s": self.at.seconds - self.at.waited,
            "peak_memory_mb": peak_memory_mb(self.accelerator.device),
        }

    def _elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.began

    def _time_is_up(self, step: int) -> bool:
        """Tell whether another step, and what has to follow it, may outlast the time budget."""
        budget = self.job.time_budget_min * 60
        if not budget or (self.processes > 1 and step % AGREE_EVERY):
            return False
        each = self.at.seconds / max(1, self.at.step)
        needed = each * (AGREE_EVERY if self.processes > 1 else 1) + self.save_seconds
        if step + 1 == self.steps:
            # Before the first validation: it has no backward pass, a third of the work.
            per_crop = each / self.plan.sizes[step] / 3
            needed += self.val_seconds or per_crop * len(self.job.val)
        up = time.monotonic() - self.began + needed > budget
        if self.processes > 1:
            [up] = broadcast_object_list([up])  # those who go on would wait for the others
        return up

    def _save(self) -> None:
        if not self.writer:
            return
        began = time.monotonic()
        self.at.elapsed = self._elapsed()
        scaler = self.accelerator.scaler
        self.writer.save(
            {
                "settings": self.settings,
                "precision": self.accelerator.mixed_precision,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "ema": self.ema.module.state_dict() if self.ema else {},
                **vars(self.at),
            },
            best=self.best,
        )
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - began

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

    def close(self) -> None:
        """End the thread that writes; what went wrong there was raised by `wait`."""
        if self.writer:
            self.writer.stop()
        # Without autocast around its forward, the model is the caller's own again.
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        vars(self.model).pop("forward", None)


#: Called with the kind of a message and its content.
Report = Callable[[str, dict[str, Any]], None]


def is_launched() -> bool:
    """Tell whether this process is one of several already, as under `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def process_count(device: torch.device) -> int:
    """How many processes a device calls for: one for each visible GPU, unless one is named."""
    if device.type == "cuda" and device.index is None:
        return torch.cuda.device_count()
    return 1


def run_processes(
    function: Callable[[Any, Report], Any], job: Any, processes: int, report: Report
) -> None:
    """Run `function(job, report)` in new processes of this machine, and wait for them.

    They are spawned, for a notebook that has used its GPU once cannot be forked any more; what
    they need travels by pickle between our own processes. The messages of the first one reach
    `report` here.

    Args:
        function: of an importable module.
        job: its argument, the same for all.
        processes: how many.
        report: called here with what the first process reports.
    Raises:
        what the function raised: the others are stopped then.
    """
    queue = multiprocessing.get_context("spawn").Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = (processes, port, function, job, queue)
    context = multiprocessing.start_processes(
        _enter, args, nprocs=processes, join=False, start_method="spawn"
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


def _enter(
    rank: int,
    processes: int,
    port: int,
    function: Callable[[Any, Report], Any],
    job: Any,
    queue: Any,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Each process would take all cores for itself, and wait for the others' threads.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

    def report(kind: str, content: dict[str, Any]) -> None:
        if rank == 0:
            queue.put((kind, content))

    try:
        # A copy: what arrives shares its memory with the other processes, the model's weights too.
        function(copy.deepcopy(job), report)
    except Exception as error:
        queue.put(("error", error))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
