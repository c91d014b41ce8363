"""docs/operate.md: its settings are read, its commands run as far as they can without a machine of their own, and every
alarm that it explains is one that the node can give."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from node.cli.main import satroute
from node.config import Settings, load_settings
from tests.conftest import CERTIFICATES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operate.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
OUTSIDE = ("apt-get", "useradd", "systemctl", "docker")
"""What a test must not do to the machine it runs on."""
SHIMS = {
    **dict.fromkeys(OUTSIDE, 'echo "$(basename "$0") $*" >> "$SAID"'),
    "runuser": 'echo "$(basename "$0") $*" >> "$SAID"\nshift 3\nexec "$@"',
    # Owners are for root to give.
    "install": """args=""
while [ $# -gt 0 ]; do
    case "$1" in --owner | --group) shift ;; *) args="$args '$1'" ;; esac
    shift
done
eval exec /usr/bin/install $args""",
}


def commands() -> list[list[str]]:
    """The words of every satroute command of the page, wherever it runs."""
    found = []
    for line in "".join(BLOCKS).splitlines():
        if match := re.match(
            r"(?:runuser \S+ satroute -- |docker compose exec node )?satroute (.*)|docker compose run --rm node (.*)",
            line,
        ):
            found.append(shlex.split(match[1] or match[2]))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_commands_are_ones(words: list[str]) -> None:
    command = satroute.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        assert isinstance(context, click.Context)


def test_all_commands_are_there() -> None:
    assert {words[0] for words in commands()} == {"doctor", "nodes", "backup", "restore"}
    assert len(BLOCKS) == 12
    subprocess.run(["/bin/sh", "-nc", "\n".join(BLOCKS)], check=True)


def test_the_settings_of_the_page_are_enough(folder: Path) -> None:
    text, tls, tor = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    names = {line.partition("=")[0] for line in (tls + tor).splitlines()} - {"COMPOSE_PROFILES", "DOMAIN"}
    assert {name.lower() for name in names} <= set(Settings.model_fields)
    assert all(f"#   {line}\n" in (ROOT / "torrc").read_text() for line in tor.splitlines()[1:])
    (folder / "satroute.env").write_text(text)
    settings = load_settings(Settings, folder / "satroute.env")
    assert len(settings.model_fields_set) == len(text.splitlines()), "each line is a setting"
    assert settings.relays


@pytest.fixture
def machine(folder: Path) -> tuple[Path, dict[str, str]]:
    """A folder that stands for a machine's root, and programs that note what they are told."""
    shims = folder / "shims"
    for place in ("shims", "opt", "etc/systemd/system", "etc/caddy", "usr/local/bin", "var/lib", "src"):
        (folder / place).mkdir(parents=True)
    for name, text in SHIMS.items():
        (shims / name).write_text(f"#!/bin/sh\n{text}\n")
        (shims / name).chmod(0o755)
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", ".env.example"):
        shutil.copy(ROOT / name, folder / "src")
    for name in ("node", "router_client", "relays", "deploy"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "SSL_CERT_DIR")}
    if certificates := os.environ[CERTIFICATES]:
        env["SSL_CERT_FILE"] = certificates
    path = f"{shims}:{folder}/usr/local/bin:{os.environ['PATH']}"
    return folder, env | {"PATH": path, "SAID": str(folder / "said"), "UV_LINK_MODE": "hardlink"}


def run(block: str, root: Path, env: dict[str, str]) -> str:
    """The block as it stands, with the machine's folders below `root`; what it printed."""
    text = re.sub(r"(?<![\w.])/(opt|etc|usr/local|var)/", rf"{root}/\1/", block)
    done = subprocess.run(
        ["/bin/sh", "-euc", text], cwd=root / "src", env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_a_bare_machine_gets_a_node_by_the_pages_commands(machine: tuple[Path, dict[str, str]]) -> None:
    root, env = machine
    install, start, caddy, *_ = BLOCKS
    run(install, root, env)
    settings = root / "etc" / "satroute" / "satroute.env"
    assert settings.read_text() == (ROOT / ".env.example").read_text()
    assert settings.stat().st_mode & 0o777 == 0o640
    units = {path.name for path in (root / "etc" / "systemd" / "system").iterdir()}
    assert units == {path.name for path in (ROOT / "deploy").glob("satroute*")}
    assert run("satroute --version", root, env).startswith("satroute, version")
    unit = (ROOT / "deploy" / "satroute.service").read_text()
    assert "ExecStart=/opt/satroute/bin/satroute serve --env-file /etc/satroute/satroute.env" in unit
    assert (root / "opt" / "satroute" / "bin" / "satroute").exists()

    settings.write_text("UPSTREAM_BASE_URL=http://127.0.0.1:9/v1\nCASHU_MINTS=http://127.0.0.1:9\n")
    with pytest.raises(AssertionError, match=r"wrong +mint"):
        run(start, root, env)
    said = (root / "said").read_text().splitlines()
    assert "systemctl daemon-reload" in said
    assert "systemctl enable --now satroute" not in said, "what the doctor calls wrong is not started by this"

    run(caddy, root, env)
    assert (root / "etc" / "caddy" / "Caddyfile").read_text() == (ROOT / "deploy" / "Caddyfile").read_text()
    drop_in = (root / "etc/systemd/system/caddy.service.d/satroute.conf").read_text()
    assert "Environment=DOMAIN=node.example.com NODE=127.0.0.1:8000" in drop_in.splitlines()

    (timer,) = [block for block in BLOCKS if "satroute-backup.timer" in block and "backup.env" in block]
    run(timer, root, env)
    secret = root / "etc" / "satroute" / "backup.env"
    assert re.fullmatch(r"SATROUTE_PASSPHRASE=\S{32}\n", secret.read_text())
    assert secret.stat().st_mode & 0o777 == 0o600


def alarms() -> list[str]:
    table = PAGE[PAGE.index("| in the log |") : PAGE.index("## Stopping")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    return [alarm for row in rows for alarm in re.findall(r"`([^`]+)`", row)]


SOURCES = "".join(
    path.read_text() for package in ("node", "router_client") for path in sorted((ROOT / package).rglob("*.py"))
)


@pytest.mark.parametrize("alarm", alarms())
def test_the_alarms_are_the_nodes(alarm: str) -> None:
    for part in alarm.removeprefix("audit: ").split("…"):
        assert part.strip(" :") in SOURCES, part


def test_every_error_of_the_log_is_explained() -> None:
    """What the node logs as an error needs its operator: the page tells of it, or it says itself what happens next."""
    told = [part.strip(" :,") for alarm in alarms() for part in alarm.split("…") if len(part.strip(" :,")) > 4]
    by_itself = (
        "is started again",
        "finish them at the next start",
        "background task",
        "is not kept",
        "cannot be read",
    )
    for text in re.findall(r'log\.error\(\s*"([^"]+)"', SOURCES):
        assert text == "%s: %s" or any(part in text for part in (*told, *by_itself)), text
