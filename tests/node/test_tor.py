"""The onion service, its key and its control port, with a real tor that has no network."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import stat
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.backup import restore
from node.config import Settings, load_settings
from node.errors import BadBackup, BadSettings, TorFailed
from node.localnet.process import free_port
from node.tor.beside import with_socks
from node.tor.control import Control
from node.tor.key import OnionKey
from node.tor.service import OnionService, with_tor
from node.tor.torrc import torrc
from relays.routes import Routes
from tests import tornet
from tests.conftest import DEAD_MINT, closed_to_us
from tests.system.forked import satroute

ROOT = Path(__file__).parents[2]
PASSWORD = 'with "quotes" and \\'
BASE = {"cashu_mints": DEAD_MINT, "upstream_base_url": "http://127.0.0.1:9"}
NOWHERE = f"DirAuthority none orport=9 v3ident={'0' * 40} 127.0.0.1:9 {'0' * 40}\nUseDefaultFallbackDirs 0\n"
PRICED = {"fixed_per_1k_input_tokens": "2", "fixed_per_1k_output_tokens": "8"}


def settings(folder: Path, **more: object) -> Settings:
    return load_settings(Settings, None, **{"data_dir": folder / "data", **BASE, **PRICED, **more})


@pytest.fixture(scope="module")
def tors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Control ports of tors that know no network, by how they want to be asked."""
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    hashed = subprocess.run(["tor", "--quiet", "--hash-password", PASSWORD], capture_output=True, text=True, check=True)
    folder = tmp_path_factory.mktemp("tors")
    ways = {
        "cookie": ["--CookieAuthentication", "1"],
        "password": ["--HashedControlPassword", hashed.stdout.strip().splitlines()[-1]],
        "nothing": [],
    }
    running, ports = [], {}
    for name, words in ways.items():
        port = free_port()
        ports[name] = f"127.0.0.1:{port}"
        data = folder / name
        data.mkdir(mode=0o700)
        command = ["tor", "-f", str(data / "torrc"), "--ignore-missing-torrc", "--DataDirectory", str(data)]
        command += ["--DisableNetwork", "1", "--SocksPort", "0", "--ControlPort", str(port), *words]
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    yield ports
    for each in running:
        each.kill()
        each.wait()


@asynccontextmanager
async def control(where: str, password: str = "") -> AsyncIterator[Control]:
    """A connection, once the tor has started."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with Control.open(where, password) as opened:
                    yield opened
                    return
            except TorFailed as error:
                if "no tor answers" not in str(error):
                    raise
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("way", "password"), [("cookie", ""), ("password", PASSWORD), ("nothing", "")])
async def test_a_running_tor_serves_the_keys_address_as_long_as_it_is_asked_to(
    tors: dict[str, str], way: str, password: str
) -> None:
    key = OnionKey(os.urandom(32))
    async with control(tors[way], password) as mine, control(tors[way], password) as other:
        await mine.add_onion(key, "127.0.0.1:9")
        with pytest.raises(TorFailed, match=r"refuses ADD_ONION.*collision"):
            await other.add_onion(key, "127.0.0.1:9")
        assert await mine.progress() == 0
    async with control(tors[way], password) as again:
        await again.add_onion(key, "127.0.0.1:9")  # the first connection took it along


async def test_a_wrong_password_is_one_line(tors: dict[str, str]) -> None:
    with pytest.raises(TorFailed, match="refuses AUTHENTICATE"):
        async with control(tors["password"], "wrong"):
            pass
    with pytest.raises(TorFailed, match="set TOR_CONTROL_PASSWORD"):
        async with control(tors["password"]):
            pass


async def test_what_does_not_know_the_cookie_does_not_learn_it(tmp_path: Path) -> None:
    cookie, heard = tmp_path / "cookie", b""
    cookie.write_bytes(os.urandom(32))

    async def imposter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        while line := await reader.readline():
            heard += line
            if line.startswith(b"PROTOCOLINFO"):
                writer.write(f'250-AUTH METHODS=SAFECOOKIE,COOKIE COOKIEFILE="{cookie}"\r\n250 OK\r\n'.encode())
            else:
                writer.write(f"250 AUTHCHALLENGE SERVERHASH={'0' * 64} SERVERNONCE={'1' * 64}\r\n".encode())
        writer.close()

    async with await asyncio.start_server(imposter, "127.0.0.1", 0) as server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(TorFailed, match="does not know tor's cookie"):
            async with Control.open(where):
                pass
    assert cookie.read_bytes().hex().encode() not in heard.lower()
    assert b"AUTHENTICATE" not in heard


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n", b"250-" + b"x" * 100_000, b"250+data\r\nno end\r\n", b"250-a\r\n" * 2000]
)
async def test_what_is_no_tor_is_one_line(answer: bytes) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(stranger, "127.0.0.1", 0) as server:
        with pytest.raises(TorFailed):
            async with Control.open(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"):
                pass


async def test_the_service_is_set_up_again_when_its_connection_is_lost(
    tors: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.tor.service.AGAIN_MIN_S", 0.05)
    async with control(tors["cookie"]):
        pass
    connections: list[asyncio.StreamWriter] = []

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of the node's, which can be cut."""
        host, port = tors["cookie"].split(":")
        there, back = await asyncio.open_connection(host, int(port))
        connections.extend((writer, back))

        async def hand_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1000):
                sink.write(data)
            sink.close()

        await asyncio.gather(hand_on(reader, back), hand_on(there, writer))

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        _, service = with_tor(settings(folder, tor_control=where, tor_onion="ephemeral"), 1)
        assert service is not None
        async with service.open("127.0.0.1:9"):
            assert len(connections) == 2
            for each in connections:
                raw = each.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a crash
                each.transport.abort()
            async with asyncio.timeout(20):
                while len(connections) < 4 or not await is_served(tors["cookie"], service.key):
                    await asyncio.sleep(0.02)


