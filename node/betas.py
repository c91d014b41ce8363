"""Anthropic's betas that callers may ask for, in the header `anthropic-beta`: those that cost nothing apart. Pure.

Others are left out, as all of them are for servers of other languages: a longer context (`context-1m`), longer caches,
faster answers, compaction, fallbacks to other models, and what runs or is kept at the server (code, files, skills, MCP) cost
what no quote knows. Clients such as Claude Code send theirs with every request, so that one left out is no error.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

HEADER: Final = "anthropic-beta"
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
HARMLESS: Final = frozenset(
    {
        # how an answer is given: more often thought, in finer pieces, shorter, by a schema, another reason to stop
        *("interleaved-thinking-2025-05-14", "fine-grained-tool-streaming-2025-05-14"),
        *("token-efficient-tools-2025-02-19", "structured-outputs-2025-11-13", "effort-2025-11-24"),
        "model-context-window-exceeded-2025-08-26",
        # how long it may be: what is held still ends it
        "output-128k-2025-02-19",
        # tools that the caller runs; the field of context management is not let through
        *("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24"),
        "context-management-2025-06-27",
        # nothing any more
        *("prompt-caching-2024-07-31", "pdfs-2024-09-25", "token-counting-2024-11-01"),
    }
)


def allowed(header: str, more: Collection[str] = ()) -> tuple[str, ...]:
    """Those of a header that are passed on; `more` are let through by the operator."""
    named = dict.fromkeys(name.strip() for name in header.split(","))
    return tuple(name for name in named if name in HARMLESS or name in more)
