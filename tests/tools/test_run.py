"""The runner: order, refusals before anything starts, typed overrides, failures, the demo data."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command
from papermill.translators import translate_parameters

from tools import run
from tools.parameters import checked_parameters, notebook_parameters, parse_overrides
from tools.run import NOTEBOOKS, NotebookError, main, run_pipeline

PARAMETERS = """DATA = ""  # where to read
OUTPUT = ""  # where to write
EPOCHS = 3
RATE = 0.1
SHUFFLE = True
MODEL = "small"
KINDS = ["jpeg"]
SIZES = [1, 2]
LIMIT = None
DIVISOR = 1
PATHS = []
CHANGES = {"kept": 1}
"""
RECORD = """import json, os, sys
with open(OUTPUT + "/calls.jsonl", "a") as calls:
    json.dump({"name": "NAME", "data": DATA, "epochs": EPOCHS, "kinds": KINDS,
               "python": sys.executable, "backend": os.environ["MPLBACKEND"]}, calls)
    calls.write("\\n")
"""
METRICS = """with open(OUTPUT + "/metrics.json", "w") as file:
    auc = {"roc_auc": {"value": 0.871, "low": 0.79, "high": 0.93}}
    keys = ["frame", "baselines", "robustness", "slices"]
    more = {"threshold": 0.47, "threshold_rule": "balanced_accuracy", "temperature": 1.3}
    json.dump(dict.fromkeys(keys, {}) | {"video": auc} | more, file)
"""


def notebook(*sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project") / "notebooks"
    folder.mkdir()
    for name in NOTEBOOKS:
        own = "ONLY_HERE = 0" if name == "01_explore_data" else ""
        sources = [PARAMETERS + own, RECORD.replace("NAME", name), "# divides\n1 / DIVISOR"]
        sources += [METRICS] if name == "04_evaluate" else []
        nbformat.write(notebook(*sources), folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw videos")
    (folder / "metadata.json").write_text(
        '{"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE"}}'
    )
    for name in "ab":
        (folder / f"{name}.mp4").touch()
    return folder


@pytest.fixture
def crops(tmp_path):
    for label in ("real", "fake"):
        (tmp_path / "crops" / label).mkdir(parents=True)
    return tmp_path / "crops"


@pytest.fixture
def executed(monkeypatch):
    """Replace the kernels: what would run, with which parameters."""
    runs = {}
    monkeypatch.setattr(
        run,
        "_execute",
        lambda path, copy, parameters, *, title: runs.update({path.stem: parameters}),
    )
    return runs


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """Replace the drawing: returns the list of calls and the file of the demo's overrides."""
    calls = []

    def draw(folder, **arguments):
        calls.append(arguments)
        folder.mkdir()
        (folder / f"{len(calls)}.mp4").touch()

    config = tmp_path / "demo.json"
    config.write_text('{"demo_data": {"seed": 0}, "03_train": {"EPOCHS": 2, "RATE": 0.5}}')
    monkeypatch.setattr(run, "DEMO", config)
    monkeypatch.setattr(run, "draw_demo", draw)
    return calls, config


