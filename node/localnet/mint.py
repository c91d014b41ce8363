"""A real Cashu mint (nutshell) whose Lightning side is simulated: its invoices pay themselves."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from node.localnet.process import Child, free_port

PORT = 3338
READY_S = 60


def start_mint(
    folder: Path,
    *,
    port: int | None = None,
    input_fee_ppk: int = 0,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Child, str]:
    """Start the mint with its data in `folder`; returns it and its URL. Units: sat and msat. `extra` are more settings."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(PORT) if port is None else port
    env = {
        "MINT_BACKEND_BOLT11_SAT": "FakeWallet",
        "MINT_BACKEND_BOLT11_MSAT": "FakeWallet",
        "MINT_PRIVATE_KEY": _private_key(folder / "key"),
        "MINT_DERIVATION_PATH_LIST": json.dumps(["m/0'/0'/0'", "m/0'/1'/0'"]),
        "MINT_LISTEN_HOST": "127.0.0.1",
        "MINT_LISTEN_PORT": str(port),
        "MINT_DATABASE": str(folder / "db"),
        "MINT_AUTH_DATABASE": str(folder / "auth"),
        "MINT_INPUT_FEE_PPK": str(input_fee_ppk),
        "MINT_RATE_LIMIT": "FALSE",
        "MINT_QUOTE_BACKEND_CHECK_RATE_LIMIT": "0",
        "TOR": "FALSE",
        "FAKEWALLET_DELAY_INCOMING_PAYMENT": "0",
        "FAKEWALLET_DELAY_OUTGOING_PAYMENT": "0",
        **extra,
    }
    return Child("mint", "cashu.mint", [], env, folder), f"http://127.0.0.1:{port}"


def wait_mint(child: Child, url: str) -> None:
    """Return when the mint serves its keysets."""
    child.wait_http(f"{url}/v1/keysets", READY_S)


def _private_key(path: Path) -> str:
    """The mint's key, made once: coins of an earlier run stay good."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text()