async def is_served(where: str, key: OnionKey) -> bool:
    """Whether the tor serves it already, for somebody else."""
    async with control(where) as asking:
        try:
            await asking.add_onion(key, "127.0.0.1:9")
        except TorFailed:
            return True
    return False


async def test_a_tor_that_is_not_there_ends_the_start_with_one_line(folder: Path) -> None:
    _, service = with_tor(settings(folder, tor_control="127.0.0.1:9"), 1)
    assert service is not None
    with pytest.raises(TorFailed, match="TOR_CONTROL: no tor answers at"):
        async with service.open("127.0.0.1:1"):
            pass


def test_the_key_is_kept_for_its_owner_alone(folder: Path) -> None:
    first, service = with_tor(settings(folder, tor_control="127.0.0.1:9051"), 1)
    again, _ = with_tor(settings(folder, tor_control="127.0.0.1:9051"), 1)
    other, _ = with_tor(settings(folder, tor_control="127.0.0.1:9051", tor_onion="ephemeral"), 1)
    assert first.onion_url == again.onion_url != other.onion_url
    path = folder / "data" / "onion_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert service is not None
    assert path.read_text() not in f"{service} {service.key}"
    path.write_text("broken")
    with pytest.raises(BadSettings, match="does not hold a key"):
        with_tor(settings(folder, tor_control="127.0.0.1:9051"), 1)


def test_the_address_is_the_keys() -> None:
    """RFC 8032's first test vector, and what tor itself makes of it."""
    key = OnionKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.name == "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"
    blob = base64.b64decode(key.secret.removeprefix("ED25519-V3:"))
    assert blob.hex().startswith("307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f")


