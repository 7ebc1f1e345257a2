"""Answers as pictures: what they show, where they lie, and that a browser plays them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faces.test_detection import LEFT, RIGHT, scene
from tests.faces.test_media import sound
from tools.predict import main
from utils.evaluation.showing import can_explain
from utils.faces.media import probe, sample_frames, write_video
from utils.inference.answers import judge_files
from utils.inference.judging import Answer, judge_file
from utils.inference.pictures import (
    Pictures,
    annotate_image,
    annotate_video,
    boxes_between,
    file_names,
    peak_rows,
)
from utils.report.figures import plain, plot_people, plot_timeline, show_figures, use_theme

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def theme():
    use_theme()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two people who walk to the right, with sound."""
    folder = tmp_path_factory.mktemp("clip")
    sound(folder / "sound.m4a", blocks=40)
    frames = [scene(*[(x + 4 * i, y, size) for x, y, size in (LEFT, RIGHT)]) for i in range(16)]
    return str(write_video(folder / "clip.mp4", frames, fps=8, sound_from=folder / "sound.m4a"))


@pytest.fixture(scope="module")
def answer(judge, clip):
    return judge_file(judge, clip, frames_per_video=4)


def faces(**columns):
    table = pd.DataFrame(columns)
    return table.assign(**{c: 10.0 for c in ("x1", "y1", "x2", "y2") if c not in table})


# names


def test_no_name_leaves_the_folder_or_carries_markup():
    names = [
        *("../../etc/passwd", "/abs/a.mp4", "..", "", "a b.mp4", "x/a_b.mov", "A_B.avi"),
        *("<img src=x onerror=alert(1)>.mp4", "q'\"`$(rm).mp4", "лицо 顔.mp4", "n\n\x1b[2J.mp4"),
        "x" * 300 + ".mp4",
        "顔" * 80 + ".mp4",
    ]
    made = file_names(names)
    assert all(re.fullmatch(r"[\w-][\w.-]*", name) and len(name) <= 84 for name in made), made
    assert len({name.casefold() for name in made}) == len(names)
    assert all(len(f".{name}.timeline-0123456789abcdef.png".encode()) <= 255 for name in made)
    assert made[4:7] == ["a_b", "x_a_b", "A_B-2"]
    assert made[9] == "лицо_顔"


def test_title_is_drawn_as_it_is_written():
    assert plain("a$b$.mp4") == r"a\$b\$.mp4"
    assert plain("a\nb\x1b") == "a?b?"
    assert plain("лицо \N{EGYPTIAN HIEROGLYPH A001}") == "лицо ?"
    assert len(plain("x" * 300)) == 60
    rows = [("Person 1", "FAKE", [Image.new("RGB", (9, 9))], ["0.5"])]
    figure = plot_people(rows, title=r"<b>$\frac{}$ _^ .mp4")
    figure.canvas.draw()  # mathtext would fail here
    assert figure.get_suptitle().startswith("<b>")


# what is shown


def test_timeline_keeps_people_apart_and_breaks_where_one_was_away():
    table = faces(
        time_s=[1, 0, 2, 9, 0, 1], score=[0.9, 0.8, 0.7, 0.6, 0.1, 0.2], track=[1, 1, 1, 1, 2, 2]
    )
    people = pd.DataFrame({"track": [1, 2], "decides": [True, False]})
    ax = plot_timeline(table, people, threshold=0.5, band=(0.4, 0.6), title="a.mp4")
    first, second = ax.lines[:2]
    np.testing.assert_array_equal(first.get_xdata(), [0, 1, 2, np.nan, 9])
    np.testing.assert_array_equal(first.get_ydata(), [0.8, 0.9, 0.7, np.nan, 0.6])
    assert second.get_label() == "person 2 (not counted)"
    assert ax.get_title(loc="left") == "a.mp4: 1 person"
    plt.close("all")


def test_timeline_shows_a_person_who_is_seen_once():
    table = faces(time_s=[0, 1, 1], score=[0.9, 0.8, 0.1], track=[1, 1, 2])
    people = pd.DataFrame({"track": [1, 2], "decides": [True, False]})
    ax = plot_timeline(table, people, threshold=0.5, band=(0.4, 0.6), title="a.mp4")
    assert [line.get_xdata().tolist() for line in ax.lines[:2]] == [[0, 1], [1]]
    plt.close("all")


