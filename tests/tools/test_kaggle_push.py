"""The real client against a stand-in server on this machine: which calls, in which order."""

import json

import pytest

from tests.tools.kaggle_server import KaggleServer
from tools import kaggle, kaggle_push
from tools.kaggle_push import KaggleError, describe_push, push, staged_kernels

pytest.importorskip("kaggle", reason="the client needs Python 3.11")

OWNER = "someone"
K00, K01, K02, K03, K04, K05 = (kernel["slug"] for kernel in kaggle.read_metadata()["kernels"])
STATUS, SAVE, ASK = "GetDatasetStatus", "SaveKernel", "GetKernelSessionStatus"


@pytest.fixture
def signed_in(tmp_path, monkeypatch):
    """Credentials in the environment, none elsewhere, and Kaggle out of reach."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    settings = {"KAGGLE_USERNAME": OWNER, "KAGGLE_KEY": "secret", "KAGGLE_API_ENVIRONMENT": "TEST"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(home))  # where the client keeps half uploads
    return monkeypatch


@pytest.fixture
def staged(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "tiny-1.0-py3-none-any.whl").write_bytes(b"wheel")
    described = kaggle.read_metadata(owner=OWNER)
    return kaggle.stage(described, tmp_path / "kaggle", wheels=wheels)


@pytest.fixture
def pushed(staged, signed_in):
    """Push to a server of the given state; returns results, what was said, and the server."""

    def run(**state):
        from kagglesdk import kaggle_env

        said = []
        with KaggleServer(**state) as server:
            signed_in.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, server.url)
            results = push(staged, say=said.append, pause=0.01)
        return results, "\n".join(said), server

    return run


UPLOADS = {
    (call, name)
    for call in ("StartBlobUpload", "PUT")
    for name in ("LICENSE", "models.zip", "tiny-1.0-py3-none-any.whl", "utils.zip", "wheels.txt")
}
#: Each kernel runs for one question and is complete at the next.
RUN_ALL = [
    *[(SAVE, K00), (SAVE, K01), (ASK, K00), (ASK, K01), (ASK, K00), (ASK, K01)],
    *[(call, kernel) for kernel in (K02, K03, K04, K05) for call in (SAVE, ASK, ASK)],
]


def test_first_push_makes_exactly_these_calls(pushed):
    results, _, server = pushed(dataset=False)
    name = "deepfake-detection-utils"
    asked = [(STATUS, name)] * 2  # ours, and the client's own before it creates
    assert server.calls[:2] == asked
    assert set(server.calls[2:12]) == UPLOADS
    assert server.calls[12:] == [("CreateDataset", name), *asked, *RUN_ALL]
    assert set(results.values()) == {"complete"}


def test_update_adds_a_version_and_creates_nothing(pushed):
    _, said, server = pushed(dataset=True)
    name = "deepfake-detection-utils"
    assert server.calls[0] == (STATUS, name)
    assert set(server.calls[1:11]) == UPLOADS
    assert server.calls[11:] == [("CreateDatasetVersion", name), (STATUS, name), *RUN_ALL]
    assert "new version" in said


def test_what_is_pushed_is_what_was_described(pushed, staged):
    _, _, server = pushed()
    bodies = dict(zip(server.calls, server.bodies))
    created = bodies["CreateDataset", "deepfake-detection-utils"]
    assert created["ownerSlug"] == OWNER and created["isPrivate"] is True
    assert len(created["files"]) == 5
    saved = bodies[SAVE, K03]
    assert saved["slug"] == f"{OWNER}/{K03}"
    assert saved["enableGpu"] is saved["enableInternet"] is saved["isPrivate"] is True
    assert saved["machineShape"] == "NvidiaTeslaT4"
    assert saved["kernelDataSources"] == [f"{OWNER}/{K02}"]
    assert f"{OWNER}/deepfake-detection-utils" in saved["datasetDataSources"]
    notebook = json.loads((staged / K03 / "03_train.ipynb").read_text())
    cells = json.loads(saved["text"])["cells"]
    assert [cell["source"] for cell in cells] == ["".join(c["source"]) for c in notebook["cells"]]
    assert bodies[SAVE, K01]["enableInternet"] is False


def test_what_is_mounted_is_what_was_staged_with_packages_in_packages(staged, pushed, tmp_path):
    """The client zips each folder of the data set, and Kaggle unpacks what it zipped."""
    _, _, server = pushed(dataset=False)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    server.unpack(mounted)
    dataset = staged / kaggle_push.UTILS_DATASET
    (dataset / "dataset-metadata.json").unlink()  # the client reads it and leaves it here
    assert (mounted / "utils" / "run" / "__init__.py").is_file()
    assert contents(mounted) == contents(dataset)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_failed_kernel_stops_those_that_read_it_and_its_log_is_fetched(pushed, staged):
    results, said, server = pushed(outcomes={K03: "ERROR"})
    expected = dict.fromkeys((K00, K01, K02), "complete") | {K03: "failed"}
    expected |= dict.fromkeys((K04, K05), "not pushed")
    assert results == {f"{OWNER}/{slug}": result for slug, result in expected.items()}
    assert not {(SAVE, K04), (SAVE, K05)} & set(server.calls)
    assert server.calls[-1] == ("ListKernelSessionOutput", K03)
    assert "ValueError: no room" in said and "Your notebook was stopped" in said
    assert "no room" in (staged / K03 / "run.log").read_text()


def test_a_failed_kernel_that_nobody_reads_stops_nothing(pushed):
    results, _, _ = pushed(outcomes={K00: "ERROR"})
    assert results.pop(f"{OWNER}/{K00}") == "failed"
    assert set(results.values()) == {"complete"}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({STATUS: (401, {"code": 401, "message": "no"})}, "does not know these credentials"),
        ({"CreateDataset": (403, {"code": 403, "message": "no"})}, "is OWNER your own name"),
        (
            {"CreateDataset": (200, {"status": "error", "error": "The title is in use"})},
            r"The title is in use.*change `utils.slug`",
        ),
        (
            {SAVE: (200, {"error": "The requested title is in use"})},
            r"The requested title is in use.*change `slug` and `title`",
        ),
        (
            {SAVE: (200, {"invalidDatasetSources": ["a/b"], "versionNumber": 1})},
            "without its dataset_sources a/b",
        ),
        ({SAVE: (500, {"code": 500, "message": "it broke"})}, r"it broke \(HTTP 500\)"),
    ],
)
def test_refusals_are_readable(pushed, answers, message):
    with pytest.raises(KaggleError, match=message):
        pushed(answers=answers)


def test_credentials_of_somebody_else_are_refused_before_any_call(pushed, signed_in):
    signed_in.setenv("KAGGLE_USERNAME", "somebody-else")
    with pytest.raises(KaggleError, match=r"OWNER=someone, but these are .* of somebody-else"):
        pushed()


def test_missing_credentials_say_how_to_get_them(signed_in):
    signed_in.delenv("KAGGLE_USERNAME")
    signed_in.delenv("KAGGLE_KEY")
    with pytest.raises(KaggleError, match=r"no Kaggle credentials: at kaggle\.com/settings"):
        kaggle_push.connect(OWNER)


def test_dry_run_tells_the_order_and_asks_nobody(staged, monkeypatch):
    monkeypatch.setattr("requests.Session.send", None)
    first, *kernels = describe_push(staged)
    assert "create it or add a version" in first
    assert [line.split()[1].split("/")[1] for line in kernels] == [K00, K01, K02, K03, K04, K05]
    assert kernels[3].endswith(f"when complete: {OWNER}/{K02}")


def test_kernels_come_after_those_that_they_read_whatever_they_are_called(tmp_path):
    for slug, reads in {"a": ["o/z"], "z": ["other/kernel"]}.items():
        (tmp_path / slug).mkdir()
        content = {"id": f"o/{slug}", "kernel_sources": reads}
        (tmp_path / slug / "kernel-metadata.json").write_text(json.dumps(content))
    assert list(staged_kernels(tmp_path)) == ["o/z", "o/a"]
