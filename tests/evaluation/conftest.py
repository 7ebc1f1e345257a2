"""Models that know one colour, and what they make of made predictions or of a small data set."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.data.audit import zero_pixel_baseline
from utils.data.crops import VIDEO, inspect_crops, scan_crops
from utils.evaluation.results import NUMERIC, Evaluation
from utils.model.scoring import Scorer
from utils.run.artifacts import ARTIFACTS, write_json, write_table
from utils.stats.decisions import choose_decision

CPU = torch.device("cpu")
#: What a crop has beside its logit, where a test does not say.
PLAIN = {"path": "", "face": 1, "method": "swap", "track": np.nan, "file": ""}


class RedSaysFake(torch.nn.Module):
    """The logit of FAKE is how red the image is, from 0 to 2."""

    pretrained_cfg = {  # noqa: RUF012
        "architecture": "red", "input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1),
    }  # fmt: skip

    def forward(self, images):
        red = 2 * images[:, 0].mean(dim=(1, 2))
        return torch.stack([torch.zeros_like(red), red], dim=1)


@pytest.fixture(scope="session")
def red_scorer(tmp_path_factory):
    """RedSaysFake with a model folder that may be copied and not loaded."""
    folder = tmp_path_factory.mktemp("attached") / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    facts = {"prior": 0.5, "best_epoch": 2}
    return Scorer(RedSaysFake(), device=CPU, facts=facts, folder=folder)


@pytest.fixture(scope="session")
def evaluate(red_scorer):
    """Makes an `Evaluation` of crops with logits, as `Evaluation.open` would."""

    def make(crops, *, decision=None, scorer=red_scorer, index=None, data="", **settings):
        facts = {**PLAIN, **dict.fromkeys(NUMERIC, 1.0)}
        crops = crops.assign(**{name: facts[name] for name in facts if name not in crops})
        decision = decision or choose_decision(crops[crops["split"] == "val"])
        crops = decision.score_crops(crops, by=VIDEO)
        known = crops.drop_duplicates(VIDEO)[[*VIDEO, "method", *NUMERIC]].assign(faces="1")
        videos = decision.judge_videos(crops).merge(known, on=VIDEO)
        index = crops.iloc[:0] if index is None else index
        settings = {"n_resamples": 50, "seed": 0} | settings
        audit = {"fingerprint": "abc"}
        return Evaluation(scorer, decision, index, data, crops, videos, {}, audit, settings)

    return make


#: Sources of the project, and the splits of four each.
N_SOURCES, SPLITS = 12, ("train", "val", "test")
#: Of an even source 00's boxes tell the tracks.
BOX = {"x1": 10.0, "y1": 20.0, "x2": 90.0, "y2": 180.0, "probability": 0.99}


def paint(path, red, rng):
    pixels = rng.integers(0, 255, (24, 20, 3))
    pixels[..., 0] = np.clip(255 * red + rng.normal(0, 9, (24, 20)), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def project(tmp_path_factory, red_scorer):
    """DATA with crops and OUTPUT with index.csv and data_audit.json.

    A REAL video and its fake a source, four frames each. In "f8", of test, a second face is in
    every frame: the first person is not red, the second is.
    """
    data = tmp_path_factory.mktemp("project") / "faces"
    rng, listing, boxes = np.random.default_rng(0), [], []
    for number in range(N_SOURCES):
        for label in ("REAL", "FAKE"):
            video = f"{label[0].lower()}{number}"
            red = rng.normal(0.65 if label == "FAKE" else 0.35, 0.1)
            listing.append(
                {"filename": f"{video}.mp4", "label": label, "split": "", "dataset": "",
                 "original": f"r{number}.mp4" if label == "FAKE" else "", "fps": 25,
                 "method": "swap" if label == "FAKE" else "", "width": 640, "height": 480}
            )  # fmt: skip
            for frame in (0, 5, 10, 15):
                looks = (0.2, 0.9) if video == "f8" else (red,)
                for face, look in enumerate(looks, start=1):
                    name = f"{frame}.png" if face == 1 else f"{frame}_{face}.png"
                    paint(data / video / name, look, rng)
                    boxes.append({"video": video, "frame": frame, "face": face, "track": face})
    pd.DataFrame(listing).to_csv(data / "metadata.csv", index=False)
    boxes = pd.DataFrame(boxes).assign(**BOX)
    known = boxes["video"].str[1:].astype(int) % 2 == 0
    boxes.loc[known, ARTIFACTS["faces/boxes.csv"].columns].to_csv(data / "boxes.csv", index=False)

    index, _ = inspect_crops(scan_crops(data)[0])
    number = index["video"].str[1:].astype(int)
    index["source"] = "r" + number.astype(str)
    index["split"] = np.array(SPLITS)[number // (N_SOURCES // 3)]
    output = data.parent / "output"
    write_table(index[ARTIFACTS["index.csv"].columns], output, "index.csv")
    audit = {key: {} for key in ARTIFACTS["data_audit.json"].columns}
    audit |= {"zero_pixel": zero_pixel_baseline(index), "fingerprint": "abc"}
    write_json(audit, output, "data_audit.json")
    index = index[ARTIFACTS["index.csv"].columns]
    return SimpleNamespace(data=data, output=output, index=index, scorer=red_scorer)