def test_the_name_that_another_tor_keeps_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.tor.service.HOSTNAME_S", 0)
    name = OnionKey(bytes(32)).name
    file = folder / "hostname"
    for wrong in (None, "", "example.com\n", f"{name}\n{name}\n"):
        if wrong is not None:
            file.write_text(wrong)
        with pytest.raises(BadSettings, match="ONION_HOSTNAME_FILE"):
            with_tor(settings(folder, onion_hostname_file=file), 1)
    file.write_text(f"{name}\n")
    with closed_to_us(folder), pytest.raises(BadSettings, match="is for tor's own user alone: set ONION_URL"):
        with_tor(settings(folder, onion_hostname_file=file), 1)
    filled, service = with_tor(settings(folder, onion_hostname_file=file), 1)
    assert (filled.onion_url, service) == (f"http://{name}", None)
    assert filled.announced_urls == (f"http://{name}",)
    assert filled.routes.socks == "127.0.0.1:9050"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tor_only": True, "http_url": "https://node.example"}, "HTTP_URL: it tells where the node is"),
        ({"tor_only": True, "onion_url": "https://203.0.113.9"}, "ONION_URL: .* is no onion address"),
        ({"onion_url": "http://x.onion.example"}, "ONION_URL: .* is no onion address"),
        ({"tor_socks": "9050"}, "is not HOST:PORT"),
        ({"tor_control": "localhost"}, "is not HOST:PORT"),
        ({"tor_config": "/nowhere"}, "there is no file"),
        ({"tor_only": True, "relays": "wss://relay.example"}, "HTTP_URL or ONION_URL: missing"),
    ],
)
def test_settings_that_do_not_fit_are_said(folder: Path, more: dict[str, object], words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        settings(folder, **more)


def test_without_tor_nothing_changes(folder: Path) -> None:
    plain = settings(folder)
    assert with_tor(plain, 1) == (plain, None)
    assert (plain.routes.socks, plain.routes.tor_only) == ("", False)


def test_a_path_that_a_torrc_cannot_name_is_refused(folder: Path) -> None:
    assert '"/a \\"b\\" \\\\c/data"' in torrc(Path('/a "b" \\c'), "127.0.0.1:1", None)
    with pytest.raises(BadSettings, match="DATA_DIR"):
        torrc(Path("/a\nb"), "127.0.0.1:1", None)


def test_the_torrc_of_the_repository_is_one(folder: Path) -> None:
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    text = (ROOT / "torrc").read_text().replace("/var/lib/", f"{folder}/")
    (folder / "torrc").write_text(text)
    (folder / "onion").mkdir()
    words = ["tor", "--verify-config", "-f", str(folder / "torrc")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout
    meant = ("as root", "allows everybody on your local network")  # which is the node alone
    assert [line for line in done.stdout.splitlines() if "[warn]" in line and not any(w in line for w in meant)] == []


def test_tor_that_is_not_installed_is_one_line(folder: Path) -> None:
    env = {"PATH": str(folder), "HOME": str(folder), "DATA_DIR": str(folder / "data"), "PORT": "0"}
    env |= {name.upper(): value for name, value in (BASE | PRICED).items()}
    done = satroute("serve", "--tor", env=env)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: --tor: tor is not installed: apt-get install tor")
    assert not (folder / "data" / "ledger.db").exists()


async def test_a_tor_that_is_removed_meanwhile_ends_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    _, service = with_tor(settings(folder, run_tor=True), free_port())
    assert service is not None
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(BadSettings, match="not installed"):
        async with asyncio.timeout(5), service.open("127.0.0.1:1"):
            pass


async def test_commands_find_the_tor_of_the_node_or_start_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose torrc has a control port of its own, too, and knows no network."""
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    monkeypatch.setattr("node.tor.beside.JOIN_S", 0)
    (folder / "more").write_text(f"{NOWHERE}ControlPort 127.0.0.1:{free_port()}\n")
    plain = settings(folder, run_tor=True, tor_config=folder / "more")
    filled, service = with_tor(plain, free_port())
    assert service is not None
    async with service.open("127.0.0.1:9"), with_socks(plain) as beside:
        assert beside.tor_socks == filled.tor_socks
    (plain.tor_dir / "control_port").write_text("PORT=127.0.0.1:9\n")  # as one that was killed leaves it
    async with with_socks(plain) as alone:
        assert await is_open(alone.tor_socks)
        assert alone.tor_socks != filled.tor_socks
    assert not await is_open(alone.tor_socks), "it ends with the command"


@pytest.mark.parametrize("unchanged", [True, False])
def test_a_restore_asks_mints_through_tor(folder: Path, monkeypatch: pytest.MonkeyPatch, unchanged: bool) -> None:
    """And starts none where it asks nobody."""
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    monkeypatch.setattr("node.tor.beside.JOIN_S", 0)
    (folder / "more").write_text(NOWHERE)
    (folder / "backup").touch()

    async def put_back(*_: object, routes: Routes, **__: object) -> None:
        assert routes.tor_only
        raise BadBackup("through Tor" if await is_open(routes.socks) else "through nothing")

    monkeypatch.setattr("node.cli.backup.put_back", put_back)
    env = {"DATA_DIR": str(folder / "data"), "RUN_TOR": "1", "TOR_ONLY": "1", "TOR_CONFIG": str(folder / "more")}
    words = [str(folder / "backup"), "--unchanged"][: 1 + unchanged]
    done = CliRunner().invoke(restore, words, env=env)
    assert str(done.exception) == ("through nothing" if unchanged else "through Tor")


async def is_open(where: str) -> bool:
    host, port = where.split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def test_a_tor_that_cannot_start_says_why(folder: Path) -> None:
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    (folder / "more").write_text("Nonsense 1\n")
    _, service = with_tor(settings(folder, run_tor=True, tor_config=folder / "more"), free_port())
    assert isinstance(service, OnionService)
    with pytest.raises(TorFailed, match="tor has ended with code 1: "):
        async with service.open("127.0.0.1:1"):
            pass
