"""What is known of each mint: its keysets with checked keys, kept on disk, looked up again when they may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakValueDictionary

import httpx
import msgspec

from router_client.disk.storage import Database
from router_client.ecash import store
from router_client.ecash.mint import Keyset, MintClient
from router_client.ecash.token import MSAT_PER_UNIT, Proof, Token, normal_mint_url
from router_client.errors import MintMisbehaved, MintUnavailable, TokenRefused, WrongUnit

KEYSETS_TTL_S = 600
LOOKUP_PAUSE_S = 10
"""A token with unknown keysets makes us ask the mint at most this often."""
MAX_KEYSETS = 100
MAX_KNOWN_KEYSETS = 1000
"""Those that a mint has listed before with those that it lists now."""
NUT_CHANGE, NUT_LOCKS, NUT_DLEQ = 8, 11, 12
SHORT_ID_CHARS = 16
"""Tokens may shorten a version 01 keyset id to its first eight bytes (NUT-02)."""


class MintKeys:
    """A mint with its keysets."""

    def __init__(self, client: MintClient, keysets: Sequence[Keyset]) -> None:
        self.client = client
        self._keysets = {keyset.id: keyset for keyset in keysets}

    def active(self, unit: str) -> Keyset:
        """The keyset for new coins, the cheapest if there are several. Raises WrongUnit."""
        active = [keyset for keyset in self._keysets.values() if keyset.active and keyset.unit == unit]
        if not active:
            raise WrongUnit(f"the mint {self.client.url} has no active keyset for {unit}")
        return min(active, key=lambda keyset: (keyset.input_fee_ppk, keyset.id))

    def makes(self, unit: str) -> bool:
        """Whether it makes coins of that unit."""
        return any(keyset.active and keyset.unit == unit for keyset in self._keysets.values())

    def is_active(self, keyset_id: str) -> bool:
        """Whether it makes coins of that keyset."""
        keyset = self._keysets.get(keyset_id)
        return keyset is not None and keyset.active

    def keys(self, keyset_id: str) -> dict[int, str]:
        """Public keys by amount. Raises MintMisbehaved for a keyset that the mint never listed."""
        keyset = self._keysets.get(keyset_id)
        if keyset is None or keyset.keys is None:
            raise MintMisbehaved(f"the mint {self.client.url} has no keyset {keyset_id}")
        return keyset.keys

    def active_key(self, proof: Proof) -> str:
        """The public key for a coin of an active keyset. Raises TokenRefused when there is none."""
        keyset = self._keysets.get(proof.id)
        if keyset is None or not keyset.active:
            raise TokenRefused(f"the mint {self.client.url} has no active keyset {proof.id[:20]}")
        key = (keyset.keys or {}).get(proof.amount)
        if key is None:
            raise TokenRefused(f"the mint {self.client.url} makes no coins of {proof.amount}")
        return key

    def listed(self) -> set[str]:
        """The keysets that the mint lists: it takes their coins, active or not."""
        return {keyset.id for keyset in self._keysets.values() if keyset.listed}

    def units(self) -> dict[str, str]:
        """Unit of every keyset."""
        return {keyset.id: keyset.unit for keyset in self._keysets.values()}

    def fees_ppk(self) -> dict[str, int]:
        """Input fee of every keyset, per thousand coins."""
        return {keyset.id: keyset.input_fee_ppk for keyset in self._keysets.values()}

    def most_fee_ppk(self, unit: str) -> int:
        """The highest input fee among the unit's keysets."""
        return max((keyset.input_fee_ppk for keyset in self._keysets.values() if keyset.unit == unit), default=0)

    def knows(self, token: Token) -> bool:
        """Whether every coin's keyset is known."""
        return all(self._full_id(proof.id) is not None for proof in token.proofs)

    def resolve(self, token: Token) -> tuple[tuple[Proof, ...], list[int]]:
        """The token's coins under their full keyset ids, and each one's fee. Raises TokenRefused or WrongUnit."""
        coins, fees = [], []
        for proof in token.proofs:
            keyset = self._keysets.get(self._full_id(proof.id) or "")
            if keyset is None:
                raise TokenRefused(f"the mint {self.client.url} has no keyset {proof.id[:20]}")
            if keyset.unit != token.unit:
                raise WrongUnit(f"the token says {token.unit[:16]!r}, its coins are {keyset.unit}")
            coins.append(msgspec.structs.replace(proof, id=keyset.id))
            fees.append(keyset.input_fee_ppk)
        return tuple(coins), fees

    def _full_id(self, keyset_id: str) -> str | None:
        if keyset_id in self._keysets:
            return keyset_id
        if len(keyset_id) == SHORT_ID_CHARS and keyset_id.startswith("01"):
            matches = [full for full in self._keysets if full.startswith(keyset_id)]
            return matches[0] if len(matches) == 1 else None
        return None


