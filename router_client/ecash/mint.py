"""A mint over HTTP (NUT-01 to NUT-09): requests out, typed answers in, foreign errors translated here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeGuard, TypeVar

import httpx
import msgspec

from relays.errors import InvalidJson
from relays.jsontext import from_json
from router_client.ecash.crypto import Dleq, keyset_id_matches
from router_client.ecash.token import Proof
from router_client.errors import MintMisbehaved, MintSilent, MintUnavailable, TokenRefused, TokenSpent
from router_client.net.fetch import FetchFailed, Reply, fetch

T = TypeVar("T")

DEADLINE_S = 30.0
MELT_DEADLINE_S = 60.0
"""Lightning finds its way in a minute or reports as pending."""

MOST_ASKED = 200
"""Ys or outputs in one question."""

MOST_AT_ONCE = 4
"""Swaps, and invoices turned into coins, that one mint is asked for at the same time: it does them one after another, and
nutshell refuses those that wait a second for its database."""
TURN_S = 10.0
"""Less than callers wait for their change."""

MOST_FEE_PPK = 10**9
AMOUNT_CHARS = 19
"""Of the largest coin that there can be: mints list keys up to 2**63."""

CODE_UNKNOWN = 0
CODE_SPENT = 11001
CODE_PENDING = 11002
CODE_OUTPUTS_PENDING = 11004
"""Of a swap: the same one is under way. nutshell has it for a witness that is too long, too."""
CODE_QUOTE_UNPAID = 20001
CODE_QUOTE_PENDING = 20005
SWAP = "/v1/swap"
_BUSY = re.compile(r"failed to acquire database lock|(\(sqlite3\.OperationalError\) )?database is locked")
"""How nutshell begins when its database kept it waiting, as if it were about the coins: the next try may find it free."""


class BlindedMessage(msgspec.Struct, frozen=True):
    """An output to be signed. Field names are the wire's."""

    amount: int
    id: str
    B_: str


class BlindSignature(msgspec.Struct, frozen=True):
    """A mint's signature on an output."""

    amount: int
    id: str
    C_: str
    dleq: Dleq | None = None


class Keyset(msgspec.Struct, frozen=True):
    """A keyset as listed (NUT-02), with its keys once they were fetched and checked; one that is not `listed` was before."""

    id: str
    unit: str
    active: bool
    input_fee_ppk: Annotated[int, msgspec.Meta(ge=0, le=MOST_FEE_PPK)] = 0
    final_expiry: int | None = None
    keys: dict[int, str] | None = None
    listed: bool = True


class MintQuote(msgspec.Struct, frozen=True):
    """An invoice whose payment the mint turns into ecash (NUT-04)."""

    quote: str
    request: str
    state: Literal["UNPAID", "PAID", "ISSUED", "PENDING"] | None = None
    expiry: int | None = None


class MeltQuote(msgspec.Struct, frozen=True):
    """What paying an invoice takes, and how far it is (NUT-05); once paid, with the change of the fee (NUT-08)."""

    quote: str
    amount: Annotated[int, msgspec.Meta(ge=1)]
    fee_reserve: Annotated[int, msgspec.Meta(ge=0)]
    state: Literal["UNPAID", "PENDING", "PAID"]
    payment_preimage: str | None = None
    change: list[BlindSignature] | None = None


class _Info(msgspec.Struct):
    nuts: dict[str, Any]


class _Keysets(msgspec.Struct):
    keysets: list[Keyset]


class _Keys(msgspec.Struct):
    id: str
    keys: dict[str, str]


class _KeysAnswer(msgspec.Struct):
    keysets: list[_Keys]


class _Signatures(msgspec.Struct):
    signatures: list[BlindSignature]


class _Restored(msgspec.Struct):
    outputs: list[BlindedMessage]
    signatures: list[BlindSignature]


class _Refusal(msgspec.Struct):
    detail: Any = None
    code: int | None = None