@pytest.fixture(scope="module")
def full_run(notebooks, videos, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "run"
    overrides = {"03_train": {"EPOCHS": "5", "KINDS": "blur"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        run_pipeline(videos, output, overrides, notebooks=notebooks)
    calls = [json.loads(line) for line in (output / "calls.jsonl").read_text().splitlines()]
    return output, calls


def test_notebooks_run_in_order_and_leave_executed_copies(full_run):
    output, calls = full_run
    assert [call["name"] for call in calls] == list(NOTEBOOKS)
    assert sorted(path.stem for path in (output / "notebooks").iterdir()) == list(NOTEBOOKS)


def test_overrides_reach_their_notebook_only(full_run):
    epochs = {call["name"]: (call["epochs"], call["kinds"]) for call in full_run[1]}
    assert epochs.pop("03_train") == (5, ["blur"])
    assert set(map(str, epochs.values())) == {"(3, ['jpeg'])"}


def test_raw_videos_go_to_00_and_05_and_their_faces_to_the_rest(full_run, videos):
    output, calls = full_run
    data = [call["data"] for call in calls]
    assert data == [str(videos), *[str(output / "faces")] * 4, str(videos)]


def test_kernels_are_of_this_interpreter_and_keep_figures(full_run):
    assert {call["python"] for call in full_run[1]} == {sys.executable}
    assert {call["backend"] for call in full_run[1]} == {
        "module://matplotlib_inline.backend_inline"
    }


@pytest.mark.parametrize(
    "settings",
    [["03_train.EPOCHS=2 02_augment.SEED=1"], ["03_train.EPOCHS=2", "02_augment.SEED=1"]],
)
def test_set_takes_one_text_or_several(settings, monkeypatch):
    seen = []

    def record(data, output, overrides, start, stop):
        seen.append(overrides)
        raise ValueError("seen")

    monkeypatch.setattr(run, "run_pipeline", record)
    assert main(["--set", *settings, "--data", "x"]) == 2
    assert seen == [{"03_train": {"EPOCHS": "2"}, "02_augment": {"SEED": "1"}}]


def test_summary_names_report_auc_threshold_and_model(full_run):
    lines = run._summary(full_run[0]).splitlines()
    assert lines[0].endswith("report.html")
    assert "0.871 (95% interval 0.790 to 0.930" in lines[1]
    assert "0.470, balanced_accuracy on val" in lines[2]
    assert lines[3].endswith("model")


def test_failure_is_told_in_three_lines_and_its_copy_is_kept(notebooks, crops, capsys, monkeypatch):
    output = crops.parent / "out"
    monkeypatch.setattr(run, "NOTEBOOK_FOLDER", notebooks)
    status = main(
        ["--data", str(crops), "--output", str(output), "--set", "01_explore_data.DIVISOR=0"]
    )
    error = capsys.readouterr().err
    copy = output / "notebooks" / "01_explore_data.ipynb"
    assert status == 1
    assert error.strip().splitlines() == [
        "error: 01_explore_data stopped in cell [4]: 1 / DIVISOR",
        "ZeroDivisionError: division by zero",
        f"executed copy: {copy}",
    ]
    assert "ZeroDivisionError" in copy.read_text()
    assert not (output / "notebooks" / "02_augment.ipynb").exists()


def test_a_relative_path_is_one_of_the_folder_that_the_caller_stands_in(
    crops, tmp_path, monkeypatch
):
    path = tmp_path / "notebooks" / "01_explore_data.ipynb"
    path.parent.mkdir()
    parameters = 'DATA = ""\nOUTPUT = ""\nSPLIT_TABLE = ""'
    nbformat.write(notebook(parameters, "open(SPLIT_TABLE).close()"), path)
    (tmp_path / "videos.csv").touch()
    monkeypatch.chdir(tmp_path)
    table = {path.stem: {"SPLIT_TABLE": "videos.csv"}}
    run_pipeline(crops, tmp_path / "out", table, stop=path.stem, notebooks=path.parent)


def test_dead_kernel_names_its_notebook(tmp_path, crops):
    path = tmp_path / "notebooks" / "01_explore_data.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook('DATA = ""\nOUTPUT = ""', "import os\nos._exit(1)"), path)
    with pytest.raises(NotebookError, match="01_explore_data stopped: its kernel died"):
        run_pipeline(crops, tmp_path / "out", stop=path.stem, notebooks=path.parent)
    assert (tmp_path / "out" / "notebooks" / path.name).is_file()


def test_a_kernel_that_does_not_start_is_a_sentence(notebooks, crops, tmp_path, monkeypatch):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(slow))
    monkeypatch.setattr(run, "START_S", 2)
    with pytest.raises(NotebookError, match=r"01_explore_data did not start .* run again"):
        run_pipeline(crops, tmp_path / "out", stop="01_explore_data", notebooks=notebooks)


def test_progress_of_a_notebook_arrives_while_it_runs_and_not_in_its_copy(crops, tmp_path):
    source = """from utils.run import jobs
jobs.TELL_EVERY = 0
list(jobs.Bar(range(3), "decode", unit="crop", mininterval=0))
jobs.tell("epoch 1 of 3")
"""
    path = tmp_path / "notebooks" / "01_explore_data.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook('DATA = ""\nOUTPUT = ""', source), path)
    code = (
        "import sys; from pathlib import Path; from tools.run import run_pipeline; "
        "run_pipeline(*sys.argv[1:3], stop='01_explore_data', notebooks=Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(crops), str(tmp_path / "out"), str(path.parent)]
    where = os.environ | {"PYTHONPATH": str(run.NOTEBOOK_FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=where)
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of 3\n" in done.stderr and "decode: " in done.stderr
    assert "\r" not in done.stderr + done.stdout
    copy = nbformat.read(tmp_path / "out" / "notebooks" / path.name, as_version=4)
    assert "epoch 1 of 3" not in str([cell.get("outputs") for cell in copy.cells])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {"03_trian": {"EPOCHS": 1}}}, "'03_trian', did you mean 03_train"),
        ({"overrides": {"03_train": {"EPOCH": 1}}}, "of 03_train .* 'EPOCH', did you mean EPOCHS"),
        (
            {"overrides": {"03_train": {"ONLY_HERE": 1}}},
            "03_train has no ONLY_HERE, .* of 01_explore",
        ),
        ({"overrides": {"03_train": {"EPOCHS": "x"}}}, "03_train.EPOCHS must be .* int .* not 'x'"),
        ({"overrides": {"03_train": {"EPOCHS": 1}}, "stop": "02_augment"}, "of this run"),
        ({"start": "04_evaluate", "stop": "03_train"}, "comes after"),
        ({"start": "evaluate"}, "did you mean 04_evaluate"),
        ({"start": "00_extract_faces"}, "holds face crops: start at 01_explore_data"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(
    arguments, message, notebooks, crops, executed, tmp_path
):
    output = tmp_path / "out"
    nbformat.write(notebook("of a user"), notebooks / "Untitled.ipynb")  # no parameters in it
    arguments = {"data": crops, "output": output, "notebooks": notebooks} | arguments
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_pipeline(**arguments)
    assert not executed
    assert not output.exists()


def test_mistake_is_refused_before_the_demo_is_drawn(demo, notebooks, executed, tmp_path):
    with pytest.raises(ValueError, match="SIZE"):
        run_pipeline(None, tmp_path / "out", {"05_inference": {"SIZE": 1}}, notebooks=notebooks)
    assert demo[0] == []
    assert not (tmp_path / "out").exists()


def test_missing_notebook_is_refused(notebooks, crops, executed, tmp_path):
    folder = tmp_path / "five"
    shutil.copytree(notebooks, folder)
    (folder / "04_evaluate.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match=r"04_evaluate\.ipynb is missing"):
        run_pipeline(crops, tmp_path / "out", notebooks=folder)
    assert not executed


def test_crops_start_at_01(notebooks, crops, executed, tmp_path):
    run_pipeline(crops, tmp_path / "out", notebooks=notebooks)
    assert list(executed) == list(NOTEBOOKS[1:])
    assert {run["DATA"] for run in executed.values()} == {str(crops)}


def test_raw_videos_and_crops_together_are_refused(notebooks, videos, crops, executed, tmp_path):
    shutil.copytree(videos, tmp_path / "raw")
    with pytest.raises(ValueError, match="mixes raw videos and face crops"):
        run_pipeline(tmp_path, tmp_path / "out", notebooks=notebooks)


def test_part_of_the_chain_needs_the_faces_of_00(notebooks, videos, executed, tmp_path):
    with pytest.raises(FileNotFoundError, match="00_extract_faces writes it"):
        run_pipeline(videos, tmp_path / "out", start="03_train", notebooks=notebooks)
    run_pipeline(videos, tmp_path / "out", start="05_inference", notebooks=notebooks)
    assert list(executed) == ["05_inference"]


def test_demo_overrides_hold_unless_set(demo, notebooks, executed, tmp_path):
    run_pipeline(None, tmp_path / "out", {"03_train": {"EPOCHS": "9"}}, notebooks=notebooks)
    assert list(executed) == list(NOTEBOOKS)
    assert (executed["03_train"]["EPOCHS"], executed["03_train"]["RATE"]) == (9, 0.5)
    assert executed["00_extract_faces"]["DATA"] == str(tmp_path / "out" / "demo_data")


def test_demo_is_drawn_again_only_for_other_arguments(demo, notebooks, executed, tmp_path):
    calls, config = demo
    for _ in range(2):
        run_pipeline(None, tmp_path / "out", notebooks=notebooks)
    assert calls == [{"seed": 0}]
    config.write_text('{"demo_data": {"seed": 1}}')
    run_pipeline(None, tmp_path / "out", notebooks=notebooks)
    assert calls == [{"seed": 0}, {"seed": 1}]
    drawn = [path.name for path in (tmp_path / "out" / "demo_data").glob("*.mp4")]
    assert drawn == ["2.mp4"]


def test_a_folder_that_the_demo_did_not_draw_is_left_alone(demo, notebooks, executed, tmp_path):
    mine = tmp_path / "out" / "demo_data" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(ValueError, match="not ours to replace"):
        run_pipeline(None, tmp_path / "out", notebooks=notebooks)
    assert mine.exists()
    assert demo[0] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("EPOCHS=7", 7),
        ("RATE=1", 1.0),
        ("RATE=1e-3", 0.001),
        ("SHUFFLE=false", False),
        ("MODEL=tf_efficientnetv2_s.in1k", "tf_efficientnetv2_s.in1k"),
        ("MODEL=160", "160"),
        ("'MODEL=two words'", "two words"),
        ("MODEL=", ""),
        ("KINDS=blur", ["blur"]),
        ("KINDS=['blur','jpeg']", ["blur", "jpeg"]),
        ("KINDS=[]", []),
        ("SIZES=[3,4]", [3, 4]),
        ("SIZES=3", [3]),
        ("LIMIT=None", None),
        ("LIMIT=12", 12),
        ("PATHS=['/a b','/c']", ["/a b", "/c"]),
        ("CHANGES.rate=3e-4", {"kept": 1, "rate": 0.0003}),
        ("CHANGES.kept=adamw", {"kept": "adamw"}),
        ("CHANGES.pairs=true", {"kept": 1, "pairs": True}),
        ("CHANGES.scale=[0.8,1]", {"kept": 1, "scale": [0.8, 1]}),
        ("CHANGES={'ema':0.99}", {"kept": 1, "ema": 0.99}),
        (
            "CHANGES={rate:3e-4,how:cosine,pairs:true}",
            {"kept": 1, "rate": 3e-4, "how": "cosine", "pairs": True},
        ),
        ("CHANGES={}", {"kept": 1}),
    ],
)
def test_text_takes_the_type_of_its_parameter(text, value, notebooks):
    overrides = parse_overrides(text.replace(text.strip("'"), "03_train." + text.strip("'")))
    (typed,) = checked_parameters(notebooks / "03_train.ipynb", overrides["03_train"]).values()
    assert typed == value
    assert type(typed) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EPOCHS", "2.5"),
        ("EPOCHS", True),
        ("EPOCHS", None),
        ("EPOCHS", "None"),
        ("RATE", "fast"),
        ("SHUFFLE", "maybe"),
        ("SHUFFLE", 1),
        ("MODEL", 3),
        ("MODEL", "None"),
        ("KINDS", [1]),
        ("KINDS", {"a": 1}),
        ("SIZES", "[1,two]"),
        ("PATHS", [["a"]]),
        ("PATHS", [{1, 2}]),
        ("CHANGES", "ema"),
        ("CHANGES", 3),
        ("CHANGES", {1: 2}),
        ("CHANGES", {"a": (1, 2)}),
        ("CHANGES", {"a": {"b": 1}}),
        ("CHANGES", {"a": [[1]]}),
        ("CHANGES", {"a": None}),
        ("CHANGES", {"a": Path("b")}),
        ("CHANGES.a", "{1, 2}"),
    ],
)
def test_wrong_types_are_refused(name, value, notebooks):
    with pytest.raises(ValueError, match=f"03_train.{name.split('.')[0]} must be of type"):
        checked_parameters(notebooks / "03_train.ipynb", {name: value})


