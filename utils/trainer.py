"""The training loop, as each process runs it."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from timm.data import resolve_model_data_config
from timm.utils import ModelEmaV3

from utils.artifacts import ARTIFACTS
from utils.checkpoints import CheckpointWriter, copied, load_checkpoint
from utils.feeding import make_loaders
from utils.launch import Report
from utils.precision import compile_model, make_accelerator
from utils.recipes import balanced_weights, make_optimizer, make_scheduler
from utils.runtime import seed_torch
from utils.training_job import (
    Job,
    OnItsWay,
    Position,
    is_out_of_memory,
    out_of_memory,
    peak_memory_mb,
    summed_loss,
    val_figures,
)
from utils.transforms import normalise

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
