"""The notebooks as Kaggle kernels, and what they import as a data set: `make kaggle-push`."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from tools.kaggle_push import UTILS_DATASET, KaggleError, describe_push, push
from utils.installing import EXTRAS, WHEELS

ROOT = Path(__file__).resolve().parent.parent
METADATA = ROOT / "kaggle-metadata.json"
SCHEMA = Path(__file__).with_name("kaggle-schema.json")
STAGED = Path("build/kaggle")
#: What goes into the data set, where it is there: folders and a file.
CONTENT = ("utils", "models", "LICENSE")
#: Stands for a user's name until one is given.
NOBODY = "OWNER"
#: Below the title of a notebook; takes its address on GitHub, and the same without the host.
BADGES = (
    "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src={}) "
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{})"
)
#: What Kaggle's image runs, so which wheels it takes.
PYTHON = "3.12"
PLATFORMS = ("--platform=manylinux_2_28_x86_64", "--platform=any")


def read_metadata(path: str | Path = METADATA, *, owner: str = "") -> dict[str, Any]:
    """Read `kaggle-metadata.json` and check it against its schema.

    Args:
        path: the file.
        owner: a name on Kaggle, in place of the file's.
    Raises:
        ValueError: names the field that is wrong, or says that no owner is named.
    """
    path = Path(path)
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if owner and isinstance(described, dict):
        described["owner"] = owner
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    wrong = best_match(Draft202012Validator(schema).iter_errors(described))
    if wrong is not None:
        raise ValueError(f"{path.name}: {wrong.json_path.removeprefix('$.')}: {wrong.message}")
    earlier: set[str] = set()
    for number, kernel in enumerate(described["kernels"]):
        field = f"{path.name}: kernels[{number}]"
        if slugify(kernel["title"]) != kernel["slug"]:
            raise ValueError(
                f"{field}.slug: {kernel['slug']!r} is not what Kaggle makes of the title, "
                f"{slugify(kernel['title'])!r}"
            )
        if unknown := set(kernel["kernel_sources"]) - earlier:
            raise ValueError(f"{field}.kernel_sources: {unknown.pop()!r} is no kernel above it")
        if kernel["slug"] in earlier:
            raise ValueError(f"{field}.slug: {kernel['slug']!r} occurs twice")
        earlier.add(kernel["slug"])
    return described


def slugify(title: str) -> str:
    """What Kaggle makes of a title in an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def fetch_wheels(folder: str | Path, *, python: str = PYTHON) -> Path:
    """Fetch the wheels of what Kaggle's image lacks.

    Args:
        folder: where they go; wheels of before are deleted, for each has one version.
        python: the version that they are for, as "3.12".
    Returns:
        `folder`.
    Raises:
        ValueError: pip could not; says why.
    """
    for before in Path(folder).glob("*.whl"):
        before.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORMS]
    command += [f"--python-version={python}", "--only-binary=:all:", f"--dest={folder}"]
    command += EXTRAS.values()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ValueError(f"no wheels for the kernels without internet: {reason}")
    return Path(folder)