def test_dictionaries_of_several_layers_merge_key_by_key_and_the_last_wins(notebooks):
    layers = ({"CHANGES": {"a": 1, "b": 2}}, {"CHANGES.b": "3"}, {"CHANGES": "{'c': 4}"})
    values = checked_parameters(notebooks / "03_train.ipynb", *layers)
    assert values == {"CHANGES": {"kept": 1, "a": 1, "b": 3, "c": 4}}


def test_a_key_of_what_is_no_dictionary_is_unknown(notebooks):
    with pytest.raises(ValueError, match=r"is called 'EPOCHS\.a'"):
        checked_parameters(notebooks / "03_train.ipynb", {"EPOCHS.a": "1"})


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("03_train", [{"CHANGES.learning_rat": "1"}], "03_train: .*did you mean learning_rate"),
        ("03_train", [{"CHANGES": {"ema": "0.9"}}], "03_train: ema '0.9' is not a number"),
        ("03_train", [{"CHANGES.ema": "1"}], r"03_train: ema 1 is not in \[0, 1\)"),
        ("03_train", [{"RECIPE": "best"}], "03_train: no recipe is called 'best'"),
        ("03_train", [{"PRECISION": "int8"}], "03_train: precision 'int8'"),
        ("02_augment", [{"CHANGES.flips": "1"}], "02_augment: .*did you mean flip"),
        ("02_augment", [{"CHANGES.flip": "2"}], "02_augment: flip 2 is not within 0 to 1"),
        ("02_augment", [{"CHANGES.crop_scale": "0.8"}], "02_augment: crop_scale 0.8 is not two"),
        ("02_augment", [{"POLICY": "strong"}], "02_augment: no policy is called 'strong'"),
    ],
)
def test_recipe_and_policy_refuse_before_anything_starts(name, layers, message):
    with pytest.raises(ValueError, match=message):
        checked_parameters(run.NOTEBOOK_FOLDER / f"{name}.ipynb", *layers)


