"""The rules of the house: one direction of imports, one shape of notebooks, no stray paths."""

import ast
import inspect
import io
import json
import re
import sys
import tokenize
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.demo import draw_demo
from tools.parameters import checked_parameters, notebook_parameters
from tools.run import DEMO, NOTEBOOKS

ROOT = Path(__file__).resolve().parent.parent
#: Names of our own code, and which of its files talk to people.
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("utils", "tools")
    for path in (ROOT / folder).rglob("*.py")
)
COMMAND_LINES = ("tools/run.py", "tools/train.py", "tools/predict.py")
#: Names that a branch for tests or CI would ask about.
TEST_MODES = re.compile(
    r"\b(CI|TEST|TESTING|TEST_MODE|SMOKE|DRY_RUN|FAST|QUICK|DEBUG|DEMO|GITHUB_ACTIONS"
    r"|PYTEST_CURRENT_TEST|pytest)\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.])(/(home|Users|root|work)/|[A-Z]:\\Users)")

each_module = pytest.mark.parametrize("name", MODULES)
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def module_tree(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def load(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name):
    return [cell for cell in load(name).cells if cell.cell_type == "code"]


def parsed(cell):
    """Parse a cell without its magics."""
    lines = cell.source.splitlines()
    return ast.parse("\n".join("pass" if line[:1] in ("%", "!") else line for line in lines))


def text_files():
    suffixes = {".py", ".ipynb", ".md", ".txt", ".json", ".toml", ".yml", ".html", ".csv", ""}
    folders = ("utils", "tools", "tests", "notebooks", "benchmarks", "docs", ".ci", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found += ROOT.glob("*")
    hidden = {"__pycache__", ".ipynb_checkpoints", ".git"}  # .git is a file in a work tree
    return sorted(
        path
        for path in found
        if path.is_file() and path.suffix in suffixes and not hidden & set(path.parts)
    )


# code


@each_module
def test_module_knows_no_notebook(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"\b(IPython|get_ipython)\b|import \*|filterwarnings", text)


@each_module
def test_only_command_lines_print(name):
    if name in COMMAND_LINES:
        pytest.skip("a command line")
    functions = [n for n in ast.walk(module_tree(name)) if isinstance(n, ast.FunctionDef)]
    mains = {node for f in functions if f.name == "main" for node in ast.walk(f)}
    calls = [node for node in ast.walk(module_tree(name)) if isinstance(node, ast.Call)]
    printing = {c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"}
    assert printing <= {node.lineno for node in mains if hasattr(node, "lineno")}


# notebooks


def test_there_are_the_six_notebooks():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == list(NOTEBOOKS)


def test_bootstrap_cells_are_identical():
    bootstraps = {code_cells(name)[0].source for name in NOTEBOOKS}
    assert len(bootstraps) == 1
    assert "utils/run/__init__.py" in bootstraps.pop()


@each_notebook
def test_only_the_bootstrap_touches_the_path(name):
    assert not any("sys.path" in cell.source for cell in code_cells(name)[1:])


@each_notebook
def test_parameters_are_commented_literals(name):
    parameters = notebook_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    assert {"DATA", "OUTPUT"} <= set(parameters)
    (cell,) = [cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    for line in ast.parse(cell.source).body:
        assert {line.lineno, line.end_lineno} & commented, f"no comment: {ast.unparse(line)}"


@each_notebook
def test_papermill_reads_every_parameter(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert set(papermill.inspect_notebook(str(path))) == set(notebook_parameters(path))


@each_notebook
def test_notebook_is_stripped(name):
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(name))


@each_notebook
def test_code_cells_are_short_and_define_next_to_nothing(name):
    bootstrap, *chapters = [
        cell for cell in code_cells(name) if "parameters" not in cell.metadata.get("tags", [])
    ]
    assert not [c.source for c in (bootstrap, *chapters) if len(c.source.splitlines()) > 30]
    nodes = [node for cell in chapters for node in ast.walk(parsed(cell))]
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert len([node for node in nodes if isinstance(node, ast.FunctionDef)]) <= 1


@each_notebook
def test_no_branch_asks_for_a_test_mode(name):
    for cell in code_cells(name):
        branches = [n for n in ast.walk(parsed(cell)) if isinstance(n, ast.If | ast.IfExp)]
        assert not [b for b in branches if TEST_MODES.search(ast.unparse(b.test))], cell.source


@each_notebook
def test_notebook_opens_with_a_contract_and_ends_with_a_summary(name):
    cells = load(name).cells
    opening, last = cells[0], cells[-1]
    assert opening.cell_type == last.cell_type == "markdown"
    assert opening.source.startswith("# ")
    assert "Reads" in opening.source
    assert "Writes" in opening.source
    assert len(re.findall(r"^[-*] ", last.source, flags=re.MULTILINE)) == 3
    following = NOTEBOOKS[NOTEBOOKS.index(name) + 1 :][:1]
    assert all(f"{after}.ipynb" in last.source for after in following)


@each_notebook
def test_overrides_of_the_demo_fit_the_notebook(name):
    overrides = json.loads(DEMO.read_text(encoding="utf-8"))
    values = overrides.get(name, {})
    assert checked_parameters(ROOT / "notebooks" / f"{name}.ipynb", values).keys() == values.keys()


def test_overrides_of_the_demo_name_notebooks_and_arguments():
    overrides = json.loads(DEMO.read_text(encoding="utf-8"))
    arguments = set(inspect.signature(draw_demo).parameters)
    assert set(overrides.pop("demo_data")) <= arguments
    assert set(overrides) <= set(NOTEBOOKS)


# packaging


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_requirements_are_lower_bounds_with_one_pin():
    listed = requirements("requirements.txt") + requirements("requirements-dev.txt")
    operators = {r.name: [s.operator for s in r.specifier] for r in listed}
    assert operators.pop("facenet-pytorch") == ["=="]
    assert {name: o for name, o in operators.items() if o != [">="]} == {}


def test_requirements_are_met_by_kaggle():
    """Kaggle's image of August 2026, which the requirements must not ask to change."""
    bounds = {r.name: r.specifier for r in requirements("requirements.txt")}
    image = requirements("tests/kaggle_replica/requirements.txt")
    versions = {r.name: [s.version for s in r.specifier if s.operator == "=="] for r in image}
    pinned = {name: v[0].replace("*", "0") for name, v in versions.items() if v}
    assert {"torch", "torchvision", "timm", "numpy"} <= set(pinned)
    assert all(bounds[name].contains(Version(version)) for name, version in pinned.items())


def test_requirements_hold_all_that_is_imported():
    listed = {r.name.lower().replace("-", "_") for r in requirements("requirements.txt")}
    listed.add("distributed")  # for those who name a SCHEDULER; the error says how to install it
    nodes = [node for name in MODULES for node in ast.walk(module_tree(name))]
    imported = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    imported += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    third_party = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    owners = metadata.packages_distributions()
    missing = {
        top
        for top in third_party - {"tools", "utils", "kaggle"}  # the client is for those who push
        if not {d.lower().replace("-", "_") for d in owners.get(top, [])} & listed
    }
    assert missing == set()


def test_ci_calls_the_test_command():
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_no_file_names_a_path_of_a_machine():
    files = text_files()
    assert len(files) > len(MODULES) + len(NOTEBOOKS)
    naming = [path for path in files if MACHINE_PATH.search(path.read_text(encoding="utf-8"))]
    assert naming == []


@pytest.mark.parametrize("folder", ["home", "Users", "root"])
def test_paths_of_machines_are_seen(folder):
    path = "/".join(["", folder, "me"])
    assert MACHINE_PATH.search(f'open("{path}")')
    assert not MACHINE_PATH.search(f"https://example.org{path}")
