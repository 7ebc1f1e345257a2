"""The report in headless Chromium: it asks nothing of the network, and fits a phone."""

import json
import re
import shutil
import socket
import subprocess
import threading

import pytest
from PIL import Image

from tests.report.test_page import METRICS
from utils.report.words import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
#: Hosts that Chromium asks on its own account, of an empty page too; more with every version. What
#: a page would fetch from Google, fonts and scripts, is not among them.
OWN_HOSTS = re.compile(
    r"(//|^CONNECT )(?!fonts\.|ajax\.)[\w.-]+\.(google|googleapis|gvt1)(\.me)?\.com[:/]"
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture
def page(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (900, 500), "white").save(tmp_path / "figures" / "slices.png")
    return write_report(tmp_path)


def browse(page, folder, *options):
    """Open the page with every request led to a proxy; give what reached the proxy, and stdout."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    asked.append(client.recv(4096).split(b"\r\n")[0].decode(errors="replace"))

        threading.Thread(target=listen, daemon=True).start()
        command = [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder / 'profile'}", "--proxy-bypass-list=<-loopback>"),
            f"--proxy-server=127.0.0.1:{server.getsockname()[1]}",
            *(*options, page.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        server.shutdown(socket.SHUT_RDWR)
    return [line for line in asked if line and not OWN_HOSTS.search(line)], done.stdout


def test_no_request_leaves_the_report(page, tmp_path):
    asked, shown = browse(page, tmp_path, "--dump-dom")
    assert "How good is it?" in shown
    assert asked == []


def test_a_page_that_asks_is_seen(page, tmp_path):
    html = page.read_text(encoding="utf-8")
    policy = html[html.index('<meta http-equiv="Content-Security-Policy"') :].split("\n")[0]
    asking = tmp_path / "asking.html"
    asking.write_text(
        html.replace(policy, "").replace("</body>", '<img src="http://a.test/x.png"></body>'),
        encoding="utf-8",
    )
    asked, _ = browse(asking, tmp_path, "--dump-dom")
    assert any("http://a.test/x.png" in line for line in asked)


def test_the_policy_stops_what_slips_in(page, tmp_path):
    html = page.read_text(encoding="utf-8")
    leaking = tmp_path / "leaking.html"
    leaking.write_text(
        html.replace("</body>", '<img src="http://a.test/x.png"></body>'), encoding="utf-8"
    )
    assert browse(leaking, tmp_path, "--dump-dom")[0] == []


@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    probe = tmp_path / "probe.html"
    html = page.read_text(encoding="utf-8").replace("default-src 'none';", "", 1)
    script = "document.title = `wide ${document.documentElement.scrollWidth}`"
    probe.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    _, shown = browse(probe, tmp_path, f"--window-size={width},900", "--dump-dom")
    title = shown[shown.index("<title>wide ") + 12 :].split("<")[0]
    assert int(title) <= width