class MintClient:
    """One mint. Raises MintUnavailable when the outcome is unknown, TokenSpent or TokenRefused when it said no."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self._http = http
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def supports(self, *nuts: int) -> bool:
        """Whether the mint says that it does all of these (NUT-06)."""
        told = (await self._told("/v1/info", _Info)).nuts
        return all(isinstance(nut := told.get(str(n)), dict) and nut.get("supported") is True for n in nuts)

    async def keysets(self) -> list[Keyset]:
        """All keysets, without keys. Legacy ids that are not hex are left out."""
        listed = (await self._told("/v1/keysets", _Keysets)).keysets
        return [keyset for keyset in listed if keyset.id[:2] in ("00", "01")]

    async def with_keys(self, keyset: Keyset) -> Keyset:
        """The keyset with its keys. Raises MintMisbehaved unless the id is derived from them."""
        answer = await self._told(f"/v1/keys/{keyset.id}", _KeysAnswer)
        for entry in answer.keysets:
            if entry.id == keyset.id:
                amounts = [amount for amount in entry.keys if amount.isdecimal() and len(amount) <= AMOUNT_CHARS]
                keys = {int(amount): entry.keys[amount] for amount in amounts}
                if not keyset_id_matches(keyset.id, keys, keyset.unit, keyset.input_fee_ppk, keyset.final_expiry):
                    raise MintMisbehaved(f"{self.url} gives keys that do not belong to keyset {keyset.id}")
                return msgspec.structs.replace(keyset, keys=keys)
        raise MintMisbehaved(f"{self.url} lists keyset {keyset.id} but gives no keys for it")

    async def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> list[BlindSignature]:
        """Old coins for new signatures (NUT-03)."""
        body = {"inputs": [_input(proof) for proof in inputs], "outputs": outputs}
        async with self._turn():
            return (await self._call("POST", SWAP, _Signatures, body)).signatures

    async def mint_quote(self, amount: int, unit: str) -> MintQuote:
        """An invoice for `amount` of `unit`."""
        return await self._call("POST", "/v1/mint/quote/bolt11", MintQuote, {"amount": amount, "unit": unit})

    async def mint_quote_state(self, quote: str) -> MintQuote:
        """The invoice's state."""
        return await self._call("GET", f"/v1/mint/quote/bolt11/{quote}", MintQuote)

    async def mint(self, quote: str, outputs: Sequence[BlindedMessage]) -> list[BlindSignature]:
        """Signatures for a paid invoice."""
        body = {"quote": quote, "outputs": outputs}
        async with self._turn():
            return (await self._call("POST", "/v1/mint/bolt11", _Signatures, body)).signatures

    async def melt_quote(self, bolt11: str, unit: str) -> MeltQuote:
        """What the mint takes in `unit` for paying the invoice."""
        return await self._call("POST", "/v1/melt/quote/bolt11", MeltQuote, {"request": bolt11, "unit": unit})

    async def melt_quote_state(self, quote: str) -> MeltQuote:
        """How far the payment is."""
        return await self._call("GET", f"/v1/melt/quote/bolt11/{quote}", MeltQuote)

    async def melt(self, quote: str, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> MeltQuote:
        """Pay the quoted invoice with coins; the outputs are blank, for change."""
        body = {"quote": quote, "inputs": [_input(proof) for proof in inputs], "outputs": outputs}
        return await self._call("POST", "/v1/melt/bolt11", MeltQuote, body, MELT_DEADLINE_S)

    async def restore(self, outputs: Sequence[BlindedMessage]) -> dict[str, BlindSignature]:
        """Signatures the mint made earlier, by blinded message (NUT-09)."""
        found: dict[str, BlindSignature] = {}
        for part in _parts(outputs):
            answer = await self._call("POST", "/v1/restore", _Restored, {"outputs": part})
            if len(answer.outputs) != len(answer.signatures):
                raise MintMisbehaved(f"{self.url} restores signatures without their messages")
            found |= {out.B_: signature for out, signature in zip(answer.outputs, answer.signatures, strict=True)}
        return found

    async def states(self, proofs: Sequence[Proof]) -> dict[str, str]:
        """By Y: UNSPENT, PENDING or SPENT (NUT-07)."""
        found: dict[str, str] = {}
        for part in _parts([proof.y() for proof in proofs]):
            states = (await self._call("POST", "/v1/checkstate", dict[str, Any], {"Ys": part})).get("states")
            if not isinstance(states, list):
                raise MintMisbehaved(f"{self.url} answers a state check without states")
            found |= {str(state["Y"]): str(state.get("state")) for state in states if _has_y(state)}
        return found

    async def spent(self, proofs: Sequence[Proof]) -> set[str]:
        """The Ys of those proofs that are spent."""
        return {y for y, state in (await self.states(proofs)).items() if state == "SPENT"}

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Raises MintUnavailable when too many are before us."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise MintUnavailable(f"the mint {self.url} keeps too many waiting") from error
        try:
            yield
        finally:
            self._turns.release()

    async def _told(self, path: str, form: type[T]) -> T:
        """What it says of itself. Who refuses that has nothing against a token: it is no mint that answers."""
        try:
            return await self._call("GET", path, form)
        except (TokenRefused, TokenSpent) as error:
            raise MintUnavailable(f"the mint {self.url} does not describe itself: {error}") from error

    async def _call(
        self, method: str, path: str, form: type[T], body: object = None, deadline_s: float = DEADLINE_S
    ) -> T:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"}
        url = self.url + path
        try:
            reply = await fetch(self._http, method, url, content=content, headers=headers, deadline_s=deadline_s)
        except FetchFailed as error:
            raise MintSilent(f"the mint {self.url} cannot be reached: {error}") from error
        if reply.status >= 500 or reply.status == 429:
            raise MintUnavailable(f"the mint {self.url} is in trouble (HTTP {reply.status})")
        if reply.status >= 400:
            raise _refusal(self.url, path, reply)
        try:
            return from_json(reply.body, form)
        except InvalidJson as error:
            raise MintUnavailable(f"the mint {self.url} answers what is no mint's answer") from error


def _has_y(state: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(state, dict) and "Y" in state


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Mints bound what they are asked at once."""
    return (items[at : at + MOST_ASKED] for at in range(0, len(items), MOST_ASKED))


def _refusal(url: str, path: str, reply: Reply) -> Exception:
    try:
        refusal = from_json(reply.body, _Refusal)
    except InvalidJson:
        refusal = _Refusal()
    if refusal.code is None and refusal.detail is None:
        return MintUnavailable(f"the mint {url} answers what is no mint's answer (HTTP {reply.status}): check its URL")
    words = f"the mint {url} says: {str(refusal.detail)[:200]}"
    if refusal.code == CODE_SPENT:
        return TokenSpent(words)
    if refusal.code in (CODE_PENDING, CODE_QUOTE_UNPAID, CODE_QUOTE_PENDING):
        return MintUnavailable(f"{words}; this is not done yet")
    # Of an invoice, its quote tells more.
    if refusal.code == CODE_OUTPUTS_PENDING and path == SWAP and "pending" in words:
        return MintUnavailable(f"{words}; this is not done yet")
    if refusal.code in (CODE_UNKNOWN, None) and _BUSY.match(str(refusal.detail)):
        return MintUnavailable(f"the mint {url} is busy")
    return TokenRefused(words)


def _input(proof: Proof) -> dict[str, Any]:
    """A coin as the mint wants it: without the DLEQ proof, whose blinding factor is not the mint's business."""
    fields = {"id": proof.id, "amount": proof.amount, "secret": proof.secret, "C": proof.C}
    return fields if proof.witness is None else {**fields, "witness": proof.witness}