def test_peaks_are_the_highest_scores_of_each_part_of_a_persons_time():
    table = faces(time_s=range(8), track=[1] * 4 + [2] * 4, score=[1, 3, 9, 2, 5, 4, 7, 8])
    people = pd.DataFrame({"track": [1, 2]})
    assert peak_rows(table, people, n=2).tolist() == [[1, 2], [4, 7]]
    assert peak_rows(table, people, n=9).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_timeline_and_contact_sheet_show_every_person(judge, answer):
    pictures = Pictures(judge, [answer], 4)
    ((name, figure),) = pictures.timelines(n=-1)
    (ax,) = figure.axes
    assert name == "clip.timeline" and ax.get_title(loc="left") == "clip: 2 people"
    assert len(ax.artists) == 6  # faces at the peaks
    ((name, sheet),) = pictures.people(n=-1, n_maps=0)
    headings = [strip.get_suptitle() for strip in sheet.subfigs]
    assert name == "clip.people"
    assert [heading.split(",")[0][:9] for heading in headings] == ["Person 1:", "Person 2:"]
    assert sum(bool(ax.images) for strip in sheet.subfigs for ax in strip.axes) == 8
    for made in (figure, sheet):  # whoever sees the picture alone can tell who said so
        assert made.get_supxlabel() == f"Judged by {judge.model}"
    plt.close("all")


@pytest.mark.skipif(not can_explain(), reason="captum is not installed")
def test_contact_sheet_with_heat_maps_says_what_they_mean(judge, answer):
    again = replace(answer, score=answer.score / 2)  # the second of two has no maps
    sheets = [sheet for _, sheet in Pictures(judge, [again, answer], 4).people(n=2, n_maps=1)]
    shown = [sum(bool(ax.images) for s in sheet.subfigs for ax in s.axes) for sheet in sheets]
    assert shown == [16, 8]
    assert "not what was manipulated" in sheets[0].get_supxlabel()
    plt.close("all")


def test_file_without_a_face_has_no_picture_and_one_of_a_single_frame_no_timeline(judge, tmp_path):
    Image.fromarray(scene(LEFT)).save(tmp_path / "still.png")
    answers = [judge_file(judge, "missing.mp4"), judge_file(judge, str(tmp_path / "still.png"))]
    pictures = Pictures(judge, answers, 4)
    assert list(pictures.timelines(n=-1)) == []
    assert [name for name, _ in pictures.people(n=-1, n_maps=0)] == ["still.people"]
    made = pictures.annotate(tmp_path / "annotated", n=-1)
    assert [path.name for path in made] == ["still.png"]
    plt.close("all")


def made_answer(path, score, *, n=1, cropped=False):
    table = faces(track=[1] * n, score=[score] * n, frame=range(n))
    return Answer(path, "FAKE" if score >= 0.5 else "REAL", score, "", table, table, cropped)


def test_files_that_are_shown_take_turns_from_both_ends(judge):
    answers = [made_answer(f"{s}.mp4", s) for s in (0.5, 0.9, 0.1, 0.7)]
    answers += [made_answer("none.mp4", 0.99, n=0), made_answer("crop.png", 1.0, cropped=True)]
    pictures = Pictures(judge, answers, 4)

    def scores(n):
        return [answer.score for answer in pictures.choose(n).values()]

    assert scores(3) == [0.9, 0.1, 0.7]
    assert scores(4) == [0.9, 0.1, 0.7, 0.5]
    assert sorted(scores(9)) == sorted(scores(-1))
    assert scores(-1) == [0.9, 0.7, 0.5, 0.1]
    assert scores(1) == [0.9]
    assert scores(0) == []


def test_each_file_that_is_shown_has_a_safe_name_of_its_own(judge):
    paths = ["/x/a/0.mp4", "/x/b/0.mp4", "/x/A_0.avi", "/x/<b>$(rm).mp4"]
    answers = [made_answer(path, 0.9 - 0.1 * n) for n, path in enumerate(paths)]
    chosen = Pictures(judge, answers, 4).choose(-1)
    assert list(chosen) == ["a_0", "b_0", "A_0-2", "b_rm"]
    assert [answer.input for answer in chosen.values()] == paths


