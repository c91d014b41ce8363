"""The servers that are measured, each on the same core before the same mock: the mock itself, others' proxies, ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
from machine import CORES, LOAD_CORE, SERVER_CORE, Missing, compiled, tied

from node.deposits import new_key
from node.ledger.ledger import Ledger
from node.localnet.process import free_port
from relays.payment import RECEIPT_HEADER

EVENTS, PAUSE_US = 100, 10_000
GRANT_MSAT = 10**13
KEYS_AT_ONCE = 500
READY_S, STOP_S, INSTALL_S, POLL_S = 90, 10, 600, 0.01
LITELLM = "1.81.14"
"""Named, not the newest: releases of this package have carried malware."""


class Place(msgspec.Struct, frozen=True):
    """Where the servers run, and what was asked for."""

    folder: Path
    mock_port: int
    litellm: Path | None = None
    books: str = ""
    """A PostgreSQL; without it the node has SQLite."""
    workers: int = 1
    """Processes of the node, each with a core as far as there are any."""
    accounts: int = 1
    name: str = "satroute"
    """What the node is called in the figures."""

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.mock_port}"


class Server(msgspec.Struct, frozen=True):
    """A running one."""

    name: str
    port: int
    pid: int
    keys: Path
    """A file, one bearer key a line."""
    receipt: str = ""
    """The header that its answers must have."""
    ready_s: float = 0
    """From its start to its first answer."""


@contextmanager
def running(
    name: str, words: list[str], port: int, folder: Path, *cores: int, **env: str
) -> Iterator[tuple[int, float]]:
    """Start it, wait until it lists its models, yield its pid and how long that took; stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log, began = folder / "log.txt", time.monotonic()
    inherited = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    with log.open("ab") as out:
        process = subprocess.Popen(
            tied(words, *cores), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            env={**inherited, "HOME": str(folder), **env}, start_new_session=True,
        )  # fmt: skip
    try:
        with httpx.Client(trust_env=False, timeout=5) as http:
            while not _answers(http, f"http://127.0.0.1:{port}/v1/models"):
                if process.poll() is not None or time.monotonic() > began + READY_S:
                    raise Missing(f"{name} does not start: {log.read_text(errors='replace')[-600:]}")
                time.sleep(POLL_S)
        yield process.pid, round(time.monotonic() - began, 2)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def mock(program: Path, folder: Path, models: int = 2, core: int = LOAD_CORE) -> Iterator[tuple[int, int]]:
    """The upstream; yields its port and pid."""
    port = free_port()
    words = [str(program), str(port), str(EVENTS), str(PAUSE_US), str(models)]
    with running("the mock", words, port, folder, core) as (pid, _):
        yield port, pid


@contextmanager
def direct(place: Place) -> Iterator[Server]:
    """No proxy: a mock of its own on the servers' core."""
    with mock(compiled("mock", place.folder), place.folder / "direct", core=SERVER_CORE) as (port, pid):
        yield Server("direct", port, pid, _keys(place, "any"))


@contextmanager
def nginx(place: Place) -> Iterator[Server]:
    """nginx with one process that keeps its connections to the upstream."""
    if (program := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is None:
        raise Missing("nginx is not installed: left out (apt-get install nginx-light)")
    folder, port = place.folder / "nginx", free_port()
    folder.mkdir(parents=True)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors.txt;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; {temporary}
            upstream behind {{ server 127.0.0.1:{place.mock_port}; keepalive 512; }}
            server {{
                listen 127.0.0.1:{port} backlog=1024; keepalive_requests 1000000000;
                location / {{
                    proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                }}
            }}
        }}
    """)
    words = [program, "-e", f"{folder}/errors.txt", "-c", f"{folder}/nginx.conf"]
    with running("nginx", words, port, folder, SERVER_CORE) as (pid, ready_s):
        yield Server("nginx", port, pid, _keys(place, "any"), ready_s=ready_s)


@contextmanager
def bare(place: Place) -> Iterator[Server]:
    """The node's own framework and client without what it is paid for."""
    port = free_port()
    words = [sys.executable, str(Path(__file__).with_name("bare.py")), str(port), place.upstream]
    with running("bare", words, port, place.folder / "bare", SERVER_CORE) as (pid, ready_s):
        yield Server("bare", port, pid, _keys(place, "any"), ready_s=ready_s)


