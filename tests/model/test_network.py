import json
import shutil
import socket
import time
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from utils.model import network
from utils.model.network import (
    EXTRA,
    build_model,
    choose_model,
    find_model,
    fold_batch_norms,
    keep_model,
    load_model,
    model_card,
    save_model,
)

NAME = "test_efficientnet.r160_in1k"


class Trap:
    """Whoever unpickles this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def is_sprung(path, *, by):
    """Unpickle without any care, to prove that the trap would have worked."""
    torch.load(by, weights_only=False)
    return path.exists()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = build_model(NAME, image_size=32, pretrained=False)
    built.train()(torch.randn(8, 3, 32, 32))  # statistics that differ from the initial ones
    return built.eval()


@pytest.fixture
def folder(model, tmp_path):
    return save_model(model, tmp_path / "model", extra={"prior": 0.8}, card="a card")


@pytest.fixture
def backbone():
    """An ImageNet network of 1000 classes, trained by nobody."""
    torch.manual_seed(7)
    return timm.create_model("test_efficientnet", num_classes=1000).state_dict()


@torch.inference_mode()
def outputs(model, images):
    return model.eval()(images)


def test_a_network_that_swallows_packets_costs_seconds(monkeypatch):
    """A proxy that takes connections and never answers."""
    monkeypatch.setattr("utils.model.network.REACH_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        start = time.monotonic()
        with pytest.raises(ValueError, match="Switch the internet on"):
            build_model("test_efficientnet.r160_in1k", image_size=32)
    assert time.monotonic() - start < 20


def test_saved_model_gives_the_very_same_outputs(model, folder, images):
    again, extra = load_model(folder)
    assert not again.training
    assert extra == {"prior": 0.8}
    assert torch.equal(outputs(again, images), outputs(model, images))
    assert outputs(again, images).shape == (3, 2)


def test_saved_model_loads_with_one_call_of_timm(model, folder, images):
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(outputs(again, images), outputs(model, images))


def test_model_that_was_trained_with_channels_last_can_be_saved(model, tmp_path, images):
    before = outputs(model, images)
    model.to(memory_format=torch.channels_last)
    again, _ = load_model(save_model(model, tmp_path / "model", extra={}, card=""))
    assert torch.equal(outputs(again, images), before)


def test_folder_tells_classes_and_preprocessing_but_no_path_of_this_machine(tmp_path, backbone):
    save_file(backbone, tmp_path / "weights.safetensors")
    model = build_model(NAME, image_size=48, weights=str(tmp_path / "weights.safetensors"))
    save_model(model, tmp_path / "model", extra={}, card="a card")
    text = (tmp_path / "model" / "config.json").read_text()
    config = json.loads(text)
    assert config["label_names"] == ["REAL", "FAKE"]
    assert config["num_classes"] == 2
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 48]
    assert config["pretrained_cfg"]["crop_mode"] == "squash"
    assert str(tmp_path) not in text
    assert (tmp_path / "model" / "README.md").read_text() == "a card"


def test_card_states_facts_and_limits():
    card = model_card({"model": NAME, "epochs": 3})
    assert f"| model | {NAME} |" in card
    assert "| recipe | ema: 0.9, scale: 1, 2 |" in model_card(
        {"recipe": {"ema": 0.9, "scale": (1, 2)}}
    )
    assert "Do not use it for" in card


def test_unknown_model_is_refused_with_similar_names():
    with pytest.raises(ValueError, match=r"'test_eficientnet'.*test_efficientnet"):
        build_model("test_eficientnet", image_size=32, pretrained=False)


def test_pretrained_without_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{NAME}.*internet.*WEIGHTS.*PRETRAINED=False"):
        build_model(NAME, image_size=32, pretrained=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_file_is_really_loaded_under_a_fresh_head(tmp_path, backbone, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(backbone, path) if suffix == ".safetensors" else torch.save(backbone, path)
    torch.manual_seed(1)
    state = build_model(NAME, image_size=32, weights=str(path)).state_dict()
    head = {name for name in state if name.startswith("classifier")}
    assert all(torch.equal(state[name], backbone[name]) for name in set(state) - head)
    assert state["classifier.weight"].shape == (2, backbone["classifier.weight"].shape[1])
    torch.manual_seed(2)
    other = build_model(NAME, image_size=32, weights=str(path)).state_dict()
    assert not torch.equal(other["classifier.weight"], state["classifier.weight"])


def test_seed_decides_the_head_with_and_without_weights(tmp_path, backbone):
    save_file(backbone, tmp_path / "weights.safetensors")
    after = []
    for weights in ("", str(tmp_path / "weights.safetensors")):
        torch.manual_seed(1)
        build_model(NAME, image_size=32, pretrained=False, weights=weights)
        after.append(torch.rand(1).item())
    assert after[0] == after[1]


def test_untrained_head_says_that_it_does_not_know(images):
    torch.manual_seed(0)
    logits = build_model(NAME, image_size=32, pretrained=False).train()(images)
    assert 0 < logits.abs().max() < 0.3  # a loss near ln 2, whatever the label


def test_missing_weights_file_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.pth"):
        build_model(NAME, image_size=32, weights="nowhere.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(ValueError, match=r"other\.safetensors.*size mismatch"):
        build_model(NAME, image_size=32, weights=str(path))


def test_weights_under_names_that_timm_passes_over_are_refused(tmp_path, backbone):
    path = tmp_path / "renamed.safetensors"
    save_file({f"encoder.{name}": tensor for name, tensor in backbone.items()}, path)
    with pytest.raises(ValueError, match=r"renamed\.safetensors.*conv_stem"):
        build_model(NAME, image_size=32, weights=str(path))


def test_weights_may_be_a_folder_that_holds_one_file(tmp_path, backbone):
    save_file(backbone, tmp_path / "anything.safetensors")
    (tmp_path / "notes.txt").write_text("from timm")
    state = build_model(NAME, image_size=32, weights=str(tmp_path)).state_dict()
    assert torch.equal(state["conv_stem.weight"], backbone["conv_stem.weight"])


def test_model_folder_of_an_earlier_run_may_be_gone_on_from(folder):
    model, _ = load_model(folder)
    state = build_model(NAME, image_size=64, weights=str(folder)).state_dict()
    assert torch.equal(state["conv_stem.weight"], model.state_dict()["conv_stem.weight"])


@pytest.mark.parametrize(
    ("names", "named"),
    [([], "holds weights"), (["a.pth", "b.pth"], r"\(a\.pth, b\.pth\): name one")],
)
def test_folder_without_weights_or_with_several_is_refused(tmp_path, backbone, names, named):
    for name in names:
        torch.save(backbone, tmp_path / name)
    with pytest.raises(ValueError, match=named):
        build_model(NAME, image_size=32, weights=str(tmp_path))


def test_folder_with_a_malicious_file_is_not_unpickled(tmp_path, backbone):
    trap, path = tmp_path / "sprung", tmp_path / "attached" / "weights.bin"
    path.parent.mkdir()
    torch.save(backbone | {"x": Trap(trap)}, path)
    with pytest.raises(ValueError, match=r"weights\.bin.*cannot be read"):
        build_model(NAME, image_size=32, weights=str(path.parent))
    assert not trap.exists()
    assert is_sprung(trap, by=path)


def test_weights_file_is_not_unpickled(tmp_path, backbone):
    trap, path = tmp_path / "sprung", tmp_path / "evil.pth"
    torch.save(backbone | {"x": Trap(trap)}, path)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        build_model(NAME, image_size=32, weights=str(path))
    assert not trap.exists()
    assert is_sprung(trap, by=path)


def test_folder_with_a_pickle_instead_of_safetensors_is_refused_unread(folder, tmp_path):
    trap, pickle = tmp_path / "sprung", folder / "pytorch_model.bin"
    torch.save({"x": Trap(trap)}, pickle)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*03_train"):
        load_model(folder)
    assert not trap.exists()
    assert is_sprung(trap, by=pickle)


def test_pickle_beside_the_safetensors_is_not_read(folder, model, images, tmp_path):
    torch.save({"x": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    assert torch.equal(outputs(load_model(folder)[0], images), outputs(model, images))
    assert not (tmp_path / "sprung").exists()


def test_empty_folder_names_the_notebook_that_fills_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json.*03_train"):
        load_model(tmp_path)


def test_model_of_other_classes_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"label_names": ["cat", "dog"]}))
    with pytest.raises(ValueError, match="cat"):
        load_model(folder)


def test_damaged_weights_are_refused_by_name(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors.*03_train"):
        load_model(folder)


def test_weights_that_lack_a_tensor_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("conv_stem.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_model(folder)


def test_saving_replaces_the_whole_folder_and_its_stale_decision(folder, model):
    (folder / "decision.json").write_text("{}")
    (folder / "leftover.bin").write_bytes(b"x")
    save_model(model, folder, extra={}, card="new card")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model.safetensors")
    ]
    assert (folder / "README.md").read_text() == "new card"


def untouched(folder):
    """The folder of the fixture stands, with nothing beside it."""
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert (folder / "README.md").read_text() == "a card"
    return load_model(folder)[1] == {"prior": 0.8}


def test_save_that_fails_while_writing_leaves_the_old_folder(folder, model):
    with pytest.raises(TypeError):
        save_model(model, folder, extra={"prior": object()}, card="new card")
    assert untouched(folder)


def test_save_that_fails_while_replacing_leaves_the_old_folder(folder, model, monkeypatch):
    rename = Path.rename

    def full_disk(self, target):
        if self.name == "model" and self != folder:
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(model, folder, extra={}, card="new card")
    assert untouched(folder)


def test_first_save_that_fails_leaves_nothing(model, tmp_path):
    with pytest.raises(TypeError):
        save_model(model, tmp_path / "model", extra={"prior": object()}, card="")
    assert list(tmp_path.iterdir()) == []


def test_saved_folder_is_readable_by_others(folder):
    assert folder.stat().st_mode & 0o055 == 0o055 & ~0o022
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


# --- batch norms ------------------------------------------------------------------------------


def norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def seasoned(network, *, head=0.3):
    """Norms as after training, not as new, and a head (its deviation) that is sure of itself."""
    for layer in norms(network):
        for tensor in (layer.running_var, layer.weight.data):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
        for tensor in (layer.running_mean, layer.bias.data):
            torch.nn.init.normal_(tensor, std=0.2)
    if hasattr(network, "get_classifier"):
        torch.nn.init.normal_(network.get_classifier().weight, std=head)
    return network.eval()


class Blocks(torch.nn.Module):
    """Two convolutions side by side; the norm is of the first one or of the second."""

    pretrained_cfg = {"input_size": (3, 8, 8)}  # noqa: RUF012

    def __init__(self, *, norm_of_first):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(2)
        self.second = torch.nn.Conv2d(3, 2, 1)
        self.norm_of_first = norm_of_first

    def forward(self, images):
        first, second = self.first(images), self.second(images)
        both = self.norm(first) - second if self.norm_of_first else first - self.norm(second)
        return both.mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["tf_efficientnetv2_b0", "test_efficientnet", "test_vit"])
def test_folded_model_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = seasoned(build_model(name, image_size=64, pretrained=False))
    images = torch.randn(4, 3, 64, 64) * 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    n_norms, folded = len(norms(model)), fold_batch_norms(model)
    torch.testing.assert_close(
        outputs(folded, images), outputs(model, images), atol=1e-5, rtol=1e-4
    )
    assert not norms(folded)
    assert n_norms or name == "test_vit"
    after = model.state_dict()  # folded was a copy
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


def test_norm_of_another_convolution_than_the_one_before_it_is_not_folded():
    torch.manual_seed(0)
    in_order, crossed = (seasoned(Blocks(norm_of_first=first)) for first in (True, False))
    assert not norms(fold_batch_norms(in_order))
    images = torch.randn(4, 3, 8, 8)
    before = outputs(crossed, images)
    assert fold_batch_norms(crossed) is crossed
    assert len(norms(crossed)) == 1 and torch.equal(outputs(crossed, images), before)


# --- finding a model --------------------------------------------------------------------------


def model_in(folder, *, decided=False):
    """A folder that looks like a model's."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", *["decision.json"] * decided):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Where Kaggle mounts inputs; the working folder is empty."""
    monkeypatch.setattr("utils.run.machine.KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "input"


def test_model_that_is_named_is_taken_as_a_folder_or_as_an_output(attached, tmp_path):
    model_in(tmp_path / "outputs" / "model")
    model_in(attached / "a", decided=True)
    plain, inside = model_in(tmp_path / "plain"), model_in(tmp_path / "run" / "model")
    assert find_model(plain, tmp_path / "outputs") == plain
    assert find_model(str(inside.parent)) == find_model(inside) == inside
    assert find_model(tmp_path / "nothing") == tmp_path / "nothing"  # `load_model` says it all


def test_model_of_output_comes_before_attached_ones_and_evaluated_ones_before_others(
    attached, tmp_path
):
    output = tmp_path / "out"
    trained = model_in(attached / "a" / "model")
    assert find_model(output=output) == trained
    evaluated = model_in(attached / "notebooks" / "me" / "b" / "model", decided=True)
    assert find_model(output=output) == evaluated
    flat = model_in(attached / "models" / "me" / "c" / "pytorch" / "v" / "1", decided=True)
    assert find_model(output=output) == flat  # "models" sorts before "notebooks"
    (output / "model").mkdir(parents=True)
    (output / "model" / "config.json").write_text("{}")  # without weights it is none
    assert find_model(output=output) == flat
    (output / "model" / "model.safetensors").write_text("")
    assert find_model(output=output) == output / "model"
    model_in(tmp_path / "here" / "outputs" / "model")
    assert find_model().resolve() == tmp_path / "here" / "outputs" / "model"


def test_no_model_anywhere_says_where_one_comes_from(attached, tmp_path):
    (attached / "pictures").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="03_train"):
        find_model(output=tmp_path / "out")


def test_the_detector_in_the_box_judges_where_there_is_no_model_or_one_of_drawn_faces(
    attached, tmp_path, monkeypatch
):
    output, box = tmp_path / "out", tmp_path / "models"
    monkeypatch.setattr(network, "BOX", box)
    (attached / "pictures").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="03_train"):
        choose_model(output=output)  # no box yet
    boxed = model_in(box / "lite")
    assert choose_model(output=output) == boxed
    trained = model_in(output / "model")
    assert choose_model(output=output) == trained
    drawn = json.dumps({EXTRA: {"faces": "drawn"}})
    (trained / "config.json").write_text(drawn)
    assert choose_model(output=output) == boxed
    assert choose_model(trained, output) == trained  # it is named
    for odd in ("[1]", json.dumps({EXTRA: 5})):  # what `load_model` refuses
        (trained / "config.json").write_text(odd)
        assert choose_model(output=output) == trained
    shutil.rmtree(boxed)
    assert choose_model(output=output) == trained


def test_training_goes_on_from_a_model_folder_with_its_classifier(tmp_path, monkeypatch):
    torch.manual_seed(0)
    trained = seasoned(build_model("test_efficientnet", image_size=32, pretrained=False)).eval()
    save_model(trained, tmp_path / "m", extra={}, card="")
    file = tmp_path / "m" / "model.safetensors"
    monkeypatch.setattr(network, "BOX", tmp_path)  # what lies there has a name everywhere
    named = (("m", True), (f"m/{file.name}", False))
    for weights, kept in ((tmp_path / "m", True), (file, False), *named):
        again = build_model("test_efficientnet", image_size=64, weights=str(weights)).eval()
        assert again.pretrained_cfg["input_size"] == (3, 64, 64)
        for name, tensor in again.state_dict().items():
            same = torch.equal(tensor, trained.state_dict()[name])
            assert same == (kept or name != "classifier.weight")
    assert tuple(again.pretrained_cfg["mean"]) == trained.pretrained_cfg["mean"]
    with pytest.raises(ValueError, match="is a trained test_efficientnet: set MODEL_NAME"):
        build_model("test_convnext", image_size=32, weights=str(tmp_path / "m"))
    # The same network under another normalisation goes on under that.
    config = tmp_path / "m" / "config.json"
    told = json.loads(config.read_text())
    told["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    config.write_text(json.dumps(told))
    again = build_model("test_efficientnet", image_size=64, weights=str(tmp_path / "m"))
    assert [*again.pretrained_cfg["mean"]] == [0.1, 0.2, 0.3] and again.training
    config.write_text(json.dumps(told | {"architecture": "test_convnext"}))
    with pytest.raises(ValueError, match="does not hold the weights of this model"):
        build_model("test_convnext", image_size=32, weights=str(tmp_path / "m"))


def test_attached_model_is_kept_in_output_even_if_it_cannot_be_written(tmp_path):
    source, output = model_in(tmp_path / "attached" / "model"), tmp_path / "out"
    output.mkdir()
    source.chmod(0o555)
    home = keep_model(source, output)
    assert home == output / "model"
    assert sorted(path.name for path in home.iterdir()) == ["config.json", "model.safetensors"]
    assert home.stat().st_mode == output.stat().st_mode
    (home / "decision.json").write_text("mine")
    assert keep_model(home, output) == home  # its own: nothing to copy
    assert (home / "decision.json").read_text() == "mine"
    assert not (source / "decision.json").exists()


def test_model_that_is_named_in_another_way_than_output_is_still_its_own(tmp_path, monkeypatch):
    home = model_in(tmp_path / "out" / "model")
    monkeypatch.chdir(tmp_path)
    keep_model("out/model", tmp_path / "out")
    assert sorted(path.name for path in home.iterdir()) == ["config.json", "model.safetensors"]


def test_of_different_attached_models_none_is_taken_in_silence(attached, tmp_path):
    first, second = model_in(attached / "a" / "model"), model_in(attached / "b", decided=True)
    assert find_model(output=tmp_path / "out") == second  # the same one, evaluated
    for name in ("decision.json", "model.safetensors"):
        third = model_in(attached / name / "model", decided=True)
        (third / name).write_text("of a stranger")
        with pytest.raises(ValueError, match=rf"{second} and {third} hold .*MODEL"):
            find_model(output=tmp_path / "out")
        shutil.rmtree(third.parent)
    (first / "model.safetensors").write_text("of an earlier run")
    with pytest.raises(ValueError, match=r"hold different config\.json and model\.safetensors"):
        find_model(output=tmp_path / "out")
    assert find_model(first, tmp_path / "out") == first


def test_of_an_attached_model_no_link_that_leads_out_is_kept(tmp_path):
    source = model_in(tmp_path / "attached" / "model")
    (tmp_path / "private").write_text("secret")
    (source / "README.md").symlink_to(tmp_path / "private")
    (source / "more.bin").write_text("of no use")
    home = keep_model(source, tmp_path / "out")
    assert sorted(path.name for path in home.iterdir()) == ["config.json", "model.safetensors"]


def test_what_is_no_model_of_ours_is_not_replaced(model, tmp_path):
    home, source = tmp_path / "out" / "model", model_in(tmp_path / "attached")
    home.mkdir(parents=True)
    assert save_model(model, home, extra={}, card="") == home  # an empty one is
    shutil.rmtree(home)
    (home / "thesis").mkdir(parents=True)
    for write in (
        lambda: save_model(model, home, extra={}, card=""),
        lambda: keep_model(source, home.parent),
    ):
        with pytest.raises(ValueError, match=rf"{home} is no model of ours.*move"):
            write()
    assert [path.name for path in home.iterdir()] == ["thesis"]


# --- what a stranger's folder may say ---------------------------------------------------------

#: Changes of config.json, and what the error says beside its name.
SETTINGS = [
    ({"architecture": "../../evil"}, "architecture is '../../evil', unknown to timm"),
    ({"architecture": ["resnet18"]}, ""),
    ({"architecture": "hf-hub:evil/model"}, "hf-hub.*unknown"),
    ({"architecture": "resnet18"}, "weights"),
    ({"num_classes": 10**9}, "num_classes.*2 to 2"),
    ({"model_args": {"num_classes": 10**9}}, "num_classes.*2 to 2"),
    ({"model_args": {"depth_multiplier": 1000}}, "depth_multiplier.*accepted.*img_size"),
    ({"model_args": {"checkpoint_path": "x.pth"}}, "checkpoint_path"),
    ({"model_args": {"pretrained": True}}, "pretrained"),
    ({"model_args": {"global_pool": {"x": 1}}}, ""),
    ({"model_args": 5}, ""),
    ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "input_size.*16 to 1024"),
    ({"pretrained_cfg": {"input_size": [3, 32]}}, "three numbers"),
    ({"pretrained_cfg": {"input_size": [10**9, 32, 32]}}, "in_chans"),
    ({"pretrained_cfg": {"std": [0, 1, 1]}}, r"std.*0\.001"),
    ({"pretrained_cfg": {"mean": [float("nan")] * 3}}, "mean"),
    ({"pretrained_cfg": {"mean": "abc"}}, "mean"),
    ({"pretrained_cfg": {"of_the_future": 1}}, "of_the_future"),
    ({"pretrained_cfg": 5}, ""),
    ({EXTRA: {"prior": "half"}}, "prior.*0 to 1"),
    ({EXTRA: [1]}, ""),
    ({EXTRA: {"crop_recipe": {"factor": 1.0}}}, "factor.*0.1 to 0.95"),
    ({EXTRA: {"crop_recipe": 5}}, ""),
    ({"label_names": ["REAL"] * 1000}, "label_names"),
]