def test_crops_are_shown_by_score_with_their_answers(judge, tmp_path, crop):
    paths = [crop(tmp_path / f"{n}.png", n) for n in range(3)]
    answers = [made_answer(path, s, cropped=True) for path, s in zip(paths, (0.7, 0.2, 0.9))]
    answers.append(made_answer("clip.mp4", 0.1))
    ((name, figure),) = Pictures(judge, answers, 4).crops()
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.images]
    assert name == "faces" and titles == ["REAL 0.20", "FAKE 0.70", "FAKE 0.90"]
    ((_, many),) = Pictures(judge, answers[:3] * 9, 4).crops()
    assert sum(bool(ax.images) for ax in many.axes) == 24
    for nothing in ([], [made_answer("clip.mp4", 0.1)]):
        assert list(Pictures(judge, nothing, 4).crops()) == [("faces", None)]
    (broken,) = judge_files(judge, [], crops=[str(tmp_path / "missing.png")], progress=False)
    assert list(Pictures(judge, [broken], 4).crops()) == [("faces", None)]
    plt.close("all")


# annotated copies


def test_boxes_move_evenly_between_sampled_frames_and_end_where_a_person_goes():
    table = faces(frame=[2, 6, 30], track=1, score=[0.2, 0.6, 0.9], x1=[0.0, 40.0, 80.0])
    bend = boxes_between(table, step=4)[1]

    def at(frame):
        return float(np.interp(frame, bend["frame"], bend["x1"], np.nan, np.nan))

    assert at(4) == pytest.approx(20)
    assert (at(0), at(8)) == (0, 40)  # held for half a step
    assert np.isnan([at(-1), at(9), at(20), at(27), at(33)]).all()
    assert at(30) == 80


def test_annotated_video_plays_in_browsers_with_its_sound(judge, answer, tmp_path):
    (path,) = Pictures(judge, [answer], 4).annotate(tmp_path, n=1)
    assert path == tmp_path / "clip.mp4"
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.format.name) == ("h264", "yuv420p")
        assert sound.codec_context.name == "aac"
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # it starts before it is loaded
    info = probe(path)
    assert (info.n_frames, info.fps) == (16, 8)


def test_an_annotated_copy_names_the_model(answer, tmp_path):
    """In its lower left corner, white on black."""
    grey = Image.new("RGB", (640, 480), (127, 127, 127))
    grey.save(tmp_path / "grey.png")
    asked = replace(answer, input=str(tmp_path / "grey.png"), faces=answer.faces.iloc[:0])
    copy = np.asarray(Image.open(annotate_image(asked, tmp_path / "copy.png")).convert("L"))
    corner, elsewhere = copy[-8:, :60], copy[200:400]
    assert corner.min() < 60 and corner.max() > 200
    assert (elsewhere == 127).all()


def test_boxes_lie_on_the_faces_of_every_frame(answer, clip, tmp_path):
    path = annotate_video(answer, tmp_path / "a.mp4")
    pairs = zip(sample_frames(clip), sample_frames(path), strict=True)
    for (number, _, before), (_, _, after) in pairs:
        changed = np.abs(np.int16(before) - np.int16(after)).max(axis=2) > 60
        changed[:40] = False  # the answer, and labels
        columns = np.flatnonzero(changed[LEFT[1]])  # a row through both faces: sides of the boxes
        centres = [LEFT[0] + 4 * number, RIGHT[0] + 4 * number]
        for x in centres:
            assert (np.abs(columns - x) < 90).sum() >= 2, number


