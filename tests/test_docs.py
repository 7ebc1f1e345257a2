"""README, the pages beside it and the detector's card name what is there."""

import re
from pathlib import Path

import pytest

from tools.parameters import checked_parameters, notebook_parameters, parse_overrides

ROOT = Path(__file__).resolve().parent.parent
[CARD] = (ROOT / "models").glob("*/README.md")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), CARD]
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.stem}/{page.stem}"
)


@each_page
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    here = [link for link in links if "://" not in link]
    assert [link for link in here if not (page.parent / link).exists()] == []


@each_page
def test_every_make_target_exists(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


@each_page
def test_every_parameter_of_a_notebook_exists(page):
    for notebook, name in re.findall(r"\b(\d\d_[a-z_]+)\.([A-Z_]+)\b", page.read_text()):
        assert name in notebook_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")


@each_page
def test_every_anchor_leads_to_a_heading(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def examples():
    """What the pages say that SET and --set take: (page, text)."""
    wanted = re.compile(r'(?:SET=|--set )"([^"]+)"')
    texts = ((page.stem, text) for page in PAGES for text in wanted.findall(page.read_text()))
    return [(page, text.replace("\\\n", "")) for page, text in texts]  # as a shell reads it


@pytest.mark.parametrize(("page", "text"), examples())
def test_every_example_of_set_is_accepted(page, text):
    overrides = parse_overrides(text)
    assert overrides
    for notebook, values in overrides.items():
        assert checked_parameters(ROOT / "notebooks" / f"{notebook}.ipynb", values)


def test_there_are_examples_of_set():
    assert {"README", "headless", "resume"} <= {page for page, _ in examples()}


def everyday_changes():
    """The rows of the table in `docs/contribute.md`: change, where, as."""
    lines = (ROOT / "docs" / "contribute.md").read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("| change |"))
    rows = [line.strip("| ").split(" | ") for line in lines[begin + 2 : lines.index("", begin)]]
    return [pytest.param(*row, id=row[0]) for row in rows]


def test_there_are_ten_everyday_changes():
    assert len(everyday_changes()) == 10


@pytest.mark.parametrize(("change", "where", "how"), everyday_changes())
def test_a_change_goes_where_the_page_says(change, where, how):
    """Files exist, and the names beside them stand in them."""
    named = re.findall(r"`([^`]+)`", f"{where} {how}")
    paths = [name for name in named if (ROOT / name).is_file()]
    assert paths
    assert [name for name in named if "/" in name and name not in paths and "=" not in name] == []
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths)
    code = [name for name in named if re.fullmatch(r"[\w.]+", name) and ".json" not in name]
    parts = {part for name in code for part in name.split(".")}
    assert {part for part in parts if not re.search(rf"\b{part}\b", text)} == set()


def test_readme_links_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [page.relative_to(ROOT).as_posix() for page in PAGES[1:]]
    assert [link for link in links if link not in readme] == []


def test_readme_says_of_the_detector_what_its_card_says():
    """The card's figures are those of metrics.json."""
    readme, card = ((ROOT / page).read_text(encoding="utf-8") for page in (PAGES[0], CARD))
    figures = re.findall(r"[\d.]+%? \([\d.]+%? to [\d.]+%?\)", readme)
    assert len(figures) == 3 and all(figure in card for figure in figures)
