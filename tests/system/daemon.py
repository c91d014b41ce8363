"""What compose takes for Docker's daemon: every service of a project runs there, and which is stopped when is noted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any

API = "1.50"


@contextmanager
def running(folder: Path, project: str, services: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the services that it was told to stop, in that order."""
    stopped: list[str] = []
    containers = [_container(project, name) for name in services]

    class Daemon(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(200)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            version = {"Version": "28.0.0", "ApiVersion": API, "MinAPIVersion": "1.24"}
            self._answer(200, containers if path.endswith("/containers/json") else version)

        def do_POST(self) -> None:
            *_, id_, word = self.path.partition("?")[0].split("/")
            stopped.extend(each["Labels"]["com.docker.compose.service"] for each in containers if each["Id"] == id_)
            self._answer(204 if word == "stop" else 404)

        def _answer(self, status: int, body: Any = None) -> None:
            raw = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Api-Version", API)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def address_string(self) -> str:
            return "compose"

        def log_message(self, *_: object) -> None:
            pass

    path = folder / "docker.sock"
    with ThreadingUnixStreamServer(str(path), Daemon) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{path}", stopped
        server.shutdown()


def _container(project: str, service: str) -> dict[str, Any]:
    words = {"project": project, "service": service, "oneoff": "False", "container-number": "1", "config-hash": "x"}
    return {
        "Id": service.encode().hex().ljust(64, "0"),
        "Names": [f"/{project}-{service}-1"],
        "State": "running",
        "Labels": {f"com.docker.compose.{name}": word for name, word in words.items()},
    }
