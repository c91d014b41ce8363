"""Whether an answer, or a piece of one, says anything. One that says nothing is not charged.

Nothing is said by who writes nothing, names no reason for its end, and reports no token as written: that is a fault of the
server, and OpenRouter, too, charges nothing for it. A model that ends its turn without a word has answered: its caller may
have told it to, and its server is paid for what it read.
"""

from __future__ import annotations

from typing import Final

import msgspec

from relays import usage as reports
from relays.errors import InvalidJson
from relays.jsontext import from_json

NOTHING: Final = (b"null", b'""', b"[]", b"{}")


class Choice(msgspec.Struct):
    """A choice of chat or completions, whole or a piece of it."""

    error: msgspec.Raw = reports.NULL
    """OpenRouter's way to say that it failed."""
    finish_reason: msgspec.Raw = reports.NULL
    message: msgspec.Raw = reports.NULL
    delta: msgspec.Raw = reports.NULL
    text: msgspec.Raw = reports.NULL

    @property
    def failed(self) -> bool:
        return bytes(self.error) != b"null" or bytes(self.finish_reason) == b'"error"'

    @property
    def says_something(self) -> bool:
        """Beside whose turn it is."""
        return is_said(self.finish_reason) or any(map(is_said, (self.delta, self.message, self.text)))


def is_said(raw: msgspec.Raw) -> bool:
    """Whether a value, or a field of it, is more than nothing. What cannot be read is."""
    if bytes(raw) in NOTHING:
        return False
    try:
        value = from_json(bytes(raw))
    except InvalidJson:
        return True
    return any(each for name, each in value.items() if name != "role") if isinstance(value, dict) else bool(value)


def reports_writing(data: bytes) -> bool:
    """Whether the report that is in an answer, or in an event, tells of tokens that were written: thoughts do not show."""
    report = reports.report_in(data) if b'"usage"' in data else None
    usage = None if report is None else reports.usage_of(report)
    return usage is not None and usage.completion_tokens > 0
