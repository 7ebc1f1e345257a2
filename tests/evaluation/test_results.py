"""What is chosen on val stays as it is; models, groups and data sets are measured by it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tests.stats.test_decisions import draw_predictions, halves
from utils.data.splits import LeakageError
from utils.evaluation.results import OTHER, SMALL, Evaluation, name_models, score_index
from utils.faces.detection import CropRecipe, focus
from utils.faces.media import load_crop
from utils.model.network import build_model, save_model
from utils.model.scoring import load_scorer
from utils.run.artifacts import ARTIFACTS, read_json, read_table, write_json
from utils.stats.decisions import FACE_FACTS, THRESHOLD_RULES, Decision, choose_decision

CPU = torch.device("cpu")
BATCHES = {"batch_size": 16, "num_workers": 0}
SETTINGS = {"n_resamples": 30, "seed": 0}


@pytest.fixture(scope="module")
def scored(project):
    return score_index(project.index, project.data, project.output, project.scorer, **BATCHES)


@pytest.fixture(scope="module")
def results(project, scored):
    decision = choose_decision(scored[scored["split"] == "val"])
    return Evaluation.open(
        scored, decision, project.index, str(project.data), project.output, project.scorer,
        **SETTINGS,
    )  # fmt: skip


# --- scoring an index -------------------------------------------------------------------------


def test_every_crop_of_val_and_test_is_scored_and_described_in_the_order_of_the_index(
    project, scored
):
    expected = project.index[project.index["split"] != "train"].reset_index(drop=True)
    pd.testing.assert_frame_equal(scored[expected.columns], expected)
    assert set(scored["split"]) == {"val", "test"}
    for row in scored.sample(8, random_state=0).itertuples():
        image = load_crop(row.file)
        red = np.asarray(image.resize((8, 8)))[..., 0].mean()
        assert row.file == str(project.data / row.path)
        assert row.logit == pytest.approx(2 * red / 255, abs=0.02)
        grey = np.asarray(image.convert("L"))
        assert row.brightness == pytest.approx(grey.mean() / 255, abs=1e-3)
        known = int(row.video[1:]) % 2 == 0
        assert row.focus == pytest.approx(focus(image), abs=1e-6) if known else np.isnan(row.focus)


def test_tracks_and_sizes_are_those_of_the_boxes_where_there_are_any(scored):
    known = scored["video"].str[1:].astype(int) % 2 == 0
    assert scored["track"].notna().tolist() == known.tolist()
    assert (scored.loc[known, "track"] == scored.loc[known, "face"]).all()
    assert (scored.loc[known, "face_size"] == 160).all()  # the larger side of the box
    assert (scored.loc[~known, "face_size"] == 24).all()  # of the crop
    side = 80 * CropRecipe().shrunk(640, 480)[0] / 640
    assert (scored.loc[known, "side"] == side).all()
    assert scored.loc[~known, list(FACE_FACTS)].isna().all(axis=None)


def test_split_that_leaks_is_not_scored(project):
    moved = project.index.assign(
        split=project.index["split"].where(project.index["video"] != "f8", "train")
    )
    with pytest.raises(LeakageError, match="r8"):
        score_index(moved, project.data, project.output, project.scorer, **BATCHES)


def test_a_folder_that_is_no_model_is_refused_before_anything_is_scored(project, tmp_path):
    (tmp_path / "model" / "thesis").mkdir(parents=True)
    with pytest.raises(ValueError, match="no model of ours"):
        score_index(project.index, project.data, tmp_path, project.scorer, **BATCHES)


def test_further_models_get_a_column_each(project, scored, tmp_path):
    torch.manual_seed(0)
    network = build_model("test_efficientnet", image_size=32, pretrained=False)
    folder = save_model(network, tmp_path / "other" / "model", extra={}, card="")
    index = project.index[project.index["split"] == "test"]
    both = score_index(
        index, project.data, project.output, project.scorer, models=[str(folder.parent)], **BATCHES
    )
    theirs = load_scorer(folder, device=CPU).score_paths(both["file"].tolist())
    assert both[f"{OTHER}other"].to_numpy() == pytest.approx(theirs, abs=1e-5)
    ours = scored.loc[scored["split"] == "test", "logit"].to_numpy()
    assert both["logit"].to_numpy() == pytest.approx(ours, abs=1e-6)
    with pytest.raises(FileNotFoundError, match=r"MODELS: .*nothing holds no model"):
        score_index(
            index, project.data, project.output, project.scorer, models=[str(tmp_path / "nothing")]
        )


def test_models_get_names_that_tell_them_apart(tmp_path):
    for name in ("a", "b", "later/a"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
    folders = ["a", "b/model", "a/model", "later/a"]
    named = name_models([str(tmp_path / folder) for folder in folders])
    assert list(named) == [f"{tmp_path.name}/a", "b", "later/a"]
    assert all((home / "config.json").is_file() for home in named.values())
    with pytest.raises(FileNotFoundError, match="holds no model"):
        name_models([str(tmp_path)])


# --- opening ----------------------------------------------------------------------------------


def test_videos_are_judged_and_described_by_medians_and_their_fullest_frame(results, scored):
    videos = results.videos.set_index("video")
    assert results.videos["video"].tolist() == scored["video"].drop_duplicates().tolist()
    for video, rows in scored.groupby("video"):
        for name in ("face_size", "brightness", "sharpness"):
            assert videos.loc[video, name] == pytest.approx(rows[name].median())
    assert videos.index[videos["faces"] == "2 or more"].tolist() == ["f8"]
    assert set(videos.loc[videos["label"] == "FAKE", "method"]) == {"swap"}
    pd.testing.assert_frame_equal(
        results.videos[["dataset", "video", "n_faces", "score", "decision"]],
        results.decision.judge_videos(scored)[["dataset", "video", "n_faces", "score", "decision"]],
    )


def test_a_video_of_two_people_has_the_score_of_the_redder_one(results):
    two = results.crops[results.crops["video"] == "f8"]
    pooled = two.groupby("track")["logit"].agg(results.decision.pool)
    assert results.videos.set_index("video").loc["f8", "score"] == pytest.approx(pooled[2.0])
    assert pooled[2.0] > results.decision.pool(two["logit"]) > pooled[1.0]


def test_parts_are_those_of_the_splits(results, project):
    assert set(results.test["video"]) == {f"{kind}{n}" for kind in "rf" for n in range(8, 12)}
    assert set(results.test_crops["video"]) == set(results.test["video"])
    assert set(results.train["video"]) == {f"{kind}{n}" for kind in "rf" for n in range(4)}
    assert results.data == str(project.data) and results.settings == SETTINGS


def test_files_alone_are_measured_on_the_same_videos(results):
    test = results.test
    assert test["zero_pixel"].between(0, 1).all() and results.files["n_test"] == len(test)
    blind = roc_auc_score(test["label"] == "FAKE", test["zero_pixel"])
    assert results.files["video"]["roc_auc"]["value"] == pytest.approx(blind)
    ours = roc_auc_score(test["label"] == "FAKE", test["score"])
    assert results.files["roc_auc_difference"]["value"] == pytest.approx(ours - blind)


def test_files_that_say_nothing_are_left_as_they_are(project, scored, tmp_path):
    audit = read_json(project.output, "data_audit.json")
    known = {"roc_auc": {"value": None, "low": None, "high": None}, "n_test": 8}
    write_json(audit | {"zero_pixel": known}, tmp_path, "data_audit.json")
    decision = choose_decision(scored[scored["split"] == "val"])
    places = (str(project.data), tmp_path, project.scorer)
    ev = Evaluation.open(scored, decision, project.index, *places, **SETTINGS)
    assert ev.files == known and "zero_pixel" not in ev.videos


# --- headline ---------------------------------------------------------------------------------


def test_headline_counts_and_scores_crops_and_videos(results):
    head = results.headline()
    for level, table in (("frame", results.test_crops), ("video", results.test)):
        y_true, called = table["label"] == "FAKE", table["score"] >= results.decision.threshold
        assert head[level]["roc_auc"]["value"] == pytest.approx(
            roc_auc_score(y_true, table["score"])
        )
        assert head["n"][level] == {**table["label"].value_counts(), "sources": 4, "drawn": 4}
        assert np.sum(head["confusion"][level]) == len(table)
        assert head["confusion"][level][1][1] == (y_true & called).sum()
        assert head["baselines"]["majority"][level]["balanced_accuracy"] == 0.5
    assert head["n"]["video"] == {"REAL": 4, "FAKE": 4, "sources": 4, "drawn": 4}
    shuffled = head["baselines"]["shuffled_labels"]["roc_auc"]
    assert shuffled["low"] < 0.5 < shuffled["high"]
    assert head["baselines"]["zero_pixel"] == results.files


def test_calibration_before_and_after_is_that_of_scikit_learn(evaluate):
    decision = Decision(2.0, offset=0.3, facts={"targets": {}})
    ev = evaluate(draw_predictions(), decision=decision, index=draw_predictions(seed=1))
    ev = replace(ev, index=ev.index.assign(split="train"))
    table, test = ev.headline()["calibration"], ev.test_crops
    y_true, logits = test["label"] == "FAKE", test["logit"]
    assert table["crops_before"]["brier"] == pytest.approx(brier_score_loss(y_true, expit(logits)))
    after = log_loss(y_true, expit(logits / 2 + 0.3))
    assert table["crops_after"]["log_loss"] == pytest.approx(after)
    by_video = log_loss(ev.test["label"] == "FAKE", ev.test["score"])
    assert table["videos_after"]["log_loss"] == pytest.approx(by_video)
    assert all(set(row) == {"log_loss", "brier", "ece"} for row in table.values())


# --- models and rules -------------------------------------------------------------------------


def test_a_model_is_compared_with_its_twin_and_with_noise(evaluate):
    rows = draw_predictions()
    rows[f"{OTHER}twin"] = 3 * rows["logit"]  # the same ranking
    rows[f"{OTHER}noise"] = np.random.default_rng(1).normal(size=len(rows))
    table = evaluate(rows, n_resamples=200).compare_models()["models"]
    assert list(table) == ["this model", "twin", "noise"]
    assert "roc_auc_difference" not in table["this model"]
    assert table["twin"]["roc_auc_difference"]["value"] == pytest.approx(0, abs=1e-12)
    twins = [table[name]["temperature"] for name in ("twin", "this model")]
    assert twins[0] == pytest.approx(3 * twins[1], rel=1e-3)
    assert table["noise"]["roc_auc_difference"]["low"] > 0.1


def test_each_model_stands_on_its_own_decision_of_val(evaluate):
    rows = draw_predictions()
    rows[f"{OTHER}shifted"] = rows["logit"] + 4  # another threshold is right for it
    table = evaluate(rows).compare_models()["models"]["shifted"]
    val, test = halves(rows.assign(logit=rows[f"{OTHER}shifted"]))
    own = choose_decision(val)
    videos = own.judge_videos(test)
    y_true, called = videos["label"] == "FAKE", videos["score"] >= own.threshold
    expected = ((called & y_true).sum() / y_true.sum() + (~called & ~y_true).sum() / 30) / 2
    assert table["balanced_accuracy"]["value"] == pytest.approx(expected)
    assert (table["threshold"], table["aggregation"]) == (own.threshold, own.aggregation)


def test_without_further_models_there_is_nothing_to_compare(evaluate):
    assert evaluate(draw_predictions()).compare_models() == {"models": {}}


def test_every_rule_is_chosen_on_val_and_read_on_test(evaluate):
    val, _ = halves(draw_predictions())
    decision = choose_decision(val, rule="eer", fpr_target=0.1, cost_ratio=2.0)
    ev = evaluate(draw_predictions(), decision=decision)
    chosen = ev.compare_rules()
    assert tuple(chosen["rules"]) == THRESHOLD_RULES
    assert chosen["rules"]["eer"]["threshold"] == pytest.approx(decision.threshold)
    assert chosen["rule_targets"] == {"fpr_target": 0.1, "cost_ratio": 2.0}
    real = ev.test[ev.test["label"] == "REAL"]
    for row in chosen["rules"].values():
        share = (real["score"] < row["threshold"]).mean()
        assert row["test"]["specificity"] == pytest.approx(share)
    assert chosen["rules"]["fpr"]["val"]["specificity"] >= 0.9
    assert chosen["aggregations"][0]["how"] == decision.aggregation
    assert chosen["abstention"].items() >= decision.abstention.items()


def test_effect_of_the_band_by_hand(evaluate):
    ev = evaluate(draw_predictions())
    videos = pd.DataFrame({"label": ["FAKE", "REAL", "REAL", "FAKE"], "source": list("abcd"),
                           "decision": ["FAKE", "FAKE", "UNSURE", "FAKE"], "split": "test",
                           "score": [0.9, 0.8, 0.5, 0.9]})  # fmt: skip
    judged = pd.concat([ev.videos[ev.videos["split"] == "val"], videos])
    effect = replace(ev, videos=judged).compare_rules()["abstention"]["test"]
    assert effect["coverage"]["value"] == 0.75
    assert effect["error"]["value"] == pytest.approx(1 / 3)


# --- groups -----------------------------------------------------------------------------------


@pytest.fixture
def slice_up(evaluate):
    """Groups of videos that are given."""
    ev = evaluate(draw_predictions(sources=2), decision=Decision())
    return lambda videos: replace(ev, videos=videos.assign(split="test")).slice_videos()["slices"]


def draw_videos(n=60):
    """Half REAL, half FAKE by two methods; all else as given by the number of the video."""
    i = np.arange(n)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "video": [f"v{k}" for k in i],
            "dataset": "one",
            "source": [f"s{k // 2}" for k in i],
            "label": np.where(i % 2, "FAKE", "REAL"),
            "method": np.where(i % 2, np.where(i % 4 == 1, "swap", "reenact"), ""),
            "score": rng.random(n),
            "faces": np.where(i < 6, "2 or more", "1"),
            "face_size": i.astype(float),
            "brightness": 0.5,
            "sharpness": np.where(i < 30, 1.0, 2.0),
        }
    )


def test_a_method_is_its_fakes_against_all_real_videos(slice_up):
    videos = draw_videos()
    group = slice_up(videos)["method"]["swap"]
    rows = videos[(videos["label"] == "REAL") | (videos["method"] == "swap")]
    auc = roc_auc_score(rows["label"] == "FAKE", rows["score"])
    assert group["roc_auc"]["value"] == pytest.approx(auc, abs=1e-12)
    assert (group["n"], group["REAL"], group["FAKE"], group["sources"]) == (15, 30, 15, 30)


def test_numbers_are_cut_into_thirds_that_hold_each_video_once(slice_up):
    groups = slice_up(draw_videos())["face_size"]
    assert list(groups) == ["small: 0 to 19", "middle: 20 to 39", "large: 40 to 59"]
    assert [group["n"] for group in groups.values()] == [20, 20, 20]


def test_what_is_the_same_for_all_makes_no_groups_and_two_values_make_two(slice_up):
    groups = slice_up(draw_videos())
    assert "brightness" not in groups and "dataset" not in groups
    assert list(groups["sharpness"]) == ["blurred: 1.00 to 1.00", "sharp: 2.00 to 2.00"]


def test_few_videos_of_a_class_are_marked_and_one_class_is_not_defined(slice_up):
    videos = draw_videos()
    groups = slice_up(videos)["faces"]
    assert groups["2 or more"]["small"] and not groups["1"]["small"]
    assert groups["2 or more"]["REAL"] == 3 < SMALL
    one = videos.assign(faces=np.where(videos["label"] == "REAL", "1", "2 or more"))
    group = slice_up(one)["faces"]["1"]
    assert group["roc_auc"] == {"value": None, "low": None, "high": None} and group["small"]


# --- elsewhere --------------------------------------------------------------------------------


@pytest.fixture
def faces(tmp_path):
    """A data set of crops: two real videos, a fake of each, tracks known of the second pair."""
    lines = ["filename,label,split,original,width,height"]
    for name, label, original in (("ra", "REAL", ""), ("rb", "REAL", ""),
                                  ("fa", "FAKE", "ra.mp4"), ("fb", "FAKE", "rb.mp4")):  # fmt: skip
        lines.append(f"{name}.mp4,{label},train,{original},640,480")
        (tmp_path / "faces" / name).mkdir(parents=True)
        for frame in range(4):
            image = Image.new("RGB", (20, 20), (60 * frame, 20, ord(name[0]) - ord(name[1])))
            image.save(tmp_path / "faces" / name / f"{frame}.png")
    (tmp_path / "faces" / "metadata.csv").write_text("\n".join(lines))
    boxes = pd.DataFrame({"video": np.repeat(["rb", "fb"], 4), "frame": [0, 1, 2, 3] * 2})
    boxes = boxes.assign(face=1, track=3, x1=0, y1=0, x2=60, y2=60, probability=1.0)
    boxes.to_csv(tmp_path / "faces" / "boxes.csv", index=False)
    return tmp_path / "faces"


@pytest.fixture
def trained_on(evaluate, faces):
    """Makes an `Evaluation` of a model that was trained on these videos of `faces`."""

    def make(*videos, dataset="faces", data=faces, **options):
        index = pd.DataFrame({"source": videos, "video": videos})
        index = index.assign(dataset=dataset, split="train", path=index["video"] + "/0.png")
        return evaluate(draw_predictions(), index=index, data=str(data), **options)

    return make


def test_own_test_split_comes_first_with_its_counts_and_scores(trained_on):
    ev = trained_on("ra")
    (row,), extra = ev.judge_elsewhere([], frames=0)
    assert (row["trained_on"], row["tested_on"]) == ("faces", "its own test split")
    assert (row["REAL"], row["FAKE"], row["sources"], row["left_out"]) == (30, 30, 30, 0)
    auc = roc_auc_score(ev.test["label"] == "FAKE", ev.test["score"])
    assert row["roc_auc"]["value"] == pytest.approx(auc)
    assert len(extra) == 0 and "elsewhere" not in row


def test_further_data_is_thinned_and_judged_by_the_decision_as_it_stands(trained_on, faces):
    ev = trained_on("ra", decision=Decision(0.5, offset=0.1))
    rows, crops = ev.judge_elsewhere([str(faces)], frames=2, **BATCHES)
    assert len(rows) == 2 and rows[1]["elsewhere"] and rows[1]["trained_on"] == "faces"
    assert (rows[1]["tested_on"], rows[1]["left_out"]) == ("faces", 2)
    assert (rows[1]["REAL"], rows[1]["FAKE"], rows[1]["sources"]) == (1, 1, 1)
    assert rows[1]["roc_auc"]["value"] == 0.5  # both videos hold the same pictures
    assert set(crops["video"]) == {"rb", "fb"}  # what was trained on is left out
    assert (crops.groupby("video").size() == 2).all()
    assert (crops["split"] == "extra").all() and set(crops["source"]) == {"rb"}
    red = 60 * crops["frame"] / 255 * 2
    np.testing.assert_allclose(crops["logit"], red, atol=1e-5)
    np.testing.assert_allclose(crops["score"], expit(red / 0.5 + 0.1), atol=1e-5)
    assert (crops["track"] == 3).all() and (crops["side"] > 0).all() and (crops["focus"] == 0).all()
    assert (crops["decides"] == 1).all()  # too blurred, but there is nobody else


def test_data_that_was_all_trained_on_is_refused(trained_on, faces):
    with pytest.raises(ValueError, match="EXTRA_DATA: every video of faces was trained on"):
        trained_on("ra", "rb").judge_elsewhere([str(faces)], frames=0)


def test_identity_is_data_set_and_content_and_not_a_bare_name(trained_on, faces, tmp_path):
    """A set whose files are called alike is another one; a copy under other names is the same."""
    home = tmp_path / "home"
    for name in ("ra", "x"):
        (home / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (len(name), 0, 9)).save(home / name / "0.png")
    (home / "metadata.csv").write_text("filename,label,original\nra.mp4,REAL,\nx.mp4,REAL,\n")
    ev = trained_on("ra", "x", dataset="home", data=home)
    rows, crops = ev.judge_elsewhere([str(faces)], frames=1, **BATCHES)
    assert rows[1]["left_out"] == 0 and set(crops["video"]) == {"ra", "rb", "fa", "fb"}
    shutil.copy(home / "x" / "0.png", faces / "rb" / "0.png")  # its fake goes with it
    rows, crops = ev.judge_elsewhere([str(faces)], frames=1, **BATCHES)
    assert rows[1]["left_out"] == 2 and set(crops["video"]) == {"ra", "fa"}


def test_dfdcs_names_mean_the_same_video_wherever_it_lies(trained_on, faces, tmp_path):
    (faces / "ra").rename(faces / "aaavbjopeq")
    listing = (faces / "metadata.csv").read_text().replace("ra.mp4", "aaavbjopeq.mp4")
    (faces / "metadata.csv").write_text(listing)
    again = shutil.copytree(faces, tmp_path / "again")
    for path in again.glob("*/*.png"):  # the same videos, cut anew
        Image.new("RGB", (20, 20), (1, 2, 3)).save(path)
    rows, crops = trained_on("aaavbjopeq", "rb").judge_elsewhere([str(again)], frames=1, **BATCHES)
    assert rows[1]["left_out"] == 2 and set(crops["video"]) == {"rb", "fb"}


def test_fakes_alone_have_rates_and_no_auc(trained_on, faces):
    listing = (faces / "metadata.csv").read_text().splitlines()
    fakes = [listing[0], *(line for line in listing if "FAKE" in line)]
    (faces / "metadata.csv").write_text("\n".join(fakes))
    rows, _ = trained_on("ra").judge_elsewhere([str(faces)], frames=1, **BATCHES)
    assert (rows[1]["REAL"], rows[1]["FAKE"], rows[1]["left_out"]) == (0, 1, 1)
    assert rows[1]["roc_auc"]["value"] is None and rows[1]["recall"]["value"] in (0, 1)


# --- what is written --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """OUTPUT, and what was handed to `write`."""
    output = tmp_path_factory.mktemp("written")
    parts = {**results.headline(), **results.slice_videos(), "robustness": {}}
    names = ["logit_jpeg_90"]
    corrupted = pd.DataFrame(0.25, index=results.test_crops.index[:3], columns=names)
    known = results.crops["track"].notna()
    content = results.write(output, parts, extra=results.crops[known], corrupted=corrupted)
    return output, content


def test_predictions_tell_a_videos_score_by_themselves_and_no_path_of_this_machine(
    written, results, project
):
    output, _ = written
    crops, videos = (
        read_table(output, name) for name in ("predictions.csv", "video_predictions.csv")
    )
    contract = ARTIFACTS["predictions.csv"].columns
    assert crops.columns.tolist()[: len(contract)] == contract
    decision = Decision.read(output / "model")
    deciding = crops[crops["decides"] == 1]
    people = deciding.groupby(["video", "track"], dropna=False)["logit"].agg(decision.pool)
    again = people.groupby("video").max()
    assert again.to_dict() == pytest.approx(dict(zip(videos["video"], videos["score"])), abs=1e-9)
    assert crops["score"].to_numpy() == pytest.approx(decision.score(crops["logit"]), abs=1e-9)
    for path in output.rglob("*"):
        if path.is_file():
            assert str(project.data.parent) not in path.read_text(), path.name
    assert pd.to_numeric(crops["logit_jpeg_90"]).notna().sum() == 3


@pytest.mark.parametrize("name", ["predictions.csv", "extra_predictions.csv"])
def test_tracks_are_whole_numbers_or_empty_and_decides_is_0_or_1(written, name):
    table = pd.read_csv(written[0] / name, dtype=str, keep_default_na=False)
    assert all(re.fullmatch(r"\d*", track) for track in table["track"])
    assert table["track"].isin(["1", "2"]).any()
    assert ("" in set(table["track"])) == (name == "predictions.csv")
    assert set(table["decides"]) <= {"0", "1"}
    contract = ARTIFACTS["predictions.csv"].columns
    assert table.columns.tolist()[: len(contract)] == contract
    assert {*FACE_FACTS, "dataset"} <= set(table.columns)


def test_videos_and_metrics_have_what_is_promised(written, results):
    output, content = written
    contract = ARTIFACTS["video_predictions.csv"].columns
    videos = read_table(output, "video_predictions.csv")
    assert videos.columns.tolist()[: len(contract)] == contract
    metrics = read_json(output, "metrics.json")
    assert metrics.keys() == content.keys()
    assert metrics.keys() >= {
        *("frame", "video", "baselines", "robustness", "slices", "threshold", "temperature"),
        *("threshold_rule", "aggregation", "offset", "units", "n", "confusion", "calibration"),
        *("model", "data", "versions", "seed", "resamples", "date"),
    }
    assert metrics["threshold"] == results.decision.threshold
    assert metrics["units"] == "videos"  # of half of val the tracks are not known
    assert metrics["model"] == {"name": "red", "prior": 0.5, "best_epoch": 2}
    assert metrics["data"] == {
        **{"datasets": ["faces"], "fingerprint": "abc", "split_by": "source", "apart": ""}
    }
    assert metrics["video"]["roc_auc"] == json.loads(json.dumps(content["video"]["roc_auc"]))


def test_decision_travels_with_a_copy_of_its_model(written, results):
    output, _ = written
    assert (output / "model" / "config.json").is_file()
    decision = Decision.read(output / "model")
    assert replace(decision, facts=results.decision.facts) == results.decision
    assert not (results.scorer.folder / "decision.json").exists()


def test_without_further_data_and_corruption_their_files_and_columns_are_not_made(
    results, tmp_path
):
    parts = {**results.headline(), "slices": {}, "robustness": {}}
    results.write(tmp_path, parts, extra=results.crops.iloc[:0])
    assert not (tmp_path / "extra_predictions.csv").exists()
    assert not [c for c in read_table(tmp_path, "predictions.csv") if c.startswith("logit_")]
