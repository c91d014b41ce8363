"""Who may call the local endpoint, which spends money: programs of this machine, not pages in its browser. Pure.

A page can send requests to this machine (CSRF), and by a name of its own that it lets point here even read the answers (DNS
rebinding). Browsers say whose page asks (`Origin`, `Sec-Fetch-Site`) and by which name (`Host`): both are looked at.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

import msgspec

from relays import payment
from router_client.proxy.refusal import SAME_AGAIN, Refusal

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_OWN: Final = ("none", "same-origin")
"""Of `Sec-Fetch-Site`: a person who typed the address, or curl's copy of a browser."""


class Guard(msgspec.Struct, frozen=True):
    """`names` are those that it may be called by, any if there are none; `key` is what a bearer has to show, if any."""

    names: frozenset[str] = LOOPBACK
    key: str = ""

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Refusal. Names of headers are in lower case."""
        name = _name(headers.get("host", ""))
        if self.names and name not in self.names:
            raise _not_allowed(f"it is not called {name[:100]!a}: use one of {', '.join(sorted(self.names))}")
        if "origin" in headers or headers.get("sec-fetch-site", "none") not in _OWN:
            raise _not_allowed("pages in a browser may not spend its money: call it from a program")
        if self.key and not hmac.compare_digest(bearer(headers).encode(), self.key.encode()):
            message = "this endpoint wants its key: 'Authorization: Bearer KEY', an SDK's api_key"
            raise Refusal(401, payment.UNKNOWN_CREDENTIAL, message, headers=SAME_AGAIN)


def _not_allowed(message: str) -> Refusal:
    return Refusal(403, payment.NOT_ALLOWED, message, headers=SAME_AGAIN)


def _name(host: str) -> str:
    """Without the port; of an IPv6 address also without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def bearer(headers: Mapping[str, str]) -> str:
    """The credential that a caller shows; empty for none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
