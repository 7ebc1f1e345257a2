"""From crops to logits: the one way, whoever hands them over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from tests.model.test_network import norms, seasoned
from utils.faces.media import load_crop
from utils.model.network import build_model, save_model
from utils.model.scoring import Scorer, load_scorer
from utils.run.machine import default_workers

CPU, GPU = torch.device("cpu"), torch.device("cuda")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Brightness(torch.nn.Module):
    """Logits (-m, 2 m) of the mean brightness m; an error in training mode."""

    pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1)}  # noqa: RUF012

    def forward(self, images):
        assert not self.training
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, 2 * mean], 1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Nine noisy crops, brighter from row to row. Names in another order."""
    folder = tmp_path_factory.mktemp("crops")
    made = [folder / f"{9 - row}.png" for row in range(9)]
    rng = np.random.default_rng(0)
    for row, path in enumerate(made):
        pixels = rng.integers(20 * row, 20 * row + 90, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in made]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return seasoned(build_model("test_efficientnet", image_size=32, pretrained=False))


@pytest.fixture(scope="module")
def scorer(network):
    return Scorer(network, device=CPU)


@torch.inference_mode()
def plain_logits(network, scorer, paths):
    """Without folding, batches and loaders."""
    images = torch.stack([scorer.transform(load_crop(path)) for path in paths])
    pairs = network(images).double()
    return (pairs[:, 1] - pairs[:, 0]).numpy()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_logits_are_those_of_fake_in_the_order_of_the_paths(tmp_path, num_workers):
    levels = [200, 0, 255, 51, 102]
    for row, level in enumerate(levels):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{9 - row}.png")
    rows = [str(tmp_path / f"{9 - row}.png") for row in range(5)]
    scorer = Scorer(Brightness().train(), device=CPU)
    logits = scorer.score_paths(rows, batch_size=2, num_workers=num_workers)
    assert logits.dtype == np.float64
    assert logits.tolist() == pytest.approx([3 * level / 255 for level in levels], abs=1e-5)


@pytest.mark.parametrize("name", ["tf_efficientnetv2_b0", "test_efficientnet", "test_vit"])
def test_scorer_gives_what_the_plain_network_gives(name, paths):
    torch.manual_seed(0)
    network = seasoned(build_model(name, image_size=64, pretrained=False), head=0.02)
    scorer = Scorer(network, device=CPU)
    plain = plain_logits(network, scorer, paths)
    assert 0.01 < np.ptp(plain) < 20
    assert scorer.score_paths(paths, batch_size=4) == pytest.approx(plain, abs=1e-4)
    assert not norms(scorer.network)


def test_logits_do_not_depend_on_batches_workers_or_who_hands_the_crops_over(scorer, paths):
    together = scorer.score_paths(paths, batch_size=9, num_workers=0)
    assert np.ptp(together) > 0.5
    for size, workers in ((1, 0), (4, 0), (4, 1)):  # of nine the last of four is alone
        again = scorer.score_paths(paths, batch_size=size, num_workers=workers)
        assert again == pytest.approx(together, abs=1e-4)
    crops = [load_crop(path) for path in paths]
    assert scorer.score_crops(crops, batch_size=4) == pytest.approx(together, abs=1e-4)
    assert together.tolist() == together.round(6).tolist()


def test_crops_that_come_in_batches_of_their_own_are_scored_in_order(scorer, paths):
    class Pairs(Dataset):
        """Batches of 2, 3 and 4 images."""

        def __len__(self):
            return 3

        def __getitem__(self, item):
            start, end = ((0, 2), (2, 5), (5, 9))[item]
            return torch.stack([scorer.transform(load_crop(path)) for path in paths[start:end]])

    logits = scorer.score_data(Pairs(), batch_size=None, num_workers=0)
    assert logits == pytest.approx(scorer.score_paths(paths), abs=1e-4)


def test_scoring_nothing_gives_nothing(scorer):
    for logits in (scorer.score_paths([]), scorer.score_crops([]), scorer.score_batches([])):
        assert logits.shape == (0,) and logits.dtype == np.float64


def test_margin_is_the_logit_and_can_be_traced_back_to_the_pixels(scorer, paths):
    images = torch.stack([scorer.transform(load_crop(path)) for path in paths])
    images.requires_grad_()
    margin = scorer.margin(images)
    assert margin.tolist() == pytest.approx(scorer.score_paths(paths).tolist(), abs=1e-4)
    margin.sum().backward()
    assert images.grad.abs().sum() > 0


def test_saved_model_scores_the_same_and_keeps_its_facts(network, paths, tmp_path):
    before = Scorer(network, device=CPU).score_paths(paths)
    folder = save_model(network, tmp_path / "model", extra={"prior": 0.8}, card="")
    scorer = load_scorer(folder, device=CPU)
    assert scorer.score_paths(paths) == pytest.approx(before, abs=1e-5)
    assert (scorer.facts, scorer.folder, scorer.device) == ({"prior": 0.8}, folder, CPU)


@gpu
def test_a_gpu_scores_what_a_cpu_scores(network, scorer, paths):
    ours = Scorer(network, device=GPU).score_paths(paths, batch_size=4)
    theirs = scorer.score_paths(paths)
    assert np.abs(ours - theirs).max() < 0.1 < np.ptp(theirs)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_crop_is_named_with_the_way_out(scorer, tmp_path, num_workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"(?s)broken\.png.*01_explore_data"):
        scorer.score_paths([str(broken)], batch_size=1, num_workers=num_workers)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_of_nothing_is_refused(scorer, paths, size):
    with pytest.raises(ValueError, match=f"batch_size {size}"):
        scorer.score_paths(paths, batch_size=size)


@pytest.mark.parametrize(("cores", "cpu", "gpu"), [(1, 0, 0), (2, 0, 1), (4, 1, 3), (64, 4, 4)])
def test_loader_processes_leave_the_cores_to_a_model_that_computes_on_them(
    cores, cpu, gpu, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert default_workers(torch.device("cpu")) == cpu
    assert default_workers(torch.device("cuda")) == gpu
