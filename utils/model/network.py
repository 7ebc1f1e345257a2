"""Build, save and load the network: any timm image model, in timm's model folder format."""

from __future__ import annotations

import copy
import difflib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import build_opener

import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from timm.models import load_state_dict, save_for_hf
from torch.nn.utils.fusion import fuse_conv_bn_weights

from utils.faces.detection import DRAWN, CropRecipe
from utils.report.words import escaped
from utils.run.artifacts import CLASSES, check_number, find_all, find_artifact, read_any_json
from utils.run.machine import input_roots, inside, output_folder

#: Key of config.json under which this project keeps what timm has no field for.
EXTRA = "deepfake_detection"
#: Where a detector lies that comes with the project.
BOX = Path(__file__).resolve().parents[2] / "models"
#: Seconds in which the hub of pretrained weights has to answer.
REACH_S = 10
#: What makes a folder a model folder.
FILES = ("config.json", "model.safetensors")
#: What config.json may set, and in which range. Other arguments could build without end.
RANGES = {"num_classes": (2, 2), "in_chans": (3, 3), "img_size": (16, 1024), "std": (0.001, 10)}
RANGES |= {"mean": (-10, 10), "input_size": (16, 1024), "prior": (0, 1)}


def build_model(
    name: str, *, image_size: int, pretrained: bool = True, weights: str = ""
) -> torch.nn.Module:
    """Create a classifier with two outputs, REAL and FAKE.

    The preprocessing that the model was trained with goes into its `pretrained_cfg`, and so with
    it wherever it is saved: the whole crop squeezed to `image_size`, normalised with the model's
    own mean and std (0.5 for EfficientNetV2, not ImageNet's).

    Args:
        name: timm name, such as "tf_efficientnetv2_s.in1k".
        image_size: side of the square input in pixels.
        pretrained: start from timm's ImageNet weights.
        weights: a local file of such weights, or a folder that holds one, for machines without
            internet; or a model folder of this project, also by its name in BOX, whose classifier
            is kept too unless its model.safetensors is named. Nothing is unpickled.
    Raises:
        ValueError: unknown name, or the weights cannot be had; says how to attach them.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models())
        raise ValueError(f"timm has no model {name!r}; similar: {', '.join(near) or 'none'}")
    config: dict[str, Any] = {
        "input_size": (3, image_size, image_size),
        "test_input_size": None,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    if weights:
        named = Path(weights).expanduser()
        named = named if named.exists() else BOX / named
        file = _weights_file(named, weights)
        if file.name == FILES[1] and _is_ours(file.parent):
            model, _ = load_model(file.parent)
            known = model.pretrained_cfg["architecture"]  # type: ignore[index]
            if name.split(".")[0] != known:
                raise ValueError(f"WEIGHTS {weights!r} is a trained {known}: set MODEL_NAME to it")
            model.pretrained_cfg |= config  # type: ignore[operator, assignment]
            if file == named:
                _reset_head(model)
            return model.train()
        config["state_dict"] = _read_weights(file)
    options: dict[str, Any] = {"num_classes": len(CLASSES), "pretrained_cfg_overlay": config}
    rng_state = torch.get_rng_state()
    try:
        with nullcontext() if weights or not pretrained else _hub_in_time():
            model = timm.create_model(name, pretrained=pretrained or bool(weights), **options)
    # The hub client, the HTTP library and safetensors each raise errors of their own.
    except Exception as error:
        if not (pretrained or weights):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        source = weights or "the Hugging Face hub"
        raise ValueError(
            f"no pretrained weights for {name} from {source}: {reason}. Switch the internet on, "
            "or attach them (on Kaggle: Add Input > Models, timm) and set WEIGHTS to their file or "
            "folder, or set PRETRAINED=False to start from random weights (which needs far more "
            "data)."
        ) from error
    if weights:
        torch.set_rng_state(rng_state)
        _check_loaded(model, timm.create_model(name, pretrained=False, **options), weights)
        # config.json is no place for tensors.
        model.pretrained_cfg.pop("state_dict")  # type: ignore[operator, union-attr]
    _reset_head(model)
    return model


def _reset_head(model: torch.nn.Module) -> None:
    """A head near zero says "I do not know".

    timm's is drawn for 1,000 classes: with two, the first losses are about ten times ln 2, and Adam
    spends its first epochs on undoing them.
    """
    for layer in model.get_classifier().modules():  # type: ignore[operator]
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.01)
            torch.nn.init.zeros_(layer.bias)


@contextmanager
def _hub_in_time() -> Iterator[None]:
    """Where the hub does not answer within REACH_S, take what was downloaded before, or nothing.

    Its client tries again for minutes, behind a proxy that swallows packets for ten and more.
    """
    offline = constants.HF_HUB_OFFLINE
    try:
        build_opener().open(constants.ENDPOINT, timeout=REACH_S).close()
    except HTTPError:  # an answer
        pass
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _weights_file(path: Path, weights: str) -> Path:
    """The file of weights that a path names: itself, or the one in that folder."""
    if path.is_file():
        return path
    for pattern in ("model.safetensors", "*.safetensors", "*.pth", "*.pt", "*.bin"):
        found = sorted(path.glob(pattern)) if path.is_dir() else []
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise ValueError(f"WEIGHTS {weights!r} holds several files ({names}): name one")
    raise ValueError(f"WEIGHTS {weights!r} is no file, and no folder that holds weights")


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a model folder of this project."""
    config = folder / FILES[0]
    return config.is_file() and f'"{EXTRA}"' in config.read_text("utf-8", "replace")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name out of a file of weights."""
    try:
        if zipfile.is_zipfile(path):
            check_stored(path)
        return load_state_dict(str(path), weights_only=True)
    # safetensors, the zip reader and the safe unpickler each raise errors of their own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"WEIGHTS {str(path)!r} cannot be read as weights: {reason}") from error


def check_stored(path: Path) -> None:
    """Refuse a zip that is damaged or unpacks to more than itself: torch compresses nothing.

    Raises ValueError; zipfile.BadZipFile if it is none.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError(f"{path} is compressed, which no file of torch is")
        if broken := archive.testzip():
            raise ValueError(f"{path} is damaged (checksum of {broken})")


