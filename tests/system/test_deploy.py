"""What deploys a node: linted by each format's own program, and the image's steps done without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.config import Settings
from node.localnet.process import free_port
from tests.conftest import CERTIFICATES, DEAD_MINT
from tests.node.harness import PRICES
from tests.system import daemon
from tests.system.children import until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BESIDE = Path(sys.executable).parent
EVENTS = [b"data: %d\n\n" % number for number in range(5)]
STREAM_S = 30


def program(name: str) -> str:
    found = shutil.which(name, path=f"{BESIDE}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not to be had on this machine: it is installed on Linux on x86-64")
    return found


def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/tor.Dockerfile"])
def test_dockerfiles_are_linted(name: str) -> None:
    done = run(program("hadolint"), name)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^USER (?!0|root)\S+$", (ROOT / name).read_text(), re.MULTILINE), "not as root"


def laid_out(folder: Path, profiles: str) -> None:
    """What compose reads."""
    for name in ("compose.yml", "Dockerfile", "torrc"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(DEPLOY, folder / "deploy")
    (folder / ".env").write_text(f"{(ROOT / '.env.example').read_text()}COMPOSE_PROFILES={profiles}\n")


def test_the_image_backs_up_what_its_compose_file_serves() -> None:
    """pg_dump refuses servers that are newer than itself."""
    (server,) = re.findall(r"image: postgres:(\d+)-", (ROOT / "compose.yml").read_text())
    text = (ROOT / "Dockerfile").read_text()
    assert f"postgresql-client-{server} " in text
    copied = " ".join(f"/usr/lib/postgresql/{server}/bin/{name}" for name in ("pg_dump", "pg_restore"))
    assert f"COPY --from=postgres {copied} /usr/local/bin/" in text


def composed(folder: Path, **env: str) -> dict[str, Any]:
    laid_out(folder, "*")
    done = run(program("docker-compose"), "config", "--format", "json", cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def test_compose_is_read_and_each_service_has_no_more_than_it_needs(folder: Path) -> None:
    config = composed(folder, DOMAIN="node.example.com")
    services = config["services"]
    assert set(services) == {"node", "caddy", "tor", "postgres"}
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        for port in service.get("ports", []):
            assert name == "caddy" or port["host_ip"] == "127.0.0.1", "Caddy alone is reached from outside"
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or (ROOT / Path(volume["source"]).relative_to(folder)).exists()
    assert services["caddy"]["environment"]["DOMAIN"] == "node.example.com"
    keys = {volume["source"]: volume.get("read_only", False) for volume in services["node"]["volumes"]}
    assert keys == {"data": False, "onion": True}, "the node reads the onion's name, and changes nothing there"
    named = {name.lower() for name in services["node"]["environment"]}
    assert named - set(Settings.model_fields) == {"compose_profiles"}


def test_tor_and_the_node_find_each_other_on_a_network_of_their_own(folder: Path) -> None:
    config = composed(folder)
    services, torrc = config["services"], (ROOT / "torrc").read_text()
    assert {name for name, service in services.items() if "onion" in service["networks"]} == {"node", "tor"}
    assert config["networks"]["onion"]["internal"]
    node, tor = (services[name]["networks"]["onion"]["ipv4_address"] for name in ("node", "tor"))
    assert f"\nHiddenServicePort 80 {node}:8000\n" in torrc
    assert f"\nSocksPort {tor}:9050 IsolateSOCKSAuth\n" in torrc
    assert f"#   TOR_SOCKS={tor}:9050\n" in torrc


@pytest.mark.parametrize("profiles", ["", "tls", "tor", "tls,tor,postgres"])
def test_the_node_stops_first_so_that_streams_end_and_relays_hear_of_it(folder: Path, profiles: str) -> None:
    """The real compose stops them; Caddy and tor are still there for what the node says last."""
    laid_out(folder, profiles)
    there = ["caddy" if each == "tls" else each for each in profiles.split(",") if each]
    with daemon.running(folder, "satroute", ["node", *there]) as (url, stopped):
        done = run(program("docker-compose"), "stop", cwd=folder, DOCKER_HOST=url)
        assert done.returncode == 0, done.stderr
    assert stopped[0] == "node"
    assert sorted(stopped[1:]) == sorted(there), "all that .env names, without a word on the command line"


def test_the_profiles_that_are_told_of_are_there(folder: Path) -> None:
    profiles = {profile for service in composed(folder)["services"].values() for profile in service.get("profiles", [])}
    told = "".join((ROOT / name).read_text() for name in ("compose.yml", "docs/operate.md"))
    named = {each for names in re.findall(r"COMPOSE_PROFILES=([\w,]+)", told) for each in names.split(",")}
    assert named == profiles
    assert "--profile" not in told, "a command without it would not know of the rest"


def test_the_nodes_container_may_take_as_long_to_stop_as_requests_may() -> None:
    unit = (DEPLOY / "satroute.service").read_text()
    assert "stop_grace_period: 2m" in (ROOT / "compose.yml").read_text()
    assert "TimeoutStopSec=120" in unit
    assert Settings.model_fields["drain_s"].default + 60 <= 120
    (after,) = re.findall(r"^After=(.*)$", unit, re.MULTILINE)
    assert {"caddy.service", "tor@default.service", "postgresql.service"} <= set(after.split()), "they stop after it"


@pytest.fixture
def units(folder: Path) -> Path:
    """A machine's root with the units as docs/operate.md installs them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    system = folder / "etc" / "systemd" / "system"
    shutil.copytree("/usr/lib/systemd/system", folder / "usr" / "lib" / "systemd" / "system", symlinks=True)
    system.mkdir(parents=True)
    for unit in DEPLOY.glob("satroute*.*"):
        shutil.copy(unit, system)
    for name in ("opt/satroute/bin/satroute", "bin/sh", "usr/bin/find"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("#!/bin/true\n")
        (folder / name).chmod(0o755)
    return folder


def verified(root: Path) -> subprocess.CompletedProcess[str]:
    names = sorted(path.name for path in (root / "etc" / "systemd" / "system").iterdir())
    return run("systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", *names)


def test_the_units_are_right_and_confined(units: Path) -> None:
    done = verified(units)
    assert (done.returncode, done.stderr) == (0, "")
    for name, most in (("satroute.service", 20), ("satroute-backup.service", 40)):
        safe = run("systemd-analyze", "security", "--offline=true", f"--root={units}", f"--threshold={most}", name)
        assert safe.returncode == 0, safe.stdout[-300:]
    service = units / "etc" / "systemd" / "system" / "satroute.service"
    service.write_text(service.read_text().replace("Type=exec", "Type=exac"))
    assert "exac" in verified(units).stderr, "it would see a mistake"


class OneByOne(BaseHTTPRequestHandler):
    """Streams events, each when who listens has had the one before."""

    protocol_version = "HTTP/1.1"
    had = threading.Semaphore(0)

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in EVENTS:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
            if not self.had.acquire(timeout=STREAM_S):
                return
        self.wfile.write(b"0\r\n\r\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


@pytest.fixture
def behind() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OneByOne) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_caddy_logs_no_money_of_requests_that_the_node_does_not_answer(folder: Path) -> None:
    """While the node is started anew, tokens come that nobody has spent yet."""
    with in_front_of(folder, "127.0.0.1:9") as http:
        assert until(lambda: answers(http))
        told = {"Authorization": "Bearer secret-1", "X-Cashu": "secret-2", "X-Api-Key": "secret-3"}
        assert http.post("/v1/chat/completions?token=secret-4", headers=told).status_code == HTTPStatus.BAD_GATEWAY
    log = (folder / "log").read_text()
    assert "connection refused" in log, "what is wrong is told"
    assert "secret" not in log


@contextmanager
def in_front_of(folder: Path, node: str) -> Iterator[httpx.Client]:
    """The real Caddy, without TLS, and who calls it."""
    front = f"http://127.0.0.1:{free_port()}"
    env = {"DOMAIN": front, "NODE": node, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    words = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, env=env, stdout=log, stderr=log) as running:
        try:
            with httpx.Client(base_url=front, trust_env=False, verify=False, timeout=STREAM_S) as http:
                yield http
        finally:
            running.terminate()


def answers(http: httpx.Client) -> bool:
    """Whether anybody does, the node behind it or not."""
    try:
        return bool(http.get("/v1/models").status_code)
    except httpx.HTTPError:
        return False


def test_caddy_takes_its_file_and_passes_streams_on_as_they_come(folder: Path, behind: str) -> None:
    """In front of a server that streams: no event waits for the next."""
    with in_front_of(folder, behind) as http:
        assert until(lambda: answers(http)), (folder / "log").read_text()
        got = []
        with http.stream("POST", "/v1/chat/completions", json={"stream": True}) as reply:
            for event in reply.iter_raw():
                got.append(event)
                OneByOne.had.release()
        assert got == EVENTS


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the build's stage."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    starts = [number for number, line in enumerate(lines) if line.startswith("FROM")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines[starts[0] + 1 : starts[1]])]


def build(folder: Path) -> Path:
    """The image's virtual environment, made by the Dockerfile's own steps from the files that it copies, and no others."""
    source, target = folder / "src", folder / "image"
    source.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env["SSL_CERT_FILE"] = os.environ[CERTIFICATES]
    del env["SSL_CERT_DIR"]
    if not env["SSL_CERT_FILE"]:
        del env["SSL_CERT_FILE"]
    for word, rest in dockerfile():
        match word:
            case "ENV":
                env |= dict(pair.split("=", 1) for pair in shlex.split(rest.replace("/opt/satroute", str(target))))
                env["UV_LINK_MODE"] = "hardlink"  # the image must not depend on a cache; here that is faster
                env["UV_COMPILE_BYTECODE"] = "0"
            case "COPY":
                *files, to = rest.split()
                for name in files:
                    if (ROOT / name).is_dir():
                        shutil.copytree(ROOT / name, source / to, ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        shutil.copy(ROOT / name, source / to)
            case "RUN" if not rest.startswith("pip "):
                done = subprocess.run(
                    shlex.split(rest), cwd=source, env=env, capture_output=True, text=True, timeout=300, check=False
                )
                assert done.returncode == 0, done.stderr
    return target


READ_ONLY = """
mount --make-rprivate / && mount -o remount,bind,ro / && mount -t tmpfs tmpfs "$DATA_DIR" && ! touch /tmp/x 2>/dev/null &&
cd "$DATA_DIR" && exec "$0" serve
"""


@pytest.mark.timeout(400)
def test_the_images_steps_make_a_node_that_writes_nowhere_but_in_its_data(folder: Path) -> None:
    if shutil.which("uv") is None:
        pytest.fail("uv is not installed: pip install uv")
    image = build(folder)
    satroute = str(image / "bin" / "satroute")
    assert run(satroute, "--version").stdout.startswith("satroute, version")
    assert run(image / "bin" / "python", "-c", "import nostr_sdk").returncode != 0, "no parts of the local network"
    (folder / "data").mkdir()
    port = str(free_port())
    env = {"PATH": os.environ["PATH"], "HOME": str(folder / "data"), "DATA_DIR": str(folder / "data"), "PORT": port}
    env |= {"CASHU_MINTS": DEAD_MINT, "UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {name.upper(): value for name, value in PRICES.items()}
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, satroute]
    (check,) = re.findall(r'CMD (\["python".*\])', (ROOT / "Dockerfile").read_text())
    healthy = [str(image / "bin" / "python"), *json.loads(check)[1:]]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, env=env, stdout=log, stderr=log) as node:
        try:
            assert until(lambda: node.poll() is not None or run(*healthy, PORT=port).returncode == 0, 60)
            assert node.poll() is None, (folder / "log").read_text()
        finally:
            node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0, (folder / "log").read_text()
    assert run(*healthy, PORT=port).returncode != 0, "it says so when there is no node"
    assert not any((folder / "data").iterdir()), "what it wrote, it wrote in a file system of its own"