class Keyring:
    """Mints by URL."""

    def __init__(self, db: Database, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._db = db
        self._http = http
        self._clock = clock
        self._mints: dict[str, tuple[float, MintKeys]] = {}
        self._change: dict[str, bool] = {}
        self._clients: WeakValueDictionary[str, MintClient] = WeakValueDictionary()
        """One for each mint, as long as anybody asks it: it bounds what is asked at once."""
        self._locks: set[str] = set()
        """Mints that honour locks: as in the file, in memory."""
        self._no_locks: dict[str, float] = {}
        self._looking_up: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def mint(self, url: str) -> MintKeys:
        """The mint, with keysets not older than their time to live, or as last known while it does not answer.

        Raises MintUnavailable for a mint that was never seen, or MintMisbehaved.
        """
        async with self._looking_up.setdefault(url, asyncio.Lock()):
            known = self._mints.get(url)
            if known is not None and known[0] > self._clock() - KEYSETS_TTL_S:
                return known[1]
            try:
                return await self.refresh(url)
            except MintUnavailable:
                # Coins that fit are handed out without the mint, and an intent is journaled for when it is back.
                offline = self._stored(url)
                if offline is None:
                    raise
                self._mints[url] = (self._clock() - KEYSETS_TTL_S + LOOKUP_PAUSE_S, offline)
                return offline

    async def reach(self, url: str) -> None:
        """Ask the mint now; nothing is kept. Raises MintUnavailable, also for one that signs no coins of our units, or
        MintMisbehaved."""
        listed = await self._client(url).keysets()
        if not any(keyset.active and keyset.unit in MSAT_PER_UNIT for keyset in listed):
            raise MintUnavailable(f"{url} has no active keyset in {' or '.join(MSAT_PER_UNIT)}")

    async def pinned(self, url: str) -> MintKeys:
        """The mint as last known, however long ago: without a call, unless it was never seen.

        Raises MintUnavailable or MintMisbehaved, for a mint that was never seen.
        """
        known = self._mints.get(url)
        if known is not None:
            return known[1]
        offline = self._stored(url)
        if offline is None:
            return await self.mint(url)
        self._mints[url] = (self._clock() - KEYSETS_TTL_S, offline)
        return offline

    async def pinned_for(self, token: Token) -> MintKeys:
        """The token's mint as last known; keysets that are new to us are looked up, but not every time.

        Raises TokenRefused, WrongUnit, MintUnavailable or MintMisbehaved, for those alone.
        """
        mint = await self.pinned(token.mint)
        if not mint.knows(token):
            await self.resolve(token)
            mint = await self.mint(token.mint)
        return mint

    async def locks(self, url: str) -> bool:
        """Whether the mint enforces locks and proves its signatures; once seen, that is known for ever.

        Raises MintUnavailable as long as it is not known.
        """
        if url in self._locks:
            return True
        if self._db.read(partial(store.knows_locks, mint=url)):
            self._locks.add(url)
            return True
        if self._no_locks.get(url, 0) > self._clock() - KEYSETS_TTL_S:
            return False
        if await self._client(url).supports(NUT_LOCKS, NUT_DLEQ):
            await self._db.run(partial(store.save_locks, mint=url))
            self._locks.add(url)
            return True
        self._no_locks[url] = self._clock()
        return False

    async def resolve(self, token: Token) -> tuple[tuple[Proof, ...], list[int]]:
        """The token's coins under full keyset ids, with their fees; unknown keysets are looked up, but not every time.

        Raises TokenRefused, WrongUnit, MintUnavailable or MintMisbehaved.
        """
        mint = await self.mint(token.mint)
        if not mint.knows(token) and self._mints[token.mint][0] < self._clock() - LOOKUP_PAUSE_S:
            mint = await self.refresh(token.mint)
        return mint.resolve(token)

    async def gives_change(self, url: str) -> bool:
        """Whether the mint gives back what a payment did not use of its fee reserve (NUT-08). Raises MintUnavailable."""
        if url not in self._change:
            self._change[url] = await self._client(url).supports(NUT_CHANGE)
        return self._change[url]

    def _stored(self, url: str) -> MintKeys | None:
        stored = self._db.read(partial(store.keysets, mint=url))
        return MintKeys(self._client(url), stored) if stored else None

    def _client(self, url: str) -> MintClient:
        mint = normal_mint_url(url)
        client = self._clients.get(mint) or MintClient(mint, self._http)
        self._clients[mint] = client
        return client

    def forget(self, url: str) -> None:
        """Look the mint up anew next time."""
        self._mints.pop(url, None)
        self._locks.discard(url)

    async def refresh(self, url: str) -> MintKeys:
        """Look the mint's keysets up now; keys that were checked once are not fetched again.

        One that is no longer listed is known all the same, though not active: there may be coins of it.
        """
        client = self._client(url)
        listed = [keyset for keyset in await client.keysets() if keyset.unit in MSAT_PER_UNIT]
        stored = {keyset.id: keyset for keyset in self._db.read(partial(store.keysets, mint=client.url))}
        gone = stored.keys() - {keyset.id for keyset in listed}
        if len(listed) > MAX_KEYSETS or len(listed) + len(gone) > MAX_KNOWN_KEYSETS:
            raise MintMisbehaved(f"the mint {url} lists {len(listed)} keysets, and has listed {len(gone)} others")
        keysets = [msgspec.structs.replace(stored[name], active=False, listed=False) for name in gone]
        for keyset in listed:
            elder = stored.get(keyset.id)
            full = await client.with_keys(keyset) if elder is None else msgspec.structs.replace(keyset, keys=elder.keys)
            keysets.append(full)
        # Together: half a mint, kept when the rest of its answers was lost, would pass for the whole one.
        await self._db.run(partial(store.save_keysets, mint=client.url, keysets=keysets))
        mint = MintKeys(client, keysets)
        self._mints[client.url] = (self._clock(), mint)
        return mint