def _check_loaded(model: torch.nn.Module, untrained: torch.nn.Module, weights: str) -> None:
    """Refuse weights that timm passed over: it tolerates missing names, for the head is new.

    `untrained` is the model's twin of the same random numbers, before loading.
    """
    head = {id(parameter) for parameter in model.get_classifier().parameters()}  # type: ignore[operator]
    for (name, loaded), random in zip(model.named_parameters(), untrained.parameters()):
        # Biases and norms start as constants, which trained ones may equal.
        if loaded.ndim > 1 and id(loaded) not in head and torch.equal(loaded, random):
            raise ValueError(
                f"WEIGHTS {weights!r} holds no {name}: it is a file of another network, or its "
                "names are not timm's"
            )


def save_model(
    model: torch.nn.Module, folder: str | Path, *, extra: Mapping[str, Any], card: str
) -> Path:
    """Write the model folder: safetensors, config.json and the model card, all or nothing.

    `timm.create_model("local-dir:<folder>", pretrained=True)` loads it without this project. A
    folder that stands there is replaced, its decision.json too: it was chosen for other weights.
    `extra`, facts that timm has no field for, goes into config.json, `card` into README.md.
    """
    folder = check_ours(Path(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A temporary folder is private; what replaces the model folder must be readable like it.
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".model-"))
    staged, old = temporary / "model", temporary / "old"
    try:
        # Training leaves the channels last, which safetensors does not take.
        model = model.to(memory_format=torch.contiguous_format)
        facts = {"label_names": list(CLASSES), EXTRA: dict(extra)}
        save_for_hf(model, str(staged), model_config=facts, safe_serialization=True)
        (staged / "README.md").write_text(card, encoding="utf-8")
        (staged / FILES[1]).chmod((staged / "README.md").stat().st_mode)  # safetensors' are private
        if folder.exists():
            folder.rename(old)
        try:
            staged.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def find_model(model: str | Path = "", output: str | Path = "") -> Path:
    """Find a model folder: the one that is named, else that of OUTPUT, else an attached one.

    A folder may hold `model/` or be it, also as a data set or a model of Kaggle. Of attached ones
    with the same weights those that were evaluated come first.

    Raises:
        FileNotFoundError: there is none; says which notebook writes it and how to attach it.
        ValueError: different ones are attached.
    """
    if model:
        return _inside(Path(model).expanduser())
    output = Path(output or output_folder()).expanduser()
    attached = map(_inside, input_roots())
    judged = sorted(attached, key=lambda folder: not (folder / "decision.json").is_file())
    found = find_all(FILES, [output / "model"], judged)
    return found or find_artifact("model/config.json", output) / "model"  # says what is missing


