"""A model with a decision, and files to judge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.faces.test_detection import LEFT, RIGHT, scene
from tests.model.test_network import seasoned
from tests.stats.test_decisions import DECISION
from utils.faces.media import write_video
from utils.inference.judging import load_judge
from utils.model.network import build_model, save_model

CPU = torch.device("cpu")
PRIOR = 0.8


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    torch.manual_seed(0)
    model = seasoned(build_model("test_efficientnet", image_size=32, pretrained=False))
    save_model(model, output / "model", extra={"prior": PRIOR}, card="")
    return output / "model"


@pytest.fixture(scope="session")
def judge(model_folder):
    undecided = load_judge(model_folder, device=CPU)
    DECISION.write(model_folder.parent)
    judge = load_judge(model_folder, device=CPU)
    assert undecided.decision != judge.decision == DECISION
    return judge


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A picture of two people, a clip of one and then two, a wall, and two broken files."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(scene(LEFT, RIGHT)).save(folder / "pair.png")
    frames = [scene(LEFT)] * 4 + [scene(LEFT, RIGHT)] * 4
    write_video(folder / "clip.mp4", frames, fps=8)
    Image.fromarray(scene()).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="session")
def crop():
    """Writes a face crop, noise of its own for each level, and gives its path."""

    def write(path, level=0):
        pixels = np.random.default_rng(level).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return str(path)

    return write
