"""Errors of the seller's side.

NodeFault
├── BadSettings      settings that cannot be served with, one line each
├── NotHere          a counter cannot serve this, its till can
├── BadBackup        no backup of a node, or one that cannot be read, made or put back
├── PartFailed       a part of the local network did not start
├── TorFailed        tor did not start, or its control port refused what was asked
├── LedgerError      the ledger contradicts itself: an alarm, never an answer
│   └── LedgerConflict     a constraint of the tables refused a move
├── UpstreamError    the model's server did not deliver
│   ├── UpstreamUnreachable
│   │   └── UpstreamDown   not even a connection
│   ├── Unsupported        it has not what was asked for
│   ├── UpstreamTimeout
│   └── UpstreamRefused    with the status it answered
└── Refusal          an answer to the caller: HTTP status, code, and what to do next
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relays import payment


class NodeFault(Exception):
    """Base of everything `node` raises on purpose."""


class BadSettings(NodeFault):
    """Settings that a node cannot run with; `problems` has one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NotHere(NodeFault):
    """A counter cannot serve this: it is passed on to the till. Nothing was done yet, and no money has moved."""


class BadBackup(NodeFault):
    """A backup that cannot be made, read or put back; says what to do."""


class PartFailed(NodeFault):
    """A part of the local network did not start."""


class TorFailed(NodeFault):
    """Tor did not start, or its control port refused what was asked. `remedy` is what to do."""

    def __init__(self, words: str, remedy: str = "look at tor's log") -> None:
        super().__init__(f"{words}: {remedy}")
        self.words = words
        self.remedy = remedy


class LedgerError(NodeFault):
    """The ledger contradicts itself."""


class LedgerConflict(LedgerError):
    """A constraint of the tables refused a move: nothing of it was booked."""


class UpstreamError(NodeFault):
    """The model's server did not deliver."""


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke."""


class UpstreamDown(UpstreamUnreachable):
    """Not even a connection: no caller's doing."""


class Unsupported(UpstreamError):
    """The upstream has not what was asked for; another may."""


class UpstreamTimeout(UpstreamError):
    """No answer within the deadline."""


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error."""

    def __init__(self, status: int, message: str, retry_after: str | None = None) -> None:
        super().__init__(message or f"it answered {status}")
        self.status = status
        self.message = message
        self.retry_after = retry_after

    @property
    def remedy(self) -> str:
        """What its operator looks at first, where it refuses to give its list."""
        if self.status in (401, 403):
            return "check its API key"
        if self.status in (402, 429):
            return "check its credit and limits"
        return "see its own log" if self.status >= 500 else "check its URL, with its /v1"


class Refusal(NodeFault):
    """What the caller is told. `details` join the error object; `headers` the response."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, int | str] = MappingProxyType({}),
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = headers

    @property
    def type(self) -> str:
        """OpenAI's coarse classes of errors."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 402:
            return "insufficient_quota"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    @property
    def param(self) -> str | None:
        """The field that is wrong."""
        return payment.wrong_field(self.code, self.message)

    @property
    def anthropic_type(self) -> str:
        """Anthropic's classes of errors."""
        types = {402: "billing_error", 404: "not_found_error", 413: "request_too_large", 504: "timeout_error"}
        if self.status in types:
            return types[self.status]
        return "api_error" if self.status >= 500 else self.type


def not_found(what: str) -> Refusal:
    """404 for a thing or path that is not here."""
    return Refusal(404, payment.NOT_FOUND, what)
