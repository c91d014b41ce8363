"""Embeddings as their buyer reads them: one JSON answer, with receipt and change in its head. Bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relays import receipt as receipts
from relays.endpoints import EMBEDDINGS
from relays.errors import InvalidEvent, InvalidJson
from relays.jsontext import from_json
from relays.payment import RECEIPT_HEADER
from relays.prompt import inputs
from relays.usage import report_in, usage_of
from router_client.buying.incoming import Incoming

log = logging.getLogger(__name__)

MAX_BYTES: Final = 64 * 1024 * 1024
"""As much as a node reads of its own upstream."""


class Vectors(Incoming):
    """The vectors for a request's texts, kept as the node wrote them."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__()
        self._many = inputs(request, EMBEDDINGS)
        self._raw = bytearray()

    def begin(self, headers: Mapping[str, str]) -> None:
        super().begin(headers)
        if header := headers.get(RECEIPT_HEADER):
            try:
                self.receipt = receipts.from_header(header)
            except InvalidEvent as error:
                log.warning("the receipt cannot be read: %s", error)

    def feed(self, chunk: bytes) -> None:
        self._raw += chunk
        if len(self._raw) > MAX_BYTES:
            raise self._broken("the answer has no end")

    def end(self) -> None:
        raw, self._raw = bytes(self._raw), bytearray()
        try:
            whole = from_json(raw, dict[str, msgspec.Raw])
            vectors = from_json(raw, _Listed).data
        except InvalidJson as error:
            raise self._broken("it answered no embeddings") from error
        if len(vectors) != self._many:
            raise self._broken(f"it gave {len(vectors)} vectors for {self._many} texts")
        self.first_at, self.pieces, self.done, self.body = time.monotonic(), 1, True, dict(whole)
        report = report_in(raw)
        self.usage = None if report is None else usage_of(report)


class _Listed(msgspec.Struct):
    data: list[msgspec.Raw]