@contextmanager
def litellm(place: Place) -> Iterator[Server]:
    """LiteLLM's proxy: one worker, no database, no keys, no logs."""
    program, folder, port = place.litellm or installed_litellm(), place.folder / "litellm", free_port()
    folder.mkdir(parents=True)
    parameters = f"api_base: {place.upstream}/v1, api_key: any"
    listed = "\n".join(
        f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}, {parameters}}}}}"
        for name in ("burst", "paced")
    )
    (folder / "config.yaml").write_text(f"model_list:\n{listed}\nlitellm_settings: {{telemetry: false}}\n")
    words = [str(program), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    words += ["--telemetry", "False"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    with running("LiteLLM", words, port, folder, SERVER_CORE, **quiet) as (pid, ready_s):
        yield Server("litellm", port, pid, _keys(place, "any"), ready_s=ready_s)


def installed_litellm() -> Path:
    """Its command, in an environment of its own that later runs find again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "satroute-bench" / f"litellm-{LITELLM}"
    program, uv = folder / "bin" / "litellm", shutil.which("uv") or "uv"
    if not program.exists():
        print(f"installing LiteLLM {LITELLM} into {folder}", file=sys.stderr)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder), f"litellm[proxy]=={LITELLM}"]
        try:
            for words in ([uv, "venv", "--quiet", "--clear", str(folder)], install):
                subprocess.run(words, check=True, timeout=INSTALL_S, stdout=sys.stderr)
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(f"LiteLLM cannot be installed: left out (--litellm PATH names another): {error}") from error
    return program


@contextmanager
def satroute(place: Place) -> Iterator[Server]:
    """The node as an operator runs it: `satroute serve`, durable books, each request held, metered, posted and receipted."""
    folder, port = place.folder / f"satroute-{time.monotonic_ns()}", free_port()
    books = place.books or f"sqlite:///{folder / 'ledger.db'}"
    folder.mkdir(parents=True)
    keys = _keys(place, *asyncio.run(_granted(books, place.accounts)))
    settings = {
        "PORT": str(port),
        "DATA_DIR": str(folder),
        "DATABASE_URL": place.books,
        "UPSTREAM_BASE_URL": f"{place.upstream}/v1",
        "CASHU_MINTS": place.upstream,  # never asked: these callers have keys
        "FIXED_PER_1K_INPUT_TOKENS": "2",
        "FIXED_PER_1K_OUTPUT_TOKENS": "8",
        "MAX_REQUESTS_PER_KEY": "4096",
        "LOG_LEVEL": "WARNING",
    }
    words = [sys.executable, "-m", "node.cli", "serve"]
    if place.workers > 1:
        words += ["--workers", str(place.workers)]
    with running("satroute", words, port, folder, *CORES[: place.workers], **settings) as (pid, ready_s):
        yield Server(place.name, port, pid, keys, RECEIPT_HEADER, ready_s)
    asyncio.run(_audited(books))


async def _granted(books: str, count: int) -> list[str]:
    """Keys with money that the operator gave."""
    ledger = await Ledger.open(books)
    made = [new_key() for _ in range(count)]
    for at in range(0, count, KEYS_AT_ONCE):
        part = made[at : at + KEYS_AT_ONCE]
        await asyncio.gather(*(ledger.create_key(key.hash, key.hint, "", GRANT_MSAT) for key in part))
    await ledger.close()
    return [key.text for key in made]


async def _audited(books: str) -> None:
    """The sums of a stopped node are proven: what it served fast, it also booked."""
    ledger = await Ledger.open(books)
    await ledger.audit()
    await ledger.close()


def _keys(place: Place, *keys: str) -> Path:
    path = place.folder / f"keys-{time.monotonic_ns()}.txt"
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


PEERS: Mapping[str, Callable[[Place], AbstractContextManager[Server]]] = {
    "direct": direct,
    "nginx": nginx,
    "bare": bare,
    "litellm": litellm,
    "satroute": satroute,
}
