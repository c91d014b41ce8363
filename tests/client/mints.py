"""More real mints, with settings of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port


@contextmanager
def running_mint(
    folder: Path, *, input_fee_ppk: int = 100, extra: Mapping[str, str] | None = None, port: int | None = None
) -> Iterator[str]:
    """A nutshell mint's URL; with the `port` of an earlier one in that folder it is that mint again. `extra` goes over its
    settings: `FAKEWALLET_PAY_INVOICE_STATE` makes payments get stuck."""
    child, url = start_mint(folder, port=port or free_port(), input_fee_ppk=input_fee_ppk, extra=extra or {})
    try:
        wait_mint(child, url)
        yield url
    finally:
        child.stop()
