"""README and the pages beside it name what is there: files, targets, parameters."""

import re
from pathlib import Path

import pytest

from tools.parameters import notebook_parameters
from tools.run import NOTEBOOKS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


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


def test_readme_links_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == []


def test_every_notebook_says_where_it_opens():
    for name in NOTEBOOKS:
        text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert "open-in-kaggle.svg" in text and "colab-badge.svg" in text
