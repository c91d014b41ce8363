"""The kinds of upstream, one file each: whatever module lies in this folder names its own as `KINDS`, and is known."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from node.upstream.kind import Kind


def known_kinds() -> Mapping[str, Kind]:
    """All kinds by their names. Imports them: settings can be read without."""
    found: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(__path__):
        for kind in importlib.import_module(f"{__name__}.{module.name}").KINDS:
            assert kind.name not in found, f"two files name the kind {kind.name}"
            found[kind.name] = kind
    return dict(sorted(found.items()))
