"""The chain on the demo data: what the notebooks hand on agrees, and it measures what it should."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from tools.run import DEMO, NOTEBOOKS
from utils.data.audit import INDEX, ensure_index
from utils.data.datasets import index_videos
from utils.data.splits import check_splits
from utils.inference.answers import judge_files
from utils.inference.judging import load_judge
from utils.run.artifacts import ARTIFACTS, read_json, read_table
from utils.stats.decisions import Decision

ROOT = Path(__file__).resolve().parents[2]
TABLES = [name for name in ARTIFACTS if name.endswith(".csv")]
JSONS = [name for name in ARTIFACTS if name.endswith(".json")]
#: Figures that a reader of each executed notebook must see.
FIGURES = dict(zip(NOTEBOOKS, (2, 6, 2, 2, 11, 5)))


@pytest.mark.parametrize("name", TABLES)
def test_table_has_the_columns_of_the_contract_first(demo, name):
    columns = ARTIFACTS[name].columns
    assert list(pd.read_csv(demo / name, nrows=1).columns[: len(columns)]) == columns


@pytest.mark.parametrize("name", JSONS)
def test_json_has_the_keys_of_the_contract(demo, name):
    assert set(ARTIFACTS[name].columns) <= set(read_json(demo, name))


def test_index_lists_every_crop_of_the_videos_once(demo):
    index = read_table(demo, "index.csv")
    on_disk = {p.relative_to(demo / "faces").as_posix() for p in (demo / "faces").glob("*/*.png")}
    assert set(index["path"]) == on_disk
    assert index["path"].is_unique


def test_labels_and_methods_are_those_that_were_drawn(demo):
    drawn = index_videos(demo / "demo_data").set_index("video")
    index = read_table(demo, "index.csv")
    for column in ("label", "method"):
        assert (index["video"].map(drawn[column]) == index[column]).all()
    assert index.loc[index["label"] == "FAKE", "method"].nunique() >= 2


def test_split_leaks_nothing(demo):
    index = read_table(demo, "index.csv")
    assert all(check_splits(index).values())
    shares = index.drop_duplicates("video")["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.70, abs=0.04)
    assert shares["test"] == pytest.approx(0.15, abs=0.04)


def test_an_index_that_is_made_without_01_is_that_of_01(demo, tmp_path):
    ensure_index(demo / "faces", tmp_path)
    for name in INDEX:
        assert (tmp_path / name).read_bytes() == (demo / name).read_bytes()


def test_every_crop_of_val_and_test_is_predicted_in_the_order_of_the_index(demo):
    index = read_table(demo, "index.csv")
    predictions = read_table(demo, "predictions.csv")
    assert predictions["path"].tolist() == index.loc[index["split"] != "train", "path"].tolist()


def test_metrics_follow_from_the_tables_alone(demo):
    metrics = read_json(demo, "metrics.json")
    for level, name in (("frame", "predictions.csv"), ("video", "video_predictions.csv")):
        test = read_table(demo, name).query("split == 'test'")
        y_true = test["label"] == "FAKE"
        assert metrics[level]["roc_auc"]["value"] == pytest.approx(
            roc_auc_score(y_true, test["score"]), abs=1e-9
        )
        y_pred = test["score"] >= metrics["threshold"]
        assert metrics[level]["accuracy"]["value"] == pytest.approx((y_true == y_pred).mean())


def test_video_score_follows_from_the_crops_of_the_people_who_count(demo):
    decision = Decision.read(demo / "model")
    crops = read_table(demo, "predictions.csv").query("decides == 1")
    people = crops.groupby(["video", "track"])["logit"].agg(decision.pool)
    highest = people.groupby("video").max()
    videos = read_table(demo, "video_predictions.csv")
    np.testing.assert_allclose(videos["score"], videos["video"].map(highest), atol=1e-9)
    assert decision.units == "tracks"


def test_decision_was_chosen_on_val_and_travels_with_the_model(demo):
    decision, metrics = read_json(demo, "model/decision.json"), read_json(demo, "metrics.json")
    assert decision["threshold"] == metrics["threshold"]
    val = read_table(demo, "video_predictions.csv").query("split == 'val'")
    y_true = (val["label"] == "FAKE").to_numpy()

    def balanced(threshold):
        y_pred = val["score"].to_numpy() >= threshold
        return (y_pred[y_true].mean() + (~y_pred[~y_true]).mean()) / 2

    assert balanced(decision["threshold"]) == max(balanced(score) for score in val["score"])


def test_05_scores_a_crop_as_04_did(demo):
    judge = load_judge(demo / "model", device=torch.device("cpu"))
    predictions = read_table(demo, "predictions.csv").iloc[::37]
    paths = [str(demo / "faces" / path) for path in predictions["path"]]
    answers = judge_files(judge, [], crops=paths, progress=False)
    logits = [answer.faces["logit"].item() for answer in answers]
    np.testing.assert_allclose(logits, predictions["logit"], atol=1e-4)
    scores = [answer.faces["score"].item() for answer in answers]
    np.testing.assert_allclose(scores, predictions["score"], atol=1e-4)


def test_05_judges_all_test_videos_as_04_did(demo):
    judge = load_judge(demo / "model", device=torch.device("cpu"))
    expected = read_table(demo, "video_predictions.csv").query("split == 'test'")
    videos = expected["video"]
    paths = [str(path) for video in videos for path in (demo / "demo_data").glob(f"*/{video}.mp4")]
    n_frames = json.loads(DEMO.read_text())["00_extract_faces"]["FRAMES_PER_VIDEO"]
    answers = judge_files(judge, paths, frames_per_video=n_frames, progress=False)
    assert len(answers) == len(videos) and max(len(answer.people) for answer in answers) == 2
    np.testing.assert_allclose([a.score for a in answers], expected["score"], atol=1e-4)
    assert [answer.decision for answer in answers] == expected["decision"].tolist()


def test_05_answers_every_input_once(demo):
    answers = pd.read_csv(demo / "submission.csv")
    assert answers["filename"].is_unique
    assert answers["label"].between(0, 1).all()
    videos = set(read_table(demo, "index.csv").query("split == 'test'")["video"])
    judged = [name for name in answers["filename"] if name.endswith(".mp4")]
    assert len(judged) >= 10
    assert {Path(name).stem for name in judged} <= videos
    assert set(pd.read_csv(demo / "inference.csv")["input"]) <= set(answers["filename"])
    verdicts = read_table(demo, "verdicts.csv")
    assert verdicts["input"].tolist() == answers["filename"].tolist()
    judged = verdicts[verdicts["n_faces"] > 0]
    assert not judged.loc[judged["decision"] == "UNSURE", "reason"].eq("").any()
    assert not verdicts.loc[verdicts["n_faces"] == 0, "reason"].eq("").any()
    made = {path.name for path in (demo / "annotated").iterdir()}
    assert {"faces.png"} < made and any(name.endswith(".mp4") for name in made)


def test_model_loads_without_this_project(demo):
    index = read_table(demo, "index.csv")
    model = timm.create_model(f"local-dir:{demo / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    row = read_table(demo, "predictions.csv").iloc[0]
    assert row["path"] in set(index["path"])
    image = Image.open(demo / "faces" / row["path"]).convert("RGB")
    with torch.inference_mode():
        real, fake = model(transform(image)[None])[0].tolist()
    assert fake - real == pytest.approx(row["logit"], abs=1e-3)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_executed_notebook_shows_its_figures(demo, name):
    notebook = nbformat.read(demo / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= FIGURES[name]
    assert not [output for output in outputs if output.output_type == "error"]


def test_report_is_one_file_that_asks_for_nothing(demo):
    html = (demo / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|iframe|object|embed)\b", html)
    assert not re.findall(r"""(?:src|srcset|href)=["'](?!data:|#)[^"']*""", html)
    assert not re.findall(r"url\((?!['\"]?data:)", html)
    auc = read_json(demo, "metrics.json")["video"]["roc_auc"]
    assert f"{auc['value']:.3f}" in html
    assert len(html) < 10 * 2**20


def test_artefacts_hold_no_path_of_this_machine(demo):
    files = [demo / name for name in ARTIFACTS] + [demo / "report.html", demo / "model/README.md"]
    for path in files:
        assert str(demo) not in path.read_text(encoding="utf-8"), path.name


def test_true_labels_beat_chance_and_are_not_perfect(demo):
    auc = read_json(demo, "metrics.json")["video"]["roc_auc"]
    assert auc["low"] > 0.5
    assert 0.85 <= auc["value"] < 1


def test_shuffled_labels_score_chance(control):
    auc = read_json(control, "metrics.json")["video"]["roc_auc"]
    assert auc["low"] <= 0.5 <= auc["high"]


def test_control_was_trained_on_other_labels_and_tested_on_the_true_ones(demo, control):
    config = json.loads((control / "model" / "config.json").read_text())
    assert config["deepfake_detection"]["shuffled_labels"] is True
    columns = ["path", "label", "split"]
    ours, theirs = (read_table(o, "predictions.csv")[columns] for o in (demo, control))
    pd.testing.assert_frame_equal(ours, theirs)


def shape(folder):
    """Headings, rows of tables and pictures of a report, without its numbers."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    headings = re.findall(r"^#+ .*$|^\| on test.*$", text, re.MULTILINE)
    pictures = re.findall(r"\]\(figures/(.*?)\)", text)
    return headings, rows, pictures, sorted(path.name for path in (folder / "figures").iterdir())


def test_the_report_that_is_shown_is_of_the_shape_of_a_new_one(demo):
    kept = ROOT / "docs" / "report"
    assert shape(kept) == shape(demo)
    assert sum(path.stat().st_size for path in kept.rglob("*.*")) < 1_500_000
