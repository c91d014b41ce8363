"""The house rules, held by their tools: style, strict types, and imports that point down."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("relays", "router_client", "node")
CONNECTS = {
    "relays/dialing.py",
    "relays/pool.py",  # by connector_to
    "router_client/net/outside.py",
    "node/upstream/http.py",  # by connector_to
    "node/api/passing.py",  # to a socket of this machine
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70


@pytest.mark.parametrize(
    "words",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports", "--no-cache"], ["mypy"]],
    ids=" ".join,
)
@pytest.mark.timeout(300)
def test_tool(words: list[str]) -> None:
    tool = shutil.which(words[0], path=str(Path(sys.executable).parent)) or shutil.which(words[0])
    if tool is None:
        pytest.fail(f"{words[0]} is not installed: uv sync")
    done = subprocess.run([tool, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_noun_per_file_one_screen_per_function(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    tree = ast.parse(text)
    assert not tree.body or ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} is {lines} lines long"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_connections_are_made_by_the_way_that_was_chosen(path: Path) -> None:
    """Whoever makes a client of its own goes past TOR_ONLY."""
    if str(path.relative_to(ROOT)) in CONNECTS or path.is_relative_to(ROOT / "node" / "localnet"):
        return
    makers = r"httpx\.(?:Async)?(?:Client|HTTPTransport)\(|ClientSession\(|TCPConnector\(|create_connection\("
    made = re.findall(makers, path.read_text())
    assert made == [], "client_for() of router_client/net/outside.py, or connector_to() of relays/dialing.py"


def test_the_client_imports_without_cashu() -> None:
    """cashu loads slowly and reads `.env` files over the environment: it comes when a wallet is opened, not before."""
    probe = "import sys, router_client; print('cashu' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("page", ["README.md", "docs/money.md", "docs/architecture.md", "docs/tor.md"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    """A guarantee whose test was renamed or dropped is none."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / page).read_text()):
        file = ROOT / path
        assert file.is_file(), path
        assert not name or f"def {name}(" in file.read_text(), f"{path}::{name}"


def test_the_pages_that_sources_name_are_there() -> None:
    named = [(path, page) for path in SOURCES for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())]
    assert named
    assert [(path, page) for path, page in named if not (ROOT / page).is_file()] == []
