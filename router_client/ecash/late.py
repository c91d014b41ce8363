"""What cashu takes half a second to import, imported when it is first needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def base() -> Any:
    """Tokens and payment requests (cashu.core.base)."""
    return import_module("cashu.core.base")


@cache
def nut18() -> Any:
    """`creqA…`."""
    return import_module("cashu.core.nuts.nut18")


@cache
def nut26() -> Any:
    """`CREQB1…`."""
    return import_module("cashu.core.nuts.nut26")


@cache
def p2pk() -> Any:
    """Signatures of locked coins (NUT-11)."""
    return import_module("cashu.core.p2pk")


def warm() -> None:
    """Import all of it now, so that nobody waits for it later. Meant for a thread."""
    for needed in (base, nut18, nut26, p2pk):
        needed()
