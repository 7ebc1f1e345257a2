"""What describes the kernels is checked field by field, and staged as the client wants it."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import kaggle, kaggle_push
from tools.run import NOTEBOOKS
from utils.installing import EXTRAS, WHEELS


@pytest.fixture
def changed(tmp_path):
    """A copy of kaggle-metadata.json with one field changed, and what reading it says."""

    def read(change):
        described = json.loads(kaggle.METADATA.read_text())
        change(described)
        path = tmp_path / "kaggle-metadata.json"
        path.write_text(json.dumps(described))
        return kaggle.read_metadata(path)

    return read


def test_the_description_is_sound_and_names_the_notebooks_in_order():
    kernels = kaggle.read_metadata()["kernels"]
    assert [Path(kernel["code_file"]).stem for kernel in kernels] == list(NOTEBOOKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("utils"), "'utils' is a required property"),
        (lambda d: d.update(owner="no name"), r"owner: 'no name' does not match"),
        (lambda d: d.update(extra=1), "'extra' was unexpected"),
        (lambda d: d.update(repository="github.com/a/b"), "repository: "),
        (lambda d: d["kernels"][1].update(enable_gpu="yes"), r"kernels\[1\]\.enable_gpu: 'yes' is"),
        (lambda d: d["kernels"][2].update(title="02"), r"kernels\[2\]\.title: '02' is too short"),
        (lambda d: d["kernels"][2].pop("slug"), r"kernels\[2\]: 'slug' is a required"),
        (
            lambda d: d["kernels"][0].update(title="Other title"),
            r"kernels\[0\]\.slug: .*other-title",
        ),
        (
            lambda d: d["kernels"][1].update(kernel_sources=["deepfake-detection-03-train"]),
            r"kernels\[1\]\.kernel_sources: 'deepfake-detection-03-train' is no kernel above it",
        ),
        (
            lambda d: d["kernels"][3]["dataset_sources"].append("no-owner"),
            r"kernels\[3\]\.dataset_sources\[1\]: 'no-owner' does not match",
        ),
    ],
)
def test_a_wrong_field_is_named(changed, change, message):
    with pytest.raises(ValueError, match=rf"kaggle-metadata\.json: .*{message}"):
        changed(change)


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "kaggle-metadata.json").write_text("{")
    with pytest.raises(ValueError, match=r"kaggle-metadata\.json is not valid JSON"):
        kaggle.read_metadata(tmp_path / "kaggle-metadata.json")


def test_staged_folders_hold_what_the_client_reads(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "tiny_extra-1.0-py3-none-any.whl").write_bytes(b"wheel")
    folder = kaggle.stage(kaggle.read_metadata(owner="me"), tmp_path / "staged", wheels=wheels)
    dataset = folder / kaggle_push.UTILS_DATASET
    assert {path.name for path in dataset.iterdir()} - {"models"} == {
        "dataset-metadata.json",
        "LICENSE",
        "tiny_extra-1.0-py3-none-any.whl",
        "utils",
        "wheels.txt",
    }
    digest = hashlib.sha256(b"wheel").hexdigest()
    assert (dataset / WHEELS).read_text() == f"tiny_extra==1.0 --hash=sha256:{digest}\n"
    assert files(dataset / "utils") == files(kaggle.ROOT / "utils")
    assert json.loads((dataset / "dataset-metadata.json").read_text())["licenses"] == [
        {"name": "other"}
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [
            *(kernel["slug"] for kernel in kaggle.read_metadata()["kernels"]),
            kaggle_push.UTILS_DATASET,
        ]
    )
    home = folder / "deepfake-detection-04-evaluate"
    metadata = json.loads((home / "kernel-metadata.json").read_text())
    assert metadata["id"] == "me/deepfake-detection-04-evaluate"
    assert metadata["dataset_sources"][0] == "me/deepfake-detection-utils"
    assert metadata["kernel_sources"][-1] == "me/deepfake-detection-03-train"
    assert (home / metadata["code_file"]).read_bytes() == (
        kaggle.ROOT / "notebooks" / "04_evaluate.ipynb"
    ).read_bytes()
    assert "OWNER" not in json.dumps(metadata)


def files(folder):
    """Contents by name, without what Python leaves behind."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_a_detector_in_the_box_travels_and_nothing_of_tools_does(tmp_path, monkeypatch):
    root = tmp_path / "root"
    for name in ("utils/run/__init__.py", "models/first/model.safetensors", "tools/run.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    described = kaggle.read_metadata(owner="me") | {"kernels": []}
    monkeypatch.setattr(kaggle, "ROOT", root)
    kaggle.stage(described, tmp_path / "staged", wheels=tmp_path)
    staged = {str(name) for name in files(tmp_path / "staged" / kaggle_push.UTILS_DATASET)}
    assert staged == {
        "dataset-metadata.json",
        "models/first/model.safetensors",
        "utils/run/__init__.py",
        "wheels.txt",
    }


def test_staging_again_leaves_nothing_of_before(tmp_path):
    described = kaggle.read_metadata(owner="me")
    folder = kaggle.stage(described, tmp_path / "staged", wheels=tmp_path)
    (folder / "old").mkdir()
    kaggle.stage(described, folder, wheels=tmp_path)
    assert not (folder / "old").exists()


def test_a_folder_that_was_not_staged_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not ours to replace"):
        kaggle.stage(kaggle.read_metadata(owner="me"), tmp_path, wheels=tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_without_an_owner_nothing_is_staged(tmp_path):
    with pytest.raises(ValueError, match="say OWNER="):
        kaggle.stage(kaggle.read_metadata(), tmp_path / "staged", wheels=tmp_path)
    assert not (tmp_path / "staged").exists()


def test_of_each_wheel_one_version_is_staged(tmp_path, monkeypatch):
    """pip refuses a list that pins two, and the folder keeps what was fetched before."""

    def download(command, **options):
        (tmp_path / "av-2-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(command, 0)

    (tmp_path / "av-1-py3-none-any.whl").touch()
    monkeypatch.setattr(kaggle.subprocess, "run", download)
    kaggle.fetch_wheels(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["av-2-py3-none-any.whl"]


def test_what_is_installed_on_kaggle_is_what_the_requirements_ask_for():
    lines = (kaggle.ROOT / "requirements.txt").read_text().splitlines()
    listed = {Requirement(line) for line in lines if line and not line.startswith("#")}
    assert {Requirement(line) for line in EXTRAS.values()} <= listed


def copied(folder):
    """All that may name the address, in a folder of its own."""
    for name in ("notebooks", "docs"):
        shutil.copytree(kaggle.ROOT / name, folder / name)
    for name in ("README.md", "kaggle-metadata.json"):
        shutil.copyfile(kaggle.ROOT / name, folder / name)
    return folder


def test_no_badge_leads_nowhere():
    """While the address is nobody's there is none; after that each leads where the cells clone."""
    repository = kaggle.read_metadata()["repository"]
    for page in [*kaggle.ROOT.glob("*.md"), *kaggle.ROOT.glob("docs/*.md")]:
        assert "badge.svg" not in page.read_text()
    for notebook in NOTEBOOKS:
        text = (kaggle.ROOT / "notebooks" / f"{notebook}.ipynb").read_text()
        assert f'REPOSITORY = \\"{repository}\\"' in text
        assert text.count(".svg") == (0 if f"/{kaggle.NOBODY}/" in repository else 2)


def test_a_new_address_reaches_every_place_and_can_be_taken_back(tmp_path):
    root, address = copied(tmp_path), "https://github.com/me/fakes"
    (root / "README.md").write_text(f"OWNER stays; {kaggle.read_metadata()['repository']} changes")
    files = [page for page in root.rglob("*") if page.suffix in (".md", ".json", ".ipynb")]
    before = {page: page.read_bytes() for page in files}
    changed = kaggle.set_address(address + ".git", root)
    names = {page.name for page in changed}
    assert names == {"README.md", "kaggle-metadata.json", *(f"{name}.ipynb" for name in NOTEBOOKS)}
    assert (root / "README.md").read_text() == f"OWNER stays; {address} changes"
    assert kaggle.read_metadata(root / "kaggle-metadata.json", owner="me")["repository"] == address
    for name in NOTEBOOKS:
        text = (root / "notebooks" / f"{name}.ipynb").read_text()
        file = f"me/fakes/blob/main/notebooks/{name}.ipynb"
        assert f'REPOSITORY = \\"{address}\\"' in text
        assert f"https://colab.research.google.com/github/{file}" in text
        assert f"https://kaggle.com/kernels/welcome?src=https://github.com/{file}" in text
        assert "OWNER/deepfake" not in text
    assert kaggle.set_address(address, root) == []
    kaggle.set_address("https://github.com/OWNER/deepfake-detection-notebooks", root)
    assert {page: page.read_bytes() for page in files} == before


@pytest.mark.parametrize(
    "address", ["", "me/fakes", "https://gitlab.com/me/fakes", "https://github.com/me"]
)
def test_what_is_no_repository_on_github_is_refused(tmp_path, address):
    with pytest.raises(ValueError, match=r"not https://github\.com/<owner>/<name>"):
        kaggle.set_address(address, copied(tmp_path))
