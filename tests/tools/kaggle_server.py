"""A stand-in for Kaggle's server on this machine: it answers the real client and keeps a record."""

import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class KaggleServer:
    """Knows what a push needs: a data set and kernels that run for one question, then end.

    Args:
        dataset: whether the data set exists already.
        outcomes: {slug: "ERROR"} for kernels that fail; the others complete.
        answers: {call: (status, body)} in place of the usual answer to a call.
    """

    def __init__(self, *, dataset=False, outcomes=None, answers=None):
        self.dataset = dataset
        self.outcomes = outcomes or {}
        self.answers = answers or {}
        self.calls = []  # (name of the call, what it was about)
        self.bodies = []  # of the same calls
        self.uploads = {}  # {name of a file: its content}
        self._asked = set()
        handler = type("Handler", (_Handler,), {"kaggle": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://localhost:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._http.server_close()

    def unpack(self, folder):
        """What is mounted: Kaggle unpacks an uploaded archive into a folder of its name."""
        for name, content in self.uploads.items():
            if name.endswith(".zip"):
                zipfile.ZipFile(io.BytesIO(content)).extractall(folder / name.removesuffix(".zip"))
            else:
                (folder / name).write_bytes(content)

    def answer(self, call, body):
        """Status and JSON of the answer to a call."""
        about = body.get("slug") or body.get("kernelSlug") or body.get("datasetSlug")
        self.calls.append((call, (about or body.get("name", "")).split("/")[-1]))
        self.bodies.append(body)
        if call in self.answers:
            return self.answers[call]
        return 200, getattr(self, f"_{call}")(body)

    def _GetDatasetStatus(self, body):
        if not self.dataset:
            return {"code": 404, "message": "Not found"}
        ready = "dataset" in self._asked
        self._asked.add("dataset")
        return {"status": "READY" if ready else "BLOBS_RECEIVED"}

    def _StartBlobUpload(self, body):
        return {"token": f"token of {body['name']}", "createUrl": f"{self.url}/blob/{body['name']}"}

    def _CreateDataset(self, body):
        self.dataset = True
        return {"status": "Ok", "url": f"{self.url}/datasets/{body['slug']}", "error": ""}

    def _CreateDatasetVersion(self, body):
        return {"status": "Ok", "url": f"{self.url}/datasets/{body['datasetSlug']}", "error": ""}

    def _SaveKernel(self, body):
        return {"ref": body["slug"], "url": f"{self.url}/code/{body['slug']}", "versionNumber": 1}

    def _GetKernelSessionStatus(self, body):
        slug = body["kernelSlug"]
        if slug not in self._asked:
            self._asked.add(slug)
            return {"status": "RUNNING"}
        outcome = self.outcomes.get(slug, "COMPLETE")
        failure = {"failureMessage": "Your notebook was stopped"} if outcome == "ERROR" else {}
        return {"status": outcome, **failure}

    def _ListKernelSessionOutput(self, body):
        lines = [{"stream_name": "stderr", "time": 1.0, "data": "ValueError: no room\n"}]
        return {"files": [], "log": json.dumps(lines)}


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer = self.kaggle.answer(self.path.split("/")[-1], json.loads(body or b"{}"))
        self._reply(answer.get("code", status), json.dumps(answer).encode())

    def do_PUT(self):
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.split("/")[-1]
        self.kaggle.uploads[name] = content
        self.kaggle.calls.append(("PUT", name))
        self.kaggle.bodies.append({})
        self._reply(200, b"{}")

    def _reply(self, status, content):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass
