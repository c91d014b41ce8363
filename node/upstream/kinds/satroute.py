"""Another node as an upstream: its answers are bought with ecash, request by request, and sold on.

The money is the operator's own, in a wallet of its own: what this node's callers paid in is never spent on it. A node that
cheated is not bought from again as long as this process lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from node.errors import UpstreamDown, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from node.tasks import Tasks
from node.upstream.base import UpstreamReply, UpstreamRequest
from node.upstream.kind import Kind, Surroundings
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.routes import Purpose
from router_client.buying.bought import Bought, buy
from router_client.buying.shop import Shop, look
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, NodeCheated, NodeError, NodeRefused, NodeUnreached, WalletError
from router_client.net.nodeapi import said
from router_client.net.outside import client_for
from router_client.paying.payments import PAYING_S, Payments

log = logging.getLogger(__name__)

OF_THE_REQUEST: Final = (400, 404, 413, 422)
"""Refusals that speak of what was asked; others speak of us as a customer."""
RECOVER_S: Final = 300.0
"""Longest that a look for what is out takes; the next goes on with it."""
CLOSE_S: Final = 5.0


class SatrouteUpstream:
    """One node at `base_url`, and the wallet that buys from it."""

    def __init__(
        self,
        spec: UpstreamSpec,
        timeouts: Timeouts,
        tasks: Tasks,
        clients: tuple[httpx.AsyncClient, httpx.AsyncClient],
        payments: Payments,
    ) -> None:
        """`clients`: for the node, and for the wallet's mints."""
        self.name = spec.name
        self._spec = spec
        self._timeouts = timeouts
        self._tasks = tasks
        self._http, self._mints = clients
        self._payments = payments
        self._shop: Shop | None = None
        self._distrusted = ""
        """Why nothing is bought there any more."""
        self._recovering: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, spec: UpstreamSpec, surroundings: Surroundings) -> SatrouteUpstream:
        """With the wallet in the folder that the spec names. Raises StorageError."""
        folder = Path(spec.wallet) if spec.wallet else surroundings.data_dir / "buyer"
        timeouts = surroundings.timeouts
        patience = httpx.Timeout(timeouts.idle_s, connect=timeouts.connect_s)
        http = client_for(Purpose.UPSTREAMS, surroundings.routes_to(spec), timeout=patience)
        routes = surroundings.routes if surroundings.routes.tor_only else surroundings.routes_to(spec)
        mints = client_for(Purpose.MINTS, routes, timeout=patience)
        wallet = await Wallet.open(folder / "wallet.db", mints)
        payments = await Payments.open(folder / "payments.db", wallet, http)
        return cls(spec, timeouts, surroundings.tasks, (http, mints), payments)

    async def models(self) -> list[Mapping[str, Any]]:
        """The node's list, at its own prices; empty once it is distrusted. What is still out there is fetched beside."""
        if self._recovering is None or self._recovering.done():
            self._recovering = self._tasks.start(self._recover(), f"fetch what is out at {self.name}")
        if self._distrusted:
            log.warning("%s: %s", self.name, self._no_trust())
            return []
        try:
            self._shop = await look(self._http, self._spec.base_url)
        except NodeError as error:
            raise UpstreamUnreachable(str(error)) from error
        return list(self._shop.listed)

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        if self._distrusted:
            raise UpstreamUnreachable(self._no_trust())
        if self._shop is None:
            raise UpstreamUnreachable(f"{self.name} is not known yet")
        try:
            bought = await buy(
                self._payments,
                self._http,
                self._shop,
                request.endpoint,
                request.fields,
                request.body,
                request.content_type,
                silence_s=None if request.stream else self._timeouts.whole_s,
                audio_ms=request.most_audio_ms,
            )
        except NodeUnreached as error:
            raise UpstreamDown(str(error)) from error
        except NodeRefused as error:
            status = error.status if error.status in OF_THE_REQUEST else 502
            raise UpstreamRefused(status, str(error) if status != 502 else "") from error
        except NodeCheated as error:
            self._distrust(error)
            raise UpstreamUnreachable(said(error)) from error
        except NodeError as error:
            raise UpstreamUnreachable(str(error)) from error
        except WalletError as error:
            log.error("%s cannot be paid: %s", self.name, error)
            raise UpstreamUnreachable(f"the wallet for {self.name} cannot pay") from error
        return _BoughtReply(
            bought, self._timeouts.idle_s, lambda: self._tasks.start(self._settle(bought), "settle a bought answer")
        )

    async def close(self) -> None:
        if self._recovering is not None and not self._recovering.done():  # its journal goes on at the next start
            self._recovering.cancel()
            await asyncio.wait({self._recovering}, timeout=CLOSE_S)
        self._payments.close()
        self._payments.wallet.close()
        await self._http.aclose()
        await self._mints.aclose()

    async def _settle(self, bought: Bought) -> None:
        try:
            await bought.settle()
        except NodeCheated as error:
            self._distrust(error)

    def _distrust(self, error: NodeCheated) -> None:
        if not self._distrusted:
            self._distrusted = said(error)
            log.error("%s cheated: %s", self.name, self._no_trust())

    def _no_trust(self) -> str:
        return f"nothing is bought there until this node is restarted: {self._distrusted}"

    async def _recover(self) -> None:
        try:
            async with asyncio.timeout(RECOVER_S):
                await self._payments.recover(PAYING_S)
        except (ClientError, TimeoutError) as error:
            log.warning("what is out at %s is not back: %s", self.name, str(error) or f"not within {RECOVER_S:g} s")


class _BoughtReply:
    """A bought answer; its payment is settled when it is closed, beside whatever comes next."""

    usage = None

    def __init__(self, bought: Bought, idle_s: float, settle: Callable[[], object]) -> None:
        self._bought = bought
        self._idle_s = idle_s
        self._silence_s: float | None = None
        self._settle = settle
        self._pieces = bought.chunks()
        self._next: asyncio.Task[bytes | None] | None = None
        """Read in a task of its own: who stops waiting for it, since its caller has left, can go on later."""
        self._closed = False
        self.content_type = bought.content_type

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise UpstreamUnreachable(f"the node's answer is larger than {limit} bytes")
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                if self._next is None:
                    self._next = asyncio.create_task(self._piece())
                async with asyncio.timeout(self._silence_s):
                    chunk = await asyncio.shield(self._next)
                self._next = None
                if chunk is None:
                    return
                yield chunk
        except TimeoutError as error:
            raise UpstreamTimeout("the node stopped answering") from error
        except NodeError as error:
            raise UpstreamUnreachable(str(error)) from error

    async def _piece(self) -> bytes | None:
        return await anext(self._pieces, None)

    def begun(self) -> None:
        self._silence_s = self._idle_s

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._next is not None:
                self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody waits for it
                self._next.cancel()
            self._settle()


KINDS: Final = (Kind("satroute", SatrouteUpstream.open, has_wallet=True),)
