"""The rules of the house: one shape of notebooks, short tables of contents, no stray paths.

Who may import whom is import-linter's to say (pyproject.toml, `make lint`).
"""

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
PACKAGES = sorted(path.parent.name for path in (ROOT / "utils").glob("*/__init__.py"))
#: Most names of a package's table of contents; `run` is imported by every notebook.
MOST_NAMES = dict.fromkeys(PACKAGES, 12) | {"run": 16}
#: Most lines of code that are not blank, in 04 and in all notebooks together.
MOST_LINES = {"04_evaluate": 140, "all": 560}
#: What requirements.txt holds though no import of ours names it.
USED_OTHERWISE = {
    "jupyter",  # to open the notebooks with
    "ipykernel",  # runs their cells: tools/run.py starts it by its name
}
#: Names that a branch for tests or CI would ask about.
TEST_MODES = re.compile(
    r"\b(CI|TEST|TESTING|TEST_MODE|SMOKE|DRY_RUN|FAST|QUICK|DEBUG|DEMO|GITHUB_ACTIONS"
    r"|PYTEST_CURRENT_TEST|pytest)\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.])(/(home|Users|root|work)/|[A-Z]:\\Users)")

THIS_FILE = "tests/test_structure.py"

each_module = pytest.mark.parametrize("name", MODULES)
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def module_tree(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def load(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name):
    return [cell for cell in load(name).cells if cell.cell_type == "code"]


def lines_of(cell):
    """The lines of a cell that are not blank."""
    return [line for line in cell.source.splitlines() if line.strip()]


def lines_of_code(name):
    return sum(len(lines_of(cell)) for cell in code_cells(name))


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


def test_bootstrap_cells_are_identical_and_short():
    first, *others = [code_cells(name)[0] for name in NOTEBOOKS]
    assert {cell.source for cell in others} == {first.source}
    assert "utils/run/__init__.py" in first.source
    assert len(lines_of(first)) <= 14


@each_notebook
def test_imports_are_a_handful_of_names_from_packages(name):
    """They stand in the second code cell; packages are imported from, not the modules inside.

    But for figures: there are many, and one that a single notebook draws comes from its module.
    """
    _, imports, *rest = code_cells(name)
    assert len(lines_of(imports)) <= 12
    assert all(isinstance(n, ast.Import | ast.ImportFrom) for n in parsed(imports).body)
    ours = [n for n in parsed(imports).body if isinstance(n, ast.ImportFrom) and is_ours(n.module)]
    assert {n.module.split(".")[1] for n in ours} <= set(PACKAGES)
    figures = ("utils.report.figures", "utils.report.score_figures")
    assert [n.module for n in ours if n.module.count(".") != 1 and n.module not in figures] == []
    nodes = [node for cell in rest for node in ast.walk(parsed(cell))]
    assert [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)] == []


def is_ours(module):
    return module.split(".")[0] in ("utils", "tools")


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
def test_code_cells_are_short_and_define_nothing(name):
    assert [cell.source for cell in code_cells(name) if len(lines_of(cell)) > 30] == []
    nodes = [node for cell in code_cells(name) for node in ast.walk(parsed(cell))]
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [node.name for node in nodes if isinstance(node, definitions)] == []


@pytest.mark.parametrize("what", MOST_LINES)
def test_notebooks_hold_little_code(what):
    names = NOTEBOOKS if what == "all" else [what]
    assert sum(map(lines_of_code, names)) <= MOST_LINES[what]


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


# packages


def contents(package):
    """The names in `__all__` of one package of `utils`."""
    tree = module_tree(f"utils/{package}/__init__.py")
    assignments = {
        ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)
    }
    assert "__all__" in assignments, f"utils/{package}/__init__.py has no __all__"
    return list(ast.literal_eval(assignments["__all__"]))


