"""Transports to a real mint: one loses the Nth exchange, on its way there or back, and one tells of a mint that retires."""

from __future__ import annotations

from typing import Literal

import httpx

Where = Literal["request", "reply"]


class LosesNth(httpx.AsyncBaseTransport):
    """Real HTTP, except for exchange number `n`, which is lost before it is sent or after it was answered."""

    def __init__(self, n: int, where: Where) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._left = n
        self._where = where

    @property
    def struck(self) -> bool:
        return self._left <= 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._left -= 1
        if self._left == 0 and self._where == "request":
            raise httpx.ConnectError("lost on the way there", request=request)
        response = await self._inner.handle_async_request(request)
        if self._left == 0:
            await response.aread()
            await response.aclose()
            raise httpx.ReadError("lost on the way back", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Retiring(httpx.AsyncHTTPTransport):
    """Real HTTP, except that once the mint has `retired` none of its keysets is active."""

    def __init__(self) -> None:
        super().__init__()
        self.retired = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not self.retired or request.url.path != "/v1/keysets":
            return response
        body = (await response.aread()).replace(b'"active":true', b'"active":false')
        return httpx.Response(response.status_code, stream=httpx.ByteStream(body))
