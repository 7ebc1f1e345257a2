"""One model on val and test: scored once, judged by a frozen decision, measured with intervals."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.data.audit import zero_pixel_scores
from utils.data.crops import (
    STATISTICS,
    VIDEO,
    crop_paths,
    face_facts,
    image_statistics,
    inspect_crops,
    scan_crops,
    spread_frames,
)
from utils.data.splits import check_splits, drawn_by, source_groups, trained_on
from utils.faces.detection import focus
from utils.faces.media import load_crop
from utils.model.network import check_ours, find_model, keep_model
from utils.model.scoring import Scorer, load_scorer
from utils.report.words import how_far_apart
from utils.run.artifacts import ARTIFACTS, CLASSES, read_json, write_csv, write_json, write_table
from utils.run.jobs import map_threads
from utils.run.machine import short_names, versions
from utils.stats.decisions import (
    FACE_FACTS,
    THRESHOLD_RULES,
    Decision,
    choose_decision,
    choose_threshold,
    compare_aggregations,
)
from utils.stats.metrics import (
    bootstrap,
    confusion_counts,
    group_mean,
    majority_baseline,
    paired_bootstrap,
    score_table,
    shuffled_labels,
    y_true_of,
)

#: Column of the logits of a further model.
OTHER = "logit_model_"
#: What is cut into thirds, with the words for its ends and middle and the digits of its numbers.
NUMERIC = {
    "face_size": (("small", "middle", "large"), 0),
    "brightness": (("dark", "middle", "bright"), 2),
    "sharpness": (("blurred", "middle", "sharp"), 2),
}
#: Scores at the threshold that are told of the rules and of other data.
RATES = ("balanced_accuracy", "recall", "specificity")
#: Under so many videos of either class, a slice is marked as small.
SMALL = 10


def score_index(
    index: pd.DataFrame,
    data: str | Path,
    output: str | Path,
    scorer: Scorer,
    *,
    models: Sequence[str] = (),
    **batches: int,
) -> pd.DataFrame:
    """Score every crop of val and test once by each model.

    Args:
        index: of index.csv, whole; checked for leaks.
        models: further model folders, or outputs that hold one.
        batches: `batch_size` and `num_workers` of `Scorer.score_paths`.
    Returns:
        A row a crop, as in index.csv, with `file` (its path here), `track` and FACE_FACTS where
        00's boxes tell, `face_size, brightness, sharpness`, `logit`, and a column a further model.
    Raises:
        ValueError: the split leaks, or a crop cannot be read.
        FileNotFoundError: `models` names a folder without a model.
    """
    check_splits(index)
    if scorer.folder.resolve() != (Path(output) / "model").resolve():
        check_ours(Path(output) / "model")  # now, and not when the decision is written
    others = name_models(models)
    rows = index[index["split"] != "train"].reset_index(drop=True)
    crops = _described(rows.assign(file=crop_paths(rows, data)), face_facts(rows, data, output))
    crops["logit"] = scorer.score_paths(crops["file"].tolist(), **batches)
    for name, folder in others.items():
        other = load_scorer(folder, device=scorer.device)
        crops[f"{OTHER}{name}"] = other.score_paths(crops["file"].tolist(), **batches)
    return crops


def _described(crops: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """`crops` with what is known of each face, and how it looks."""

    def look(path: str) -> tuple[float, float, float]:
        image = load_crop(path)
        row = image_statistics(np.asarray(image))
        return row["brightness"], row["sharpness"], focus(image)

    found = map_threads(look, crops["file"].tolist(), desc="describe", unit="crop")
    names = ["brightness", "sharpness", "focus"]
    looks = pd.DataFrame(found, crops.index, names, dtype=np.float64)
    looks["focus"] = looks["focus"].where(facts["track"].notna())
    return crops.join(facts).join(looks.round({"brightness": 4, "sharpness": 4, "focus": 6}))


def name_models(folders: Sequence[str]) -> dict[str, Path]:
    """Names for model folders, or for outputs that hold one: as much of a path as tells them apart.

    Raises:
        FileNotFoundError: a folder holds no model.
    """
    homes = list(dict.fromkeys(find_model(folder).resolve() for folder in folders))
    for home in homes:
        if not (home / "config.json").is_file():
            raise FileNotFoundError(f"MODELS: {home} holds no model: config.json is missing")
    outer = [str(home.parent if home.name == "model" else home) for home in homes]
    return dict(zip(short_names(outer), homes, strict=True))


@dataclass(frozen=True)
class Evaluation:
    """A model under its decision, on val and test: all that the sections of 04 look at.

    Attributes:
        scorer: the model.
        decision: as it was chosen on val.
        index: of index.csv, whole.
        data: DATA.
        crops: of `score_index`, with `score` and `decides`.
        videos: a row a video: of `Decision.judge_videos`, with `method`, `faces` ("1", or "2 or
            more" in a frame), medians of NUMERIC, and `zero_pixel`: P(FAKE) by the files alone.
        files: the zero-pixel baseline of the audit and, where that is defined, its scores by
            `video` and `roc_auc_difference`: the model less it, with its paired interval.
        audit: of data_audit.json.
        settings: `n_resamples` and `seed` of every bootstrap.
    """

    scorer: Scorer
    decision: Decision
    index: pd.DataFrame
    data: str
    crops: pd.DataFrame
    videos: pd.DataFrame
    files: dict[str, Any]
    audit: dict[str, Any]
    settings: Mapping[str, int]

    @classmethod
    def open(
        cls,
        scored: pd.DataFrame,
        decision: Decision,
        index: pd.DataFrame,
        data: str,
        output: str | Path,
        scorer: Scorer,
        **settings: int,
    ) -> Evaluation:
        """Judge `scored`, of `score_index` with the same arguments, by a decision chosen on val."""
        crops = decision.score_crops(scored, by=VIDEO)
        audit = read_json(output, "data_audit.json")
        grouped = crops.groupby(VIDEO, sort=False)
        facts = grouped[list(NUMERIC)].median().assign(method=grouped["method"].first())
        most = crops.groupby([*VIDEO, "frame"]).size().groupby(VIDEO).max()
        facts["faces"] = np.where(most.reindex(facts.index) > 1, "2 or more", "1")
        videos, files = decision.judge_videos(crops), dict(audit["zero_pixel"])
        if files["roc_auc"]["value"] is not None:
            sizes = [os.path.getsize(path) for path in crop_paths(index, data)]
            blind = zero_pixel_scores(index.assign(file_bytes=sizes), seed=settings["seed"])
            blind = blind[[*VIDEO, "score"]].rename(columns={"score": "zero_pixel"})
            videos = videos.merge(blind, on=VIDEO, how="left")
            test = videos[videos["split"] == "test"]
            scores = y_true_of(test), test["score"], test["zero_pixel"]
            kept: dict[str, Any] = {"groups": drawn_by(test, audit), **settings}
            files["video"] = bootstrap(scores[0], scores[2], threshold=0.5, **kept)
            files["roc_auc"] = files["video"]["roc_auc"]
            kept |= {"threshold": decision.threshold, "other_threshold": 0.5}
            files["roc_auc_difference"] = paired_bootstrap(*scores, **kept)["roc_auc"]
        videos = videos.merge(facts.reset_index(), on=VIDEO)
        return cls(scorer, decision, index, str(data), crops, videos, files, audit, settings)

    @property
    def train(self) -> pd.DataFrame:
        """Crops that were trained on, as in index.csv."""
        return self.index[self.index["split"] == "train"]

    @property
    def test_crops(self) -> pd.DataFrame:
        """Crops of test."""
        return self.crops[self.crops["split"] == "test"]

    @property
    def test(self) -> pd.DataFrame:
        """Videos of test."""
        return self.videos[self.videos["split"] == "test"]

    def groups(self, table: pd.DataFrame) -> pd.Series:
        """What intervals resample, of crops or videos: see `drawn_by`."""
        return drawn_by(table, self.audit)

    def bootstrap(self, table: pd.DataFrame) -> dict[str, Any]:
        """Every metric of crops or videos with its interval."""
        kept = {"groups": self.groups(table), "threshold": self.decision.threshold, **self.settings}
        return bootstrap(y_true_of(table), table["score"], **kept)

    def headline(self) -> dict[str, Any]:
        """What metrics.json says first, by crop ("frame" there) and by video.

        Returns:
            `frame` and `video`: every metric as {value, low, high}; `n`, `confusion`,
            `calibration`; `baselines`: what always the majority, the files alone and shuffled
            labels reach.
        """
        train = {"frame": self.train, "video": self.train.drop_duplicates(VIDEO)}
        result: dict[str, Any] = {"n": {}, "confusion": {}}
        majority, threshold = {}, self.decision.threshold
        for level, table in {"frame": self.test_crops, "video": self.test}.items():
            y_true, counts = y_true_of(table), table["label"].value_counts()
            drawn = {"sources": table["source"].nunique(), "drawn": self.groups(table).nunique()}
            result[level] = self.bootstrap(table)
            result["n"][level] = {**counts, **drawn}
            counts = confusion_counts(y_true, table["score"], threshold=threshold)
            result["confusion"][level] = counts
            majority[level] = majority_baseline(y_true_of(train[level]), y_true)
        luck = shuffled_labels(y_true_of(self.test), self.test["score"], **self.settings)
        shuffled = {"roc_auc": luck}
        baselines = {"majority": majority, "zero_pixel": self.files, "shuffled_labels": shuffled}
        return result | {"baselines": baselines, "calibration": _calibration(self)}

    def compare_models(self) -> dict[str, Any]:
        """`models`: this one against each further one, on the same test videos; {} without any.

        Each has its own calibration, aggregation and threshold, chosen on val.

        Returns:
            Model to its `roc_auc`, `balanced_accuracy` and `log_loss`, and the `temperature`,
            `offset`, `aggregation` and `threshold` that they rest on; from the second on,
            `roc_auc_difference`: this model less that one, with its paired interval.
        """
        others = [str(name) for name in self.crops if str(name).startswith(OTHER)]
        result: dict[str, Any] = {}
        for column in ["logit", *others] if others else []:
            rows = self.crops.assign(logit=self.crops[column])
            decision = choose_decision(rows[rows["split"] == "val"])
            videos = decision.judge_videos(rows[rows["split"] == "test"])
            kept = {"groups": self.groups(videos), **self.settings}
            y_true, score, threshold = y_true_of(videos), videos["score"], decision.threshold
            own = bootstrap(y_true, score, threshold=threshold, **kept)
            rest_on = ("temperature", "offset", "aggregation", "threshold")
            row: dict[str, Any] = {key: getattr(decision, key) for key in rest_on}
            row |= {key: own[key] for key in ("roc_auc", "balanced_accuracy", "log_loss")}
            if column == "logit":
                ours, limit = score, threshold
            else:
                limits: dict[str, Any] = {"threshold": limit, "other_threshold": threshold}
                pair = paired_bootstrap(y_true, ours, score, **limits, **kept)
                row["roc_auc_difference"] = pair["roc_auc"]
            result["this model" if column == "logit" else column.removeprefix(OTHER)] = row
        return {"models": result}

    def compare_rules(self) -> dict[str, Any]:
        """What else could have been chosen on val, and what the band of UNSURE does on test.

        Returns:
            `rules`: each of THRESHOLD_RULES to its `threshold`, and to the point values that follow
            on `val` and on `test`; `aggregations`: of `compare_aggregations`; `abstention`: the
            band with `test`: `coverage` and `error` of the decided videos, with intervals.
        """
        parts = {"val": self.videos[self.videos["split"] == "val"], "test": self.test}
        y_val, targets = y_true_of(parts["val"]), self.decision.facts["targets"]
        rules: dict[str, Any] = {}
        for rule in THRESHOLD_RULES:
            threshold = choose_threshold(y_val, parts["val"]["score"], rule=rule, **targets)
            rules[rule] = {"threshold": threshold} | {
                name: score_table(y_true_of(part), part["score"], threshold=threshold)
                for name, part in parts.items()
            }
        decided = (self.test["decision"] != "UNSURE").to_numpy()
        wrong = (self.test["decision"] != self.test["label"]).to_numpy()
        kept = {"groups": self.groups(self.test), **self.settings}
        effect = {"coverage": group_mean(decided, **kept)}
        effect["error"] = group_mean(wrong, where=decided, **kept)
        val = self.crops[self.crops["split"] == "val"]
        return {
            "rules": rules,
            "rule_targets": targets,
            "aggregations": compare_aggregations(val, self.decision).to_dict("records"),
            "abstention": {**(self.decision.abstention or {}), "test": effect},
        }

    def slice_videos(self) -> dict[str, Any]:
        """`slices`: scores of groups of the test videos.

        A method is judged by its fakes against all real videos; every other group by the videos of
        both classes in it. Numbers are cut into thirds of the videos. What is the same for all
        makes no groups and is left out, but for the method.

        Returns:
            What it is grouped by to name to `n` (of a method its fakes), `REAL`, `FAKE`, `sources`,
            `small` (under SMALL videos of a class), `roc_auc` and `balanced_accuracy`.
        """
        videos = self.test
        real = videos["label"] == CLASSES[0]
        groups: dict[str, dict[str, pd.Series]] = {"method": {}}
        for method in sorted(videos.loc[~real, "method"].unique()):
            groups["method"][method] = real | (videos["method"] == method)
        by_group = ("group",) if self.audit.get("known_by") == "group" else ()
        for by in ("dataset", "faces", *by_group):
            names = sorted(videos[by].unique())
            groups[by] = {name: videos[by] == name for name in names if len(names) > 1}
        for by, (words, digits) in NUMERIC.items():
            groups[by] = _thirds(videos[by], words, digits)
        result: dict[str, Any] = {}
        for by, parts in groups.items():
            for name, chosen in parts.items():
                rows = videos[chosen]
                row = _measured(self, rows, ["balanced_accuracy"])
                row["n"] = row[CLASSES[1]] if by == "method" else len(rows)
                row["small"] = min(row[label] for label in CLASSES) < SMALL
                result.setdefault(by, {})[name] = row
        return {"slices": result}

    def judge_elsewhere(
        self, folders: Sequence[str], *, frames: int, **batches: int
    ) -> tuple[list[dict[str, Any]], pd.DataFrame]:
        """The test split, and further data sets scored and judged with everything frozen.

        Args:
            folders: each in any known crop layout; of what was trained on nothing is taken.
            frames, batches: of `spread_frames` and of `Scorer.score_paths`.
        Returns:
            A row a data set, the own test split first: `trained_on, tested_on, left_out` (videos),
            counts and scores, and `elsewhere`; a row a crop of the further ones, for
            extra_predictions.csv.
        Raises:
            ValueError: every video of a data set was trained on.
        """
        trained = {"trained_on": ", ".join(sorted(self.train["dataset"].unique()))}
        own = {"tested_on": "its own test split", "left_out": 0}
        rows = [trained | own | _measured(self, self.test, RATES)]
        extra = [self.crops.iloc[:0]]
        for folder in folders:
            crops, _ = scan_crops(folder, both=False)
            crops = crops.assign(source=source_groups(crops), split="extra")
            known = trained_on(crops, self.train, self.data)
            if known.all():
                raise ValueError(f"EXTRA_DATA: every video of {Path(folder).name} was trained on")
            kept = spread_frames(crops[~known].reset_index(drop=True), frames)
            kept, _ = inspect_crops(kept, both=False)
            kept["file"] = [f"{root}/{path}" for root, path in zip(kept["root"], kept["path"])]
            kept = _described(kept.drop(columns=STATISTICS), face_facts(kept, folder, folder))
            kept["logit"] = self.scorer.score_paths(kept["file"].tolist(), **batches)
            kept = self.decision.score_crops(kept, by=VIDEO)
            name = {
                "tested_on": ", ".join(sorted(kept["dataset"].unique())),
                "left_out": int(crops.loc[known, "video"].nunique()),
                "elsewhere": True,
            }
            videos = self.decision.judge_videos(kept)
            rows.append(trained | name | _measured(self, videos, RATES))
            extra.append(kept)
        return rows, pd.concat(extra, ignore_index=True)

    def write(
        self,
        output: str | Path,
        parts: Mapping[str, Any],
        *,
        extra: pd.DataFrame | None = None,
        corrupted: pd.DataFrame | None = None,
    ) -> dict[str, Any]:
        """Write the tables, metrics.json, and the decision beside its model in OUTPUT.

        Args:
            parts: of metrics.json, of the methods above and of `stress`; the whole is returned.
            extra: of `judge_elsewhere`.
            corrupted: logits of `stress`.
        """
        crops = self.crops.astype({"track": "Int64"})
        crops = crops if corrupted is None else crops.join(corrupted)
        write_table(crops.drop(columns=["file", "width", "height"]), output, "predictions.csv")
        write_table(self.videos, output, "video_predictions.csv")
        if extra is not None and len(extra):
            names = [*ARTIFACTS["predictions.csv"].columns, *FACE_FACTS, "dataset"]
            table = extra[names].astype({"track": "Int64"})
            write_csv(table, Path(output) / "extra_predictions.csv")
        keep_model(self.scorer.folder, output)  # the decision travels with its model
        decision, facts = self.decision, self.scorer.facts
        decision.write(output)
        chosen = ("temperature", "offset", "prior", "units", "aggregation")
        datasets = sorted(self.index["dataset"].unique())
        metrics = {
            **parts,
            "threshold": decision.threshold,
            "threshold_rule": decision.rule,
            **{name: getattr(decision, name) for name in chosen},
            "model": {"name": self.scorer.network.pretrained_cfg["architecture"], **facts},  # type: ignore[index, dict-item]
            "data": {
                "datasets": datasets,
                "fingerprint": self.audit["fingerprint"],
                "split_by": self.audit.get("split_by", "source"),
                "apart": how_far_apart(self.audit),
            },
            "versions": versions(),
            "seed": self.settings["seed"],
            "resamples": self.settings["n_resamples"],
            "date": f"{pd.Timestamp.today():%Y-%m-%d}",
        }
        write_json(metrics, output, "metrics.json")
        return metrics


def _calibration(ev: Evaluation) -> dict[str, dict[str, float | None]]:
    """Log loss, Brier score and calibration error of crops before and after, and of videos."""
    stages = {
        "crops_before": (ev.test_crops, Decision().score(ev.test_crops["logit"])),
        "crops_after": (ev.test_crops, ev.test_crops["score"]),
        "videos_after": (ev.test, ev.test["score"]),
    }
    result = {}
    for stage, (table, score) in stages.items():
        scores = score_table(y_true_of(table), score, threshold=0.5)
        result[stage] = {name: scores[name] for name in ("log_loss", "brier", "ece")}
    return result


def _measured(ev: Evaluation, videos: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Counts of some videos and those metrics, with intervals."""
    names, table = ("roc_auc", *names), ev.bootstrap(videos)
    row: dict[str, Any] = {label: int((videos["label"] == label).sum()) for label in CLASSES}
    return row | {"sources": videos["source"].nunique()} | {name: table[name] for name in names}


def _thirds(values: pd.Series, words: Sequence[str], digits: int) -> dict[str, pd.Series]:
    """Rows of each third by value, named with its range; none if the values hardly differ."""
    edges = np.unique(values.quantile([1 / 3, 2 / 3]))
    part = np.searchsorted(edges, values, side="left")
    present = [values[part == k] for k in range(len(edges) + 1) if (part == k).any()]
    if len(present) < 2:
        return {}
    named = words if len(present) == 3 else (words[0], words[2])
    result = {}
    for word, (low, high) in zip(named, [(rows.min(), rows.max()) for rows in present]):
        result[f"{word}: {low:.{digits}f} to {high:.{digits}f}"] = values.between(low, high)
    return result