def imported_by_people(package):
    """Names that notebooks, README and pages import from one package of `utils`."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    texts += [cell.source for name in NOTEBOOKS for cell in code_cells(name)]
    wanted = re.compile(rf"from utils\.{package} import (\([^)]*\)|[\w, ]+)")
    listed = ",".join(names for text in texts for names in wanted.findall(text))
    return set(re.findall(r"\w+", re.sub(r" as \w+", "", listed)))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_of_contents_is_short_and_each_name_in_it_is_used(package):
    names = contents(package)
    assert 0 < len(names) <= MOST_NAMES[package]
    assert set(names) == imported_by_people(package)


def test_there_are_the_nine_packages():
    assert len(PACKAGES) == 9
    beside = {path.name for path in (ROOT / "utils").glob("*.py")}
    assert beside == {"__init__.py", "installing.py"}


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


def normalised(distribution):
    return distribution.lower().replace("-", "_")


def imported_distributions():
    """{module: the distributions that bring it}, of all that code and notebooks import."""
    trees = [module_tree(name) for name in MODULES]
    trees += [parsed(cell) for name in NOTEBOOKS for cell in code_cells(name)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    imported += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    tops = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    owners = metadata.packages_distributions()
    return {top: {normalised(d) for d in owners.get(top, [])} for top in tops - {"tools", "utils"}}


def test_requirements_hold_all_that_is_imported():
    listed = {normalised(r.name) for r in requirements("requirements.txt")}
    elsewhere = {
        "IPython",  # comes with ipykernel, and is there wherever a notebook runs
        "huggingface_hub",  # comes with timm
        "distributed",  # for those who name a SCHEDULER; the error says how to install it
        "kaggle",  # the client, for those who push
    }
    imported = imported_distributions()
    assert {top for top in imported.keys() - elsewhere if not imported[top] & listed} == set()


def test_requirements_hold_nothing_that_is_not_used():
    listed = {normalised(r.name) for r in requirements("requirements.txt")}
    assert listed - set.union(*imported_distributions().values()) == USED_OTHERWISE


def test_ci_calls_the_test_command():
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ci_runs_actions_of_one_commit_each_and_leaves_them_no_credentials():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.+)", text)
    assert uses and [a for a in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", a)] == []
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


#: A module in the way that Python or a path names it; more may follow the module (a class, say).
DOTTED = re.compile(r"(?<![\w./-])(?:utils|tools|benchmarks|tests)(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(r"(?<![\w./-])(?:utils|tools|benchmarks|tests)/[\w/]+(?:\.\w+)?")
#: Look like modules and are none: fields of kaggle-metadata.json, and what its client uploads.
NO_MODULES = {"utils.slug", "utils.title", "utils.zip"}


def gone(text):
    """What a text names of our own modules that is not there."""
    dotted = {name for name in DOTTED.findall(text) if not is_there(name.split("."))}
    files = {name for name in FILE.findall(text) if not (ROOT / name).exists()}
    return dotted - NO_MODULES | files


def is_there(parts):
    """Whether a dotted name is a module, or a name that stands in one."""
    for depth in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:depth])
        files = [path.with_suffix(".py"), path / "__init__.py"]
        if module := next((file for file in files if file.is_file()), None):
            rest = parts[depth : depth + 1]
            text = module.read_text(encoding="utf-8")
            return all(re.search(rf"\b{name}\b", text) for name in rest)
        if path.is_dir():
            return depth == len(parts)
    return False


def prose():
    """{file: what it says}: pages whole, of code the docstrings and comments, all of notebooks."""
    files = [path for path in text_files() if path.suffix in (".md", ".py", ".ipynb", ".toml", "")]
    texts = {}
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            kinds = (tokenize.COMMENT, tokenize.STRING)
            text = "\n".join(token.string for token in tokens if token.type in kinds)
        texts[path.relative_to(ROOT).as_posix()] = text
    texts.pop("CHANGELOG.md")  # tells of what was
    return texts


def test_no_file_names_a_module_that_is_gone():
    named = {path: gone(text) for path, text in prose().items() if path != THIS_FILE}
    assert {path: names for path, names in named.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("see utils.nowhere.at_all", {"utils.nowhere.at_all"}),
        ("`utils/plots.py` draws", {"utils/plots.py"}),
        ("`tools.run.run_pipeline` and utils.installing, in tools/run.py", set()),
        ("tools.run.gone", {"tools.run.gone"}),
    ],
)
def test_modules_that_are_gone_are_seen(text, names):
    assert gone(text) == names


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
