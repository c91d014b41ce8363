"""More real mints, with settings of their own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from node.localnet.mint import wait_mint
from node.localnet.process import Child, free_port


@contextmanager
def running_mint(folder: Path, *, input_fee_ppk: int = 100, extra: Mapping[str, str] | None = None) -> Iterator[str]:
    """A nutshell mint's URL. `extra` goes over its settings: `FAKEWALLET_PAY_INVOICE_STATE` makes payments get stuck."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    env = {
        "MINT_BACKEND_BOLT11_SAT": "FakeWallet",
        "MINT_BACKEND_BOLT11_MSAT": "FakeWallet",
        "MINT_PRIVATE_KEY": secrets.token_hex(32),
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
        **(extra or {}),
    }
    url = f"http://127.0.0.1:{port}"
    child = Child("mint", "cashu.mint", [], env, folder)
    try:
        wait_mint(child, url)
        yield url
    finally:
        child.stop()
