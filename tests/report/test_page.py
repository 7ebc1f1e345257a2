"""The report: numbers of the artefacts, honest words, nothing loaded, nothing injected."""

import copy
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.report.words import embed_figures, figures_in, interval, number, write_report

ROW = {"value": 0.8123, "low": 0.7011, "high": 0.9022}
NONE = {"value": None, "low": None, "high": None}
MAJORITY = {"accuracy": 0.8312, "balanced_accuracy": 0.5, "roc_auc": 0.5}
METRICS = {
    "frame": {"roc_auc": {**ROW, "value": 0.7654}, "accuracy": ROW, "log_loss": ROW},
    "video": {"roc_auc": ROW, "balanced_accuracy": {**ROW, "value": 0.7321}, "accuracy": ROW,
              "precision": NONE},
    "n": {"frame": {"REAL": 170, "FAKE": 830, "sources": 41},
          "video": {"REAL": 17, "FAKE": 83, "sources": 41}},
    "confusion": {"frame": [[1, 1], [1, 1]], "video": [[12, 5], [9, 74]]},
    "baselines": {
        "majority": {"frame": MAJORITY, "video": MAJORITY},
        "zero_pixel": {"roc_auc": {"value": 0.5432, "low": 0.41, "high": 0.66},
                       "features": [{"name": "file_size", "roc_auc": None}]},
    },
    "robustness": {},
    "slices": {},
    "threshold": 0.4711,
    "threshold_rule": "balanced_accuracy",
    "temperature": 1.3131,
    "aggregation": "mean_logit",
    "abstention": {"low": 0.3, "high": 0.6, "coverage": 0.777, "error": 0.0888, "target": 0.1},
    "model": {"name": "tf_efficientnetv2_s", "epochs": 3, "best_epoch": 2},
    "data": {"datasets": ["demo"], "fingerprint": "abc123"},
    "versions": {"torch": "2.10.0"},
    "seed": 0,
    "date": "2026-11-23",
}  # fmt: skip