def test_recipe_and_policy_take_what_they_know():
    values = checked_parameters(
        run.NOTEBOOK_FOLDER / "02_augment.ipynb",
        *({"POLICY": "robust"}, {"CHANGES.crop_scale": "[0.7,1]", "CHANGES.jpeg": "0"}),
    )
    assert values == {"POLICY": "robust", "CHANGES": {"crop_scale": [0.7, 1], "jpeg": 0}}


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["-y", "CHANGES: {ema: 0.99, optimizer: adamw, pairs: true}"],
         {"ema": 0.99, "optimizer": "adamw", "pairs": True}),
        (["-y", "CHANGES: {learning_rate: 3e-4}"], {"learning_rate": "3e-4"}),  # which 03 refuses
        (["-p", "CHANGES", "{'ema': 0.99}"], "{'ema': 0.99}"),  # so too
        (["-p", "EPOCHS", "2"], None),
    ],
)  # fmt: skip
def test_papermill_writes_what_is_set_into_the_notebook(arguments, read, tmp_path):
    command = [str(run.NOTEBOOK_FOLDER / "03_train.ipynb"), str(tmp_path / "03.ipynb")]
    done = CliRunner().invoke(papermill_command, [*command, *arguments, "--prepare-only"])
    assert done.exit_code == 0, done.output
    values = {}
    for cell in nbformat.read(tmp_path / "03.ipynb", as_version=4).cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            exec(cell.source, values)
    assert values.get("CHANGES") == read
    assert values.get("EPOCHS") == (2 if read is None else None)