def stage(described: dict[str, Any], folder: str | Path, *, wheels: str | Path) -> Path:
    """Write one folder a kernel, and the data set that they all attach, ready to push.

    Args:
        described: of `read_metadata`, with an owner.
        folder: replaced as a whole.
        wheels: folder of `fetch_wheels`.
    Returns:
        `folder`.
    Raises:
        ValueError: there is no owner, or the folder is not one that was staged before.
        FileNotFoundError: a notebook is missing.
    """
    folder = Path(folder)
    if described["owner"] == NOBODY:
        raise ValueError('no owner: say OWNER=<your name on Kaggle>, or set "owner" in the file')
    if folder.exists() and any(folder.iterdir()) and not (folder / UTILS_DATASET).is_dir():
        raise ValueError(f"{folder} is not ours to replace: move it, or name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    _stage_dataset(described, folder / UTILS_DATASET, Path(wheels))
    for kernel in described["kernels"]:
        metadata = kernel_metadata(described, kernel)
        home = folder / kernel["slug"]
        home.mkdir(parents=True)
        shutil.copy(ROOT / kernel["code_file"], home / metadata["code_file"])
        _write(metadata, home / "kernel-metadata.json")
    return folder


def kernel_metadata(described: dict[str, Any], kernel: dict[str, Any]) -> dict[str, Any]:
    """What the client reads for one kernel, with the owner in all names and `utils` attached."""
    owner, utils = described["owner"], described["utils"]["slug"]
    metadata = {
        "id": f"{owner}/{kernel['slug']}",
        "title": kernel["title"],
        "code_file": Path(kernel["code_file"]).name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": kernel["enable_gpu"],
        "enable_tpu": False,
        "enable_internet": kernel["enable_internet"],
        "keywords": [],
        "dataset_sources": [f"{owner}/{utils}", *kernel["dataset_sources"]],
        "competition_sources": kernel["competition_sources"],
        "kernel_sources": [f"{owner}/{slug}" for slug in kernel["kernel_sources"]],
        "model_sources": kernel["model_sources"],
    }
    return metadata | ({"machine_shape": kernel["machine_shape"]} if kernel["enable_gpu"] else {})


def _stage_dataset(described: dict[str, Any], folder: Path, wheels: Path) -> None:
    """`CONTENT` as it is, wheels and their hashes, and what Kaggle must know of the data set."""
    utils, files = described["utils"], sorted(wheels.glob("*.whl"))
    folder.mkdir(parents=True)
    (folder / WHEELS).write_text("".join(map(_pin, files)), encoding="utf-8")
    for path in [*(ROOT / name for name in CONTENT), *files]:
        if path.is_dir():
            hidden = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(path, folder / path.name, ignore=hidden)
        elif path.is_file():
            shutil.copy(path, folder)
    metadata = {
        "id": f"{described['owner']}/{utils['slug']}",
        "title": utils["title"],
        "licenses": [{"name": utils["licence"]}],
        "description": utils["description"],
    }
    _write(metadata, folder / "dataset-metadata.json")


def _pin(wheel: Path) -> str:
    """The line of a requirements file that takes this wheel and no other."""
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _write(metadata: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def set_address(repository: str, root: Path = ROOT) -> list[Path]:
    """Put the public address of the repository into all places that name it.

    They are kaggle-metadata.json, the cell of the notebooks that clones, their badges, and pages.
    While the address is nobody's, notebooks have no badge: it would lead nowhere.

    Args:
        repository: such as https://github.com/me/fakes; badges lead to GitHub alone.
        root: of the repository.
    Returns:
        The files that changed.
    Raises:
        ValueError: it is no address of a repository on GitHub.
    """
    repository = repository.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"REPOSITORY is {repository!r}, not https://github.com/<owner>/<name>")
    metadata = root / METADATA.name
    old = json.loads(metadata.read_text(encoding="utf-8"))["repository"]
    pages = [metadata, root / "README.md", *root.glob("docs/*.md"), *root.glob("notebooks/*.ipynb")]
    changed = []
    for page in sorted(pages):
        text = page.read_text(encoding="utf-8")
        new = text
        for name in (old, old.removeprefix("https://github.com/")):
            new = new.replace(name, repository.removeprefix(old.removesuffix(name)))
        if page.suffix == ".ipynb":
            new = _with_badges(new, f"{repository}/blob/main/notebooks/{page.name}")
        if new != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


def _with_badges(text: str, address: str) -> str:
    """A notebook with the badges that open `address` below its title; with none of nobody's."""
    notebook = json.loads(text)
    first = notebook["cells"][0]
    bare = re.sub(r"\[!\[Open in Kaggle.*\n\n", "", "".join(first["source"]))
    parts = bare.split("\n\n", 1)  # the title, and the rest
    if f"/{NOBODY}/" not in address:
        parts.insert(1, BADGES.format(address, address.removeprefix("https://github.com/")))
    first["source"] = "\n\n".join(parts).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; returns 0, 1 (Kaggle refused or a kernel failed) or 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.kaggle",
        description="The notebooks as private kernels of your own on Kaggle (docs/push.md).",
    )
    parser.add_argument(
        "command",
        choices=("stage", "push", "address"),
        help=f"stage: write {STAGED}, asking nobody; push: stage, push and run in order; address: "
        "put the address of your copy on GitHub wherever it is named",
    )
    parser.add_argument(
        "--owner", default="", help=f'your name on Kaggle ("{NOBODY}" is nobody\'s)'
    )
    parser.add_argument("--repository", default="", help="https://github.com/<owner>/<name>")
    parser.add_argument(
        "--dry-run", action="store_true", help="stage, and say what a push would do"
    )
    args = parser.parse_args(argv)
    try:
        if args.command == "address":
            for page in set_address(args.repository):
                print(f"changed {page.relative_to(ROOT)}")
            return 0
        described = read_metadata(owner=args.owner)
        wheels = fetch_wheels(STAGED.with_name("wheels"))
        folder = stage(described, STAGED, wheels=wheels)
        print(f"staged in {folder}: {len(described['kernels'])} kernels and {UTILS_DATASET}")
        if args.command == "stage":
            return 0
        if args.dry_run:
            print("\n".join(describe_push(folder)))
            return 0
        results = push(folder, say=lambda text: print(text, flush=True))
    except KaggleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what was pushed goes on running on Kaggle", file=sys.stderr)
        return 130
    return int(set(results.values()) != {"complete"})


if __name__ == "__main__":
    sys.exit(main())