def choose_model(model: str | Path = "", output: str | Path = "") -> Path:
    """The model that is to judge: as `find_model`, else one that comes with the project, in BOX.

    That goes before a model that has seen drawn faces alone, too, unless such a one is named.
    """
    box = [config.parent for config in sorted(BOX.glob(f"*/{FILES[0]}"))]
    try:
        found = find_model(model, output)
    except FileNotFoundError:
        if model or not box:
            raise
        return box[0]
    if model or not box:
        return found
    config = read_any_json(found / FILES[0])
    facts = config.get(EXTRA) if isinstance(config, dict) else None
    drawn = isinstance(facts, dict) and facts.get("faces") == DRAWN
    return box[0] if drawn else found


def _inside(folder: Path) -> Path:
    """`folder / "model"` where that is the model and `folder` is not."""
    inner = folder / "model"
    return inner if (inner / FILES[0]).is_file() and not (folder / FILES[0]).is_file() else folder


def load_model(folder: str | Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, in eval mode on the CPU, and the `extra` of its folder; nothing is unpickled.

    Raises:
        FileNotFoundError: config.json or model.safetensors is missing.
        ValueError: the folder is no deepfake model of two classes, or its weights are damaged.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; 03_train writes the model folder: run it, or on "
                "Kaggle attach its output"
            )
    config = read_any_json(folder / FILES[0])
    try:
        _check_config(config)
        with torch.device("meta"):  # shapes alone
            model = timm.create_model(f"local-dir:{folder}", pretrained=False)
    # What timm says of settings of the wrong type is its own affair.
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{folder / FILES[0]} is no model of ours: {reason}") from error
    try:
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        with safe_open(folder / FILES[1], "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
        if odd := [n for n in shapes | found if shapes.get(n) != found.get(n)]:
            raise RuntimeError(f"{odd[0]}: {found.get(odd[0])} instead of {shapes.get(odd[0])}")
        # Not timm's own search for weights: some versions prefer a pickle that lies in the folder.
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
        model.load_state_dict(weights := load_file(folder / FILES[1]))
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise RuntimeError("some are not finite")
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder / 'model.safetensors'} does not hold the weights of this model ({reason}); "
            "run 03_train again or attach its output anew"
        ) from error
    return model.eval(), config.get(EXTRA, {})