@pytest.mark.parametrize("text", ["EPOCHS=2", "03_train.EPOCHS", "03_train.MODEL='open"])
def test_malformed_set_is_refused(text):
    with pytest.raises(ValueError, match="--set"):
        parse_overrides(text)


def test_parameters_are_read_with_their_defaults(notebooks):
    parameters = notebook_parameters(notebooks / "03_train.ipynb")
    assert parameters["EPOCHS"] == 3
    assert parameters["LIMIT"] is None
    assert list(parameters)[:2] == ["DATA", "OUTPUT"]


@pytest.mark.parametrize("line", ["lower = 1", "NOW = time()", "A = B = 1", "import os", "1 +"])
def test_parameters_cell_of_anything_but_literals_is_refused(line, tmp_path):
    nbformat.write(notebook(line), tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match=r"n\.ipynb: parameters are NAME = literal"):
        notebook_parameters(tmp_path / "n.ipynb")


def test_refusal_on_the_command_line_is_one_line(capsys, tmp_path):
    assert main(["--data", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_ctrl_c_ends_cleanly(capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_pipeline", interrupt)
    assert main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_make_says_which_python_it_needs(python, tmp_path):
    root = Path(__file__).resolve().parents[2]
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(root / name, tmp_path)
    command = ["make", "run", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.10 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


HOSTILE = [
    *(
        "clip$1.mp4",
        "a$(shell touch made)b",
        "$(file >made)",
        "${HOME}",
        "$(info made)",
        "`touch made`",
    ),
    *(
        "it's",
        'say "a  b"',
        "a#b",
        "a\\b\\",
        "$$",
        "; touch made",
        "{x}",
        "a%b",
        "$(error made)",
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose Python tells what it is asked for: `made(target, VARIABLE=value)`."""
    folder = tmp_path_factory.mktemp("make")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(run.NOTEBOOK_FOLDER.parent / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" "$ONLY" "$BENCH_DATA"\n')
    python.chmod(0o755)
    for stamp in (".installed", ".installed-dev"):
        (folder / ".venv" / stamp).touch()

    def call(target, settings=(), **environment):
        command = ["make", "--silent", target, *settings]
        everything = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **environment}
        done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True)
        assert not list(folder.glob("made")) or (folder / "made").unlink()
        assert "made" not in done.stderr
        return done.stdout.split("\0")

    return call


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("run", ["DATA", "OUTPUT", "SET", "FROM", "TO"]),
        ("predict", ["INPUT", "CROPS", "MODEL", "OUTPUT"]),
        ("kaggle-stage", ["OWNER"]),
        ("kaggle-push", ["OWNER"]),
        ("address", ["REPOSITORY"]),
        ("bench", ["ONLY", "BENCH_DATA"]),
    ],
)
def test_make_hands_a_value_on_as_it_is(made, target, names, value):
    """A file name is enough to hand in `$(shell …)`; on the command line and in the environment."""
    values = [f"{value}{number}" for number in range(len(names))]
    for given in ({"settings": map("=".join, zip(names, values))}, dict(zip(names, values))):
        assert [part for part in made(target, **given) if part in values] == values


@pytest.mark.parametrize("name", ["ARGS", "PYTHON", "DATAA"])
def test_make_runs_nothing_that_any_variable_names(made, name):
    made("test", [f"{name}=$(shell touch made)"])
    assert made("test", ["ARGS=-k 'a or b' -q"])[:5] == ["-m", "pytest", "-k", "a or b", "-q"]


@pytest.mark.parametrize("folder", ["{x}", "{DATA.__class__}", "{", "a}b", "{0}", "%s"])
def test_a_folder_of_any_name_takes_results(notebooks, crops, tmp_path, folder):
    """papermill puts parameters into the braces of paths."""
    output = tmp_path / folder / "out"
    run_pipeline(
        crops, output, start="01_explore_data", stop="01_explore_data", notebooks=notebooks
    )
    assert (output / "notebooks" / "01_explore_data.ipynb").is_file()


def test_a_project_in_a_folder_of_any_name_runs(notebooks, crops, tmp_path):
    moved = shutil.copytree(notebooks, tmp_path / "{x}" / "notebooks")
    run_pipeline(crops, tmp_path / "out", stop="01_explore_data", notebooks=moved)


TEXTS = ["\"'", "a\nb\r", "\\", '\\"; made = 1; "', "{x}", "\\\n", '"""', "\udcff", "\x00", "$(x)"]


@pytest.mark.parametrize("text", TEXTS)
def test_papermill_writes_any_text_as_text(text, notebooks):
    given = {"DATA": text, "PATHS": [text], "KINDS": [text], "CHANGES": {text: text, "a": [text]}}
    values = checked_parameters(notebooks / "03_train.ipynb", given)
    assert written(values) == values and values["PATHS"] == [text]


CODE = '"+str(exit(3))+"'
NOT_PLAIN = [
    *({CODE}, (CODE,), [CODE], {"a": CODE}, frozenset({CODE}), b"a", 1j, range(2), None),
    *({"a": {CODE}}, Path(CODE), [[{CODE}]], ((1, 2), 3)),
]


@pytest.mark.parametrize("value", NOT_PLAIN, ids=repr)
@pytest.mark.parametrize("name", ["PATHS", "KINDS", "CHANGES", "CHANGES.a", "LIMIT", "MODEL"])
@pytest.mark.parametrize("given", [lambda value: value, lambda value: [value], repr])
def test_what_is_no_text_and_no_number_is_refused_or_stays_what_it_is(
    name, given, value, notebooks
):
    """Of a set or a tuple papermill writes the text as code, quotes in it included."""
    values = {}
    with suppress(ValueError):
        values = checked_parameters(notebooks / "03_train.ipynb", {name: given(value)})
    assert written(values) == values


def written(values):
    """What the cell that papermill injects binds."""
    read = {}
    exec(translate_parameters("python3", "python", values, ""), read)
    read.pop("__builtins__")
    return read