class Page(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.hidden = [], "", 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag == "style"

    def handle_endtag(self, tag):
        self.hidden -= tag == "style"

    def handle_data(self, data):
        if not self.hidden:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def build(tmp_path):
    def render(metrics=METRICS, files=(), figures=(), name="figure"):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        for file, content in dict(files).items():
            (tmp_path / file).write_text(content)
        for stem in figures:
            Image.new("RGB", (30, 20), "white").save(tmp_path / "figures" / f"{stem}.png")
        path = write_report(tmp_path)
        assert path == tmp_path / "report.html"
        return path.read_text(encoding="utf-8")

    return render


def audit(name="demo"):
    part = {"sources": 4, "videos": 9, "crops": 1234, "REAL": 4, "FAKE": 5}
    return {
        "datasets": [{"name": name, "layout": "faces", "videos": 27, "crops": 3702}],
        "videos": {"REAL": 12, "FAKE": 15},
        "crops": {"REAL": 1700, "FAKE": 2002},
        "left_out": {"no_folder": {"count": 3, "examples": [f"{name}.mp4"]},
                     "no_label": {"count": 0, "examples": []}},
        "splits": dict.fromkeys(("test", "train", "val"), part),
        "checks": {"sources_disjoint": True, "twins": False},
        "leakage_ladder": [
            {"split": "frame", "roc_auc": 0.9431, "low": 0.9, "high": 0.97, "flatters": 0.21}
        ],
    }  # fmt: skip


def changed(**video):
    metrics = copy.deepcopy(METRICS)
    metrics["video"].update(video)
    return metrics


def test_first_screen_answers_with_the_numbers_of_the_metrics(build):
    html = build()
    first = Page(html[: html.index("<nav")]).text
    for question in ("How good is it?", "How sure are we?", "Where does it fail?", "Can I use it?"):
        assert question in first
    for value in ("0.812", "0.701 to 0.902", "0.732", "0.500", "0.543", "5 of 17", "9 of 83",
                  "77.7%", "8.9%", "41"):  # fmt: skip
        assert value in first


def test_every_score_of_the_metrics_stands_in_the_table(build):
    cells = re.findall(r"<td[^>]*>(.*?)</td>", build(), flags=re.S)
    shown = " ".join(re.sub(r"<[^>]+>", "", cell) for cell in cells)
    for level in ("frame", "video"):
        for row in METRICS[level].values():
            assert number(row) in shown and interval(row) in shown
    assert "0.831" in shown


def test_a_metric_that_has_no_name_stands_last_in_both_tables(build, tmp_path):
    html = build(changed(partial_auc={"value": 0.4321, "low": 0.4011, "high": 0.4567}))
    rows = [" ".join(Page(row).text.split()) for row in html.split("<tr")]
    scores = [row for row in rows if "0." in row and "majority" not in row]
    named = next(i for i, row in enumerate(scores) if "Log loss" in row)
    assert "Partial auc 0.432 0.401 to 0.457 not defined" in scores[named + 1]
    table = (tmp_path / "report.md").read_text(encoding="utf-8").split("| on test")[1]
    lines = [line for line in table.split("\n\n")[0].split("\n") if line.startswith("|")]
    assert lines[-1] == "| Partial auc | 0.432 (0.401 to 0.457) | not defined |"
    assert [line.split(" | ")[0] for line in lines[1:4]] == [
        "| ROC AUC", "| Balanced accuracy", "| Accuracy",
    ]  # fmt: skip


def test_slices_and_corruptions_that_have_no_name_have_their_rows(build):
    slices = {"head_pose": {"to the left": {"n": 9, **scored(0.6)}}}
    stress = {"clean": scored(0.8, n=9, sources=4), "fish_eye": {"2": scored(0.6, drop=ROW)}}
    text = Page(build({**METRICS, "slices": slices, "robustness": stress})).text
    for words in ("Head pose", "to the left", "Fish eye 2"):
        assert words in text


def test_unknown_keys_of_the_decision_break_nothing(build):
    decision = {"temperature": 1.5151, "threshold": 0.6262, "rule": "fpr", "offset": -0.31,
                "aggregation": "mean_logit", "units": "tracks", "later": {"x": [1]},
                "abstention": {"low": None, "high": None}}  # fmt: skip
    text = Page(build(files={"model/decision.json": json.dumps(decision)})).text
    assert "1.515" in text and "0.626, by fpr" in text


def test_numbers_follow_the_metrics_and_are_not_typed(build):
    metrics = changed(roc_auc={"value": 0.6666, "low": 0.6111, "high": 0.7222})
    text = Page(build(metrics)).text
    assert "0.667" in text and "0.611 to 0.722" in text
    assert not any("ROC AUC is 0.812" in part for part in text.split("\n"))


def test_none_reads_not_defined(build):
    html = build(changed(roc_auc=NONE))
    assert "Not measurable" in html and "not defined" in html
    assert "None" not in Page(html).text and "nan" not in Page(html).text


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_hostile_names_inject_no_markup(build, tmp_path):
    metrics = copy.deepcopy(METRICS)
    metrics["model"]["name"] = metrics["data"]["fingerprint"] = HOSTILE
    metrics["data"]["datasets"] = [HOSTILE]
    metrics["versions"] = {HOSTILE: HOSTILE}
    group = {"n": 3, "roc_auc": {**ROW, "value": 0.2}}
    metrics["slices"] = {HOSTILE: {HOSTILE: group, "plain": {"n": 3, "roc_auc": ROW}}}
    row = {"roc_auc": ROW, "balanced_accuracy": ROW, "drop": ROW}
    metrics["robustness"] = {"clean": {**row, "n": 9, "sources": 4}, HOSTILE: {HOSTILE: row}}
    metrics["models"] = {"this": row, HOSTILE: {"roc_auc": ROW, "roc_auc_difference": ROW}}
    metrics["generalisation"] = [{"tested_on": HOSTILE, "trained_on": HOSTILE, "roc_auc": ROW}]
    metrics["rules"] = {HOSTILE: {"threshold": 0.5, "val": {}, "test": {}}}
    metrics["aggregations"] = [{"how": HOSTILE, "log_loss": 0.6, "roc_auc": 0.7}]
    metrics["calibration"] = {HOSTILE: {"ece": 0.1}}
    metrics["video"][HOSTILE] = ROW
    html = build(
        metrics,
        {"data_audit.json": json.dumps(audit(HOSTILE))},
        ["roc", "slices", '"><script>alert(1)<'],
    )
    page = Page(html)
    assert not page.all("script")
    assert all(set(image) == {"src", "width", "height", "alt"} for image in page.all("img"))
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "<script" not in html and HOSTILE in page.text


def test_names_in_a_report_do_not_steer_a_terminal_or_turn_the_text_around(build, tmp_path):
    metrics = copy.deepcopy(METRICS)
    metrics["model"]["name"] = metrics["data"]["fingerprint"] = "a\x1b[2J\u202eb\x9bc"
    html = build(metrics)
    for text in (html, (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "�b�c" in text and not re.search("[\x1b\x9b\u202e]", text)


def test_a_card_of_other_bytes_stops_no_report(build, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_bytes(b"# Card \xff\xfe")
    build(METRICS)
    assert "## Evaluation" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_what_is_attached_in_several_versions_is_left_out(build, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / "input" / name).mkdir(parents=True)
        (tmp_path / "input" / name / "augment.json").write_text(json.dumps({"policy": name}))
    monkeypatch.setattr("utils.run.machine.KAGGLE_INPUT", tmp_path / "input")
    assert "Deepfake detection" in build(METRICS)


def test_the_page_loads_nothing(build):
    html = build(figures=["roc", "history"], files={"data_audit.json": json.dumps(audit())})
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "audio", "video", "base"}
        for key in ("src", "href", "srcset", "poster", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#"))
    assert "url(" not in html and "@import" not in html and not re.search(r"https?://", html)


def test_the_page_is_semantic(build):
    html = build(figures=["roc", "my_own"], files={"data_audit.json": json.dumps(audit())})
    page = Page(html)
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 2
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)


def test_figures_are_captioned_with_numbers_and_unknown_ones_by_name(build):
    html = build(figures=["confusion", "roc", "robustness", "zebra_crossing"])
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert "0.812 (0.701 to 0.902)" in captions[0]
    assert "5 of 17" in captions[1]
    assert captions[2] == "Robustness." and captions[3] == "Zebra crossing."


def test_missing_parts_are_left_out(build):
    html = build()
    for anchor in ("figures", "groups", "robustness", "data"):
        assert f'id="{anchor}"' not in html
    bare = {key: METRICS[key] for key in
            ("frame", "video", "robustness", "slices", "threshold", "temperature")}  # fmt: skip
    text = Page(build({**bare, "baselines": {}})).text
    assert "0.812" in text and "None" not in text


def test_audit_decision_and_history_are_rendered(build):
    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [0.7, 0.5], "val_loss": [0.66, 0.5544],
         "val_auc": [0.61, 0.8765], "lr": 0.001, "images_per_s": [100, 120.0],
         "data_wait_s": [1.0, 1.0], "compute_s": [9.0, 9.0], "peak_memory_mb": [None, None],
         "elapsed_s": [60.0, 120.0]}
    )  # fmt: skip
    decision = {"temperature": 1.5151, "threshold": 0.6262, "rule": "balanced_accuracy",
                "aggregation": "mean_logit", "prior": 0.6,
                "abstention": {"low": 0.6262, "high": 0.6262, "coverage": 1.0, "error": 0.05,
                               "target": 0.1}}  # fmt: skip
    html = build(
        files={
            "data_audit.json": json.dumps(audit()),
            "history.csv": history.to_csv(index=False),
            "model/decision.json": json.dumps(decision),
        },
        figures=["history"],
    )
    text = Page(html).text
    for words in ("3,702", "no folder", "demo.mp4", "1,234", "passed", "failed", "0.943",
                  "0.626", "1.515", "no band", "60.0%", "2.0 min", "10.0%",
                  "Epoch 2 of 2 was kept", "0.876", "0.554"):  # fmt: skip
        assert words in text
    assert "no label" not in text and "not defined MB" not in text


def scored(value, **more):
    return {"roc_auc": {**ROW, "value": value}, "balanced_accuracy": ROW, **more}


def test_robustness_is_a_row_a_condition_beside_clean_and_the_hardest_is_named(build):
    stress = {
        "clean": scored(0.8123, n=83, sources=41),
        "jpeg": {"90": scored(0.8, drop=ROW), "30": scored(0.6001, drop={**ROW, "value": 0.0456})},
        "h264": {"23": scored(None, drop=NONE)},
    }
    text = Page(build({**METRICS, "robustness": stress}, figures=["robustness"])).text
    for words in ("JPEG 30", "0.600", "0.046", "H.264 23", "83 test videos from 41 sources",
                  "Hardest corruption: JPEG 30, ROC AUC 0.600 where clean pictures reach 0.812",
                  "lowest is JPEG 30 with 0.600"):  # fmt: skip
        assert words in " ".join(text.split())


def test_models_rules_pools_and_other_data_have_their_tables(build):
    point = {"recall": 0.9111, "specificity": 0.5222, "balanced_accuracy": 0.7166}
    text = Page(build({
        **METRICS,
        "models": {"this model": scored(0.8123),
                   "reference": scored(0.7001, roc_auc_difference={**ROW, "value": 0.1122})},
        "rules": {"fpr": {"threshold": 0.8444, "val": point, "test": point}},
        "rule_targets": {"fpr_target": 0.05, "cost_ratio": 2.0},
        "aggregations": [{"how": "trimmed_mean", "log_loss": 0.4321, "roc_auc": 0.8}],
        "calibration": {"crops_before": {"log_loss": 0.9, "brier": 0.3, "ece": 0.1717},
                        "crops_after": {"log_loss": 0.6, "brier": 0.2, "ece": 0.0909}},
        "generalisation": [{"tested_on": "celeb", "trained_on": "dfdc", "REAL": 1234, "FAKE": 9,
                            "elsewhere": True, **scored(0.6543)}],
    }, figures=["calibration"])).text  # fmt: skip
    for words in ("reference", "0.112", "False alarms up to 5.0%", "0.844", "0.522",
                  "trimmed mean", "0.432", "calibration error of 0.091", "before it was 0.172",
                  "celeb", "1,234",
                  "On other data, celeb: ROC AUC 0.654 (0.701 to 0.902)"):  # fmt: skip
        assert words in " ".join(text.split())


def test_large_figures_are_shrunk_under_the_limit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1400, 1400, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    assert sum(path.stat().st_size for path in tmp_path.glob("*.png")) > 10_000_000
    figures = embed_figures(figures_in(tmp_path, {}))
    assert sum(len(figure["uri"]) for figure in figures) < 9_000_000
    assert figures[0]["uri"].startswith("data:image/jpeg;base64,")


def test_missing_metrics_name_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="04_evaluate"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_markdown_says_the_same_with_pictures_beside_it(build, tmp_path):
    build(figures=["confusion", "roc", "my own"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for words in ("0.812 (0.701 to 0.902)", "5 of 17 real videos", "Can I use it?", "abc123",
                  "- Seed: 0\n",
                  "![ROC curve](figures/roc.png)", "(figures/my%20own.png)"):  # fmt: skip
        assert words in text
    assert text.index("figures/roc.png") < text.index("figures/confusion.png")


def test_the_card_holds_one_evaluation_the_last(build, tmp_path):
    build(files={"model/README.md": "# A card\n\n## Use it for\nStudy.\n"})
    build(changed(roc_auc={"value": 0.6666, "low": 0.6111, "high": 0.7222}))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A card\n\n## Use it for\nStudy.")
    assert card.count("## Evaluation") == 1
    assert "0.667 (0.611 to 0.722)" in card and "ROC AUC is 0.812" not in card


def test_hostile_names_add_no_markup_to_the_markdown(build, tmp_path):
    metrics = copy.deepcopy(METRICS)
    evil = "a|b\n# [x](http://evil) ![y](z) `code` <b>"
    metrics["data"] = {"datasets": [evil], "fingerprint": evil}
    metrics["video"][evil] = ROW
    group = {"n": 90, "roc_auc": {**ROW, "value": 0.2}}
    metrics["slices"] = {"method": {evil: group, "plain": {"n": 90, "roc_auc": ROW}}}
    build(metrics, figures=["slices"])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "evil" in text and "<b>" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert not re.search(r"(?<!\\)`|^# \[|a\|b", text.replace("a\\|b", ""), flags=re.MULTILINE)