def test_video_of_a_varying_rate_stays_as_long_as_it_is(judge, tmp_path):
    path = str(tmp_path / "rate.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height = 640, 360
        for time in (0, 1, 2, 12, 13, 14, 30, 31):
            frame = av.VideoFrame.from_ndarray(scene(LEFT), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    made = probe(annotate_video(judge_file(judge, path), tmp_path / "a.mp4"))
    assert made.n_frames / made.fps == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("suffix", ["mkv", "webp"])
def test_copy_of_frames_that_lie_years_apart_ends(judge, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("utils.inference.pictures.ENOUGH", 20)
    path = str(tmp_path / f"far.{suffix}")
    if suffix == "webp":
        shots = [Image.fromarray(scene((200 + 9 * i, 170, 150))) for i in range(2)]
        shots[0].save(path, save_all=True, append_images=shots[1:], duration=16_000_000)
    else:
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height = 640, 360
            for time in (0, 16_000_000):
                frame = av.VideoFrame.from_ndarray(scene(LEFT), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    answer = judge_file(judge, path)
    assert answer.faces["time_s"].max() > 10_000
    assert probe(annotate_video(answer, tmp_path / "a.mp4")).n_frames <= 40


def test_a_stream_that_changes_its_size_has_a_copy_of_one_size(judge, tmp_path):
    parts = []
    for number, size in enumerate([(640, 360), (320, 180)]):
        shots = [np.asarray(Image.fromarray(scene(LEFT)).resize(size))] * 8
        parts.append(write_video(tmp_path / f"{number}.ts", shots, fps=8).read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    answer = judge_file(judge, str(tmp_path / "both.ts"), frames_per_video=0)
    assert {round(x / 64) for x in answer.faces["x1"]} != {round(answer.faces["x1"][0] / 64)}
    info = probe(annotate_video(answer, tmp_path / "a.mp4"))
    assert (info.width, info.height) == (640, 360) and info.n_frames > 8


def test_a_picture_that_cannot_be_made_is_a_line_and_costs_no_other(judge, clip, tmp_path, capsys):
    gone = str(tmp_path / "gone\x1b.mp4")
    Path(gone).write_bytes(Path(clip).read_bytes())
    answers = [judge_file(judge, path, frames_per_video=4) for path in (gone, clip)]
    Path(gone).unlink()
    pictures = Pictures(judge, answers, 4)
    assert [name for name, _ in pictures.timelines(n=-1)] == ["clip.timeline"]
    assert [name for name, _ in pictures.people(n=-1, n_maps=0)] == ["clip.people"]
    assert [path.name for path in pictures.annotate(tmp_path / "out", n=-1)] == ["clip.mp4"]
    said = capsys.readouterr().err
    assert said.count("no picture of it: ") == 3 and "\x1b" not in said


def test_picture_and_animation_are_annotated_too(judge, tmp_path):
    Image.fromarray(scene(LEFT)).save(tmp_path / "a.png")
    shots = [Image.fromarray(scene((200 + 9 * i, 170, 150))) for i in range(6)]
    shots[0].save(tmp_path / "a.gif", save_all=True, append_images=shots[1:], duration=100)
    answers = [judge_file(judge, str(tmp_path / name)) for name in ("a.png", "a.gif")]
    made = Pictures(judge, answers, 16).annotate(tmp_path / "out", n=-1)
    still, film = sorted(made, key=lambda path: path.suffix, reverse=True)
    assert (still.suffix, film.suffix) == (".png", ".mp4") and still.stem != film.stem
    assert Image.open(still).size == (640, 360)
    assert probe(film).n_frames >= 5


def test_large_video_is_shrunk_and_one_without_faces_says_so(judge, tmp_path):
    wall = [np.full((1080, 1920, 3), 90, np.uint8)] * 4
    path = write_video(tmp_path / "wall.mp4", wall, fps=8)
    info = probe(annotate_video(judge_file(judge, str(path)), tmp_path / "a.mp4"))
    assert (info.width, info.height) == (1280, 720)


# the page


def test_the_page_tells_every_answer_and_why_and_loads_nothing(
    judge, clip, media, tmp_path, monkeypatch
):
    evil = tmp_path / "<img src=x onerror=alert(1)> & \x1b.mp4"
    evil.write_bytes(Path(clip).read_bytes())
    inputs = [clip, str(evil), str(media / "broken.mp4")]
    answers = judge_files(judge, inputs, frames_per_video=4, progress=False)
    pictures = Pictures(judge, answers, 4)
    show_figures(pictures.timelines(n=-1), tmp_path / "out" / "annotated", show=False)
    page = pictures.write_page(tmp_path / "out")
    html = page.read_text("utf-8")
    assert page == tmp_path / "out" / "answers.html" and html.startswith("<!DOCTYPE html>")
    assert "<img src=x" not in html and "&lt;img src=x onerror" in html and "\x1b" not in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "<script" not in html
    assert html.count("data:image/png;base64,") == 2  # a timeline each
    assert "3 files: " in html and "1 not judged" in html and "not a readable" in html
    words = {"REAL": "Looks real", "FAKE": "Looks fake", "UNSURE": "Not sure"}
    assert (
        html.count(words[answers[0].decision]) >= 4 and f"Score {answers[0].score:.3f}"[:10] in html
    )
    few = Pictures(judge, answers, 4).write_page(tmp_path / "out").read_text("utf-8")
    assert "data:image/png" not in few  # the picture of an earlier run is not this one's
    assert "drawn faces only" not in few
    monkeypatch.setitem(judge.scorer.facts, "faces", "drawn")
    drawn = Pictures(judge, answers, 4).write_page(tmp_path / "out").read_text("utf-8")
    assert drawn.index("drawn faces only") < drawn.index("A score is the model")


def test_the_page_of_two_hundred_files_stays_small(judge, answer, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (450, 450, 3), dtype=np.uint8)
    (tmp_path / "annotated").mkdir()
    answers = [replace(answer, input=f"{n}.mp4") for n in range(200)]
    for n in range(200):
        Image.fromarray(noise).save(tmp_path / "annotated" / f"{n}.people.png", compress_level=0)
    drawn = {f"{n}.people" for n in range(200)}
    page = Pictures(judge, answers, 4, drawn).write_page(tmp_path)
    assert page.stat().st_size < 10_000_000
    assert page.read_text("utf-8").count("data:image/jpeg") == 200


# the command line


def test_command_line_prints_answers_and_writes_all_files(judge, clip, tmp_path, capsys):
    Image.fromarray(scene()).save(tmp_path / "wall's $.png")
    inputs = [clip, str(tmp_path / "wall's $.png")]
    options = [
        "--model",
        str(judge.scorer.folder),
        "--output",
        str(tmp_path / "out"),
        "--frames",
        "4",
    ]
    assert main(["--input", repr(inputs), "--device", "cpu", *options]) == 0
    said = capsys.readouterr().out
    assert "clip.mp4: " in said and "of 2 people" in said and "no face found" in said
    made = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    }
    assert made == {
        *("inference.csv", "verdicts.csv", "submission.csv"),
        *("annotated/clip.mp4", "annotated/clip.timeline.png", "annotated/clip.people.png"),
        "answers.html",
    }
    verdicts = pd.read_csv(tmp_path / "out" / "verdicts.csv")
    assert verdicts["input"].tolist() == ["clip.mp4", "wall's $.png"]
    assert verdicts["n_people"].tolist() == [2, 0]


def test_command_line_judges_crops_and_prints_objects_for_scripts(judge, tmp_path, capsys, crop):
    paths = [crop(tmp_path / f"{n}.png", n) for n in range(2)]
    model = ["--model", str(judge.scorer.folder), "--device", "cpu"]
    assert main(["--crops", str(tmp_path), "--json", "--prior", "0.1", *model]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == paths
    assert {row["prior"] for row in rows} == {0.1} and "where 10% are FAKE" in said.err
    assert {row["n_faces"] for row in rows} == {1} and rows[0]["model"] == judge.model
    assert judge.model in said.err and "trained on faces of" in said.err
    assert main(model) == 2 and "INPUT=clip.mp4" in capsys.readouterr().err


def test_command_line_has_a_table_of_many_and_fails_where_none_is_judged(judge, tmp_path, capsys):
    for n in range(12):
        (tmp_path / f"{n:02}.mp4").write_bytes(b"no video")
    model = ["--model", str(judge.scorer.folder), "--device", "cpu"]
    assert main(["--input", str(tmp_path), *model]) == 1
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["decision", "score", "faces", "input", "reason"]
    assert [line.split()[:4] for line in lines[:2]] == [
        ["UNSURE", "0.80", "0", "00.mp4"], ["UNSURE", "0.80", "0", "01.mp4"]
    ]  # fmt: skip


def test_command_line_says_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "tools.predict", "--input", str(tmp_path / "no.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "names no image and no video" in done.stderr and "Traceback" not in done.stderr


def test_name_in_an_error_cannot_steer_the_terminal(clip, capsys):
    assert main(["--input", clip, "--model", "no\x1b]0;owned\x07model"]) == 2
    said = capsys.readouterr().err
    assert "owned" in said and "\x1b" not in said and "\x07" not in said
