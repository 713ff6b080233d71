"""An S3 server for tests: moto's, in a process of its own on loopback, which counts requests and can be told to fail.

`python s3_server.py` prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

BUCKET = "bucket"
CONTROL = "/_control"  # of the server itself, no bucket may be called so
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class S3Server:
    """A server that runs; `environment` is what makes a process use it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def fail(self, first: int, status: int = 503, kinds: Iterable[str] = ("PUT", "GET", "HEAD", "DELETE")) -> None:
        """Answer the next `first` requests of each of some kinds with a status of 5xx."""
        self._tell({"fail": dict.fromkeys(kinds, first), "status": status})

    def slow(self, first: int, seconds: float, kinds: Iterable[str] = ("PUT", "GET", "HEAD", "DELETE")) -> None:
        """Wait with the answer to the next `first` requests of each of some kinds."""
        self._tell({"slow": dict.fromkeys(kinds, first), "seconds": seconds})

    def counts(self) -> dict[str, int]:
        """Requests since the start by kind (`PUT`, `LIST` ..), those that failed (`failed`, `slowed`), and bytes."""
        with urllib.request.urlopen(f"{self.url}{CONTROL}") as answer:
            found: dict[str, int] = json.load(answer)
            return found

    def _tell(self, what: dict[str, Any]) -> None:
        request = urllib.request.Request(f"{self.url}{CONTROL}", json.dumps(what).encode(), method="POST")
        with urllib.request.urlopen(request):
            pass


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with an empty bucket called BUCKET."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        server = S3Server(int(process.stdout.readline()))
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")):
            pass
        yield server
        process.stdin.close()


def use_server(server: S3Server, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and those that it starts, use a server, with local copies in a folder of their own."""
    from cellsemi.rounds.storage import object_store

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CELLSEMI_OBJECT_CACHE", str(copies))
    object_store.others_wrote()
    object_store.file_system.cache_clear()


class Faults:
    """Counts what comes in, and answers some of it late or with an error before the server sees it."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app, self._lock = app, threading.Lock()
        self._told: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start)
        kind = environ["REQUEST_METHOD"]
        shown = "LIST" if kind == "GET" and "list-type=2" in environ.get("QUERY_STRING", "") else kind
        content = b""
        if kind in ("PUT", "POST"):  # taken whole, so that an answer can be given before the server sees it
            chunked = environ.pop("HTTP_TRANSFER_ENCODING", "") == "chunked"
            content = environ["wsgi.input"].read(*([] if chunked else [int(environ.get("CONTENT_LENGTH") or 0)]))
            environ |= {"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content))}
        with self._lock:
            self._counts[shown] += 1
            self._counts["bytes in"] += len(content)
            slow, fail = self._take("slow", kind), self._take("fail", kind)
            self._counts["slowed"] += slow
            self._counts["failed"] += fail
        if fail:
            start(f"{self._told['status']} Slow Down", [("Content-Type", "application/xml"), ("Content-Length", "0")])
            return [b""]
        answer = list(self._app(environ, start))
        with self._lock:
            self._counts["bytes out"] += sum(map(len, answer)) if kind == "GET" else 0
        if slow:  # what was asked for is done, and in the order in which it was asked for, as S3 states it
            time.sleep(self._told["seconds"])
        return answer

    def _take(self, what: str, kind: str) -> bool:
        left = self._told.get(what, {})
        if left.get(kind, 0) > 0:
            left[kind] -= 1
            return True
        return False

    def _control(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            if environ["REQUEST_METHOD"] == "POST":
                self._told |= json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            answer = json.dumps(self._counts).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]


def serve() -> None:
    """Serve moto's S3 on a free port of loopback."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

    app = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)  # noqa: T201
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # whatever requests are still open


if __name__ == "__main__":
    serve()