def _check_config(config: Mapping[str, Any]) -> None:
    """Refuse settings that make no model of ours. Raises ValueError; of wrong types any error."""
    extra = config.get(EXTRA, {})
    if config.get("label_names") != list(CLASSES):
        raise ValueError(f"label_names are {config.get('label_names')!r:.60}, not {CLASSES}")
    if not timm.is_model(config["architecture"]):
        raise ValueError(f"architecture is {config['architecture']!r:.60}, unknown to timm")
    size, mean, std = (config["pretrained_cfg"][name] for name in ("input_size", "mean", "std"))
    if not len(size) == len(mean) == len(std) == 3:
        raise ValueError("input_size, mean and std must be three numbers each")
    settings = {"mean": mean, "std": std, "in_chans": size[0], "input_size": size[1:]}
    settings |= {"num_classes": config.get("num_classes"), "prior": extra.get("prior", 0.5)}
    arguments = dict(config.get("model_args", {}))
    arguments.pop("global_pool", None)  # a word, and timm knows them all
    for name, value in (*settings.items(), *arguments.items()):
        if name not in RANGES:
            raise ValueError(f"model_args has {name!r:.60}; accepted: {', '.join(RANGES)}")
        for number in value if isinstance(value, list) else [value]:
            check_number(name, number, *RANGES[name])
    if (recipe := extra.get("crop_recipe", {})) is not None:  # None: whole images
        CropRecipe.from_dict(recipe)


def model_card(facts: Mapping[str, Any]) -> str:
    """README.md of the model folder: what it is, how it was made, what it must not be used for."""
    rows = "\n".join(f"| {escaped(key)} | {escaped(value)} |" for key, value in facts.items())
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags: [deepfake-detection, image-classification, timm]
---
# Face crop → REAL or FAKE

A binary classifier of face crops. `softmax` of its two outputs gives P(REAL), P(FAKE); the
calibrated probability and the decision rule are in `decision.json` once it was evaluated.

```python
import timm

model = timm.create_model("local-dir:<this folder>", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

| fact | value |
|---|---|
{rows}

## Use it for
Sorting and studying material that looks like its training data: faces cut by the same recipe.

## Do not use it for
Proof against or for a person, in court or in public. It knows the kinds of fakes that it was
trained on; new generators, strong compression and other cameras can defeat it without notice.
"""


def fold_batch_norms(network: torch.nn.Module) -> torch.nn.Module:
    """A copy whose batch norms are put into the convolutions before them: the same logits, sooner.

    Before is what was registered before, which in EfficientNets is what the data passes before.
    Where it is not, the logits of the copy differ, and the network itself is given back.
    """
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()):
        return network
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        before: torch.nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Identity):
                continue
            if (
                isinstance(child, torch.nn.BatchNorm2d)
                and isinstance(before, torch.nn.Conv2d)
                and before.out_channels == child.num_features
            ):
                mean, variance = child.running_mean, child.running_var
                assert mean is not None and variance is not None
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight, before.bias, mean, variance, child.eps, child.weight, child.bias
                )
                # What a norm of timm does besides, its activation, stays.
                parent.add_module(name, getattr(child, "act", torch.nn.Identity()))
            before = child
    size = resolve_model_data_config(network)["input_size"]
    images = 2 * torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) - 1
    with torch.inference_mode():
        same = torch.allclose(folded(images), network(images), rtol=1e-4, atol=1e-4)
    return folded if same else network


def keep_model(folder: str | Path, output: str | Path) -> Path:
    """Copy an attached model to OUTPUT's `model/`, where its decision can be written too."""
    folder, home = Path(folder), Path(output) / "model"
    if folder.resolve() != home.resolve():
        check_ours(home).mkdir(parents=True, exist_ok=True)
        for name in (*FILES, "README.md"):
            # FILES were read as a model; a link of the other may lead anywhere.
            if name in FILES or ((folder / name).is_file() and inside(folder / name, folder)):
                shutil.copyfile(folder / name, home / name)
    return home


def check_ours(home: Path) -> Path:
    """`home`, a place for a model folder. Raises ValueError where it holds anything but ours."""
    full = any(home.iterdir()) if home.is_dir() else home.exists()
    if full and not _is_ours(home):
        raise ValueError(f"{home} is no model of ours and would be replaced: move it away")
    return home