def merged(config, change):
    return {
        key: value | change[key] if isinstance(value, dict) and isinstance(change.get(key), dict)
        else change.get(key, value)
        for key, value in config.items()
    }  # fmt: skip


@pytest.mark.parametrize(("change", "said"), SETTINGS)
def test_settings_of_a_stranger_are_checked_before_anything_is_built(
    folder, monkeypatch, change, said
):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(merged({"model_args": {}} | config, change)))
    create = timm.create_model

    def shapes_alone(*args, **options):
        assert torch.empty(0).device.type == "meta"
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", shapes_alone)
    with pytest.raises(ValueError, match=rf"(config\.json|model\.safetensors).*{said}"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[]", "5", "{", "[" * 200_000, '{"architecture": "resnet18"}'])
def test_config_that_is_none_is_refused_by_name(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(folder)


def test_no_other_file_that_the_settings_name_is_read(folder, model, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save({"x": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    named = {"file": str(tmp_path / "trap.pth"), "url": "http://127.0.0.1:9/x.pth",
             "hf_hub_id": "evil/model", "source": "hf-hub", "custom_load": "hf"}  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(merged(config, {"pretrained_cfg": named})))
    assert torch.equal(outputs(load_model(folder)[0], images), outputs(model, images))
    assert not (tmp_path / "sprung").exists()


def test_weights_that_are_not_finite_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["conv_stem.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors.*not finite"):
        load_model(folder)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def test_what_we_save_passes_the_checks(tmp_path, name):
    model = build_model(name, image_size=64, pretrained=False)
    load_model(save_model(model, tmp_path / "model", extra={}, card=""))


def repacked(path):
    """The same members, deflated."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_weights_that_are_compressed_are_not_unpacked(tmp_path, backbone):
    torch.save(backbone, tmp_path / "weights.pth")
    repacked(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth.*compressed"):
        build_model(NAME, image_size=32, weights=str(tmp_path / "weights.pth"))


def test_card_adds_no_markup_of_the_facts():
    card = model_card({"data": "a|b <b> [x](http://evil)"})
    assert "| data | a\\|b &lt;b&gt; \\[x\\](http:<!-- -->//evil) |" in card
