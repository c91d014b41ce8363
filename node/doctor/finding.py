"""What a look at one part of a configuration finds."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "note", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One line. `wrong` keeps the node from selling; `note` is good to know."""

    part: str
    """`settings`, `tor`, `data`, `clock`, `mint`, `upstream`, `price`, `payout`, `relay`, `url`, `onion`."""
    state: State
    words: str
    remedy: str = ""
    """What to do; for what is wrong there always is something."""


def ok(part: str, words: str) -> Finding:
    return Finding(part, "ok", words)


def note(part: str, words: str, remedy: str = "") -> Finding:
    return Finding(part, "note", words, remedy)


def wrong(part: str, words: str, remedy: str) -> Finding:
    return Finding(part, "wrong", words, remedy)
