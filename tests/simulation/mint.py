"""A mint in memory: real blind signatures and DLEQ proofs, real fees and refusals, and books that say what is outstanding.

It is a fake, so `test_mint_contract.py` puts the same questions to it and to nutshell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import bolt11
import msgspec
from cashu.core.crypto.b_dhke import hash_to_curve, step2_bob
from cashu.core.crypto.keys import derive_keyset_id, derive_keyset_id_v2
from cashu.core.crypto.secp import PrivateKey, PublicKey
from cashu.core.p2pk import verify_schnorr_signature

from relays.money import ceil_div

LARGEST_BIT = 31
QUOTE_LIFE_S = 3600
MSAT_PER_UNIT = {"msat": 1, "sat": 1000}


class Refused(Exception):
    """The mint's no, with its code (NUT error codes, as nutshell gives them)."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Coin(msgspec.Struct, frozen=True):
    id: str
    amount: int
    secret: str
    C: str
    witness: str | None = None


class Output(msgspec.Struct, frozen=True):
    amount: int
    id: str
    B_: str


class Keyset(msgspec.Struct):
    id: str
    unit: str
    fee_ppk: int
    keys: dict[int, PrivateKey]
    active: bool = True


class Quote(msgspec.Struct):
    """An invoice to be paid to the mint (`mint`) or by it (`melt`)."""

    id: str
    unit: str
    amount: int
    request: str
    expiry: int
    state: Literal["UNPAID", "PAID", "ISSUED", "PENDING"] = "UNPAID"
    fee_reserve: int = 0
    change: list[dict[str, Any]] = []


class Books(msgspec.Struct):
    """One unit's sums, in the unit."""

    minted: int = 0
    melted: int = 0
    fees: int = 0

    @property
    def outstanding(self) -> int:
        """What all coins that anybody can still spend are worth together."""
        return self.minted - self.melted - self.fees


class Mint:
    """One mint. Every method is a whole exchange: it is done, or refused and nothing has changed."""

    def __init__(self, url: str, clock: Callable[[], float], *, fee_ppk: int = 100, seed: str = "mint") -> None:
        self.url = url
        self.pays_itself = True
        """Whether invoices count as paid when they are looked at, as with nutshell's FakeWallet."""
        self.lightning: Literal["SETTLED", "FAILED", "PENDING"] = "SETTLED"
        self.books = {unit: Books() for unit in MSAT_PER_UNIT}
        self.keysets: dict[str, Keyset] = {}
        self.spent: dict[str, Coin] = {}
        self.signed: dict[str, dict[str, Any]] = {}
        self._clock = clock
        self._fee_ppk = fee_ppk
        self._seed = seed
        self._mint_quotes: dict[str, Quote] = {}
        self._melt_quotes: dict[str, Quote] = {}
        self._pending: set[str] = set()
        for unit in MSAT_PER_UNIT:
            self.rotate(unit)

    def rotate(self, unit: str) -> None:
        """A new keyset for new coins; the coins of older ones stay good."""
        for keyset in self.keysets.values():
            keyset.active = keyset.active and keyset.unit != unit
        root = f"{self._seed} {unit} {len(self.keysets)}"
        keys = _keys(root)
        points = {amount: key.public_key for amount, key in keys.items()}
        # Both versions of keyset ids are in use; secrets of the older one take a wallet ten times as long.
        is_old = unit == "sat" and len(self.keysets) >= len(MSAT_PER_UNIT)
        by_hash = derive_keyset_id(points) if is_old else derive_keyset_id_v2(points, unit, None, self._fee_ppk)
        self.keysets[by_hash] = Keyset(by_hash, unit, self._fee_ppk, keys)

    # what wallets ask ------------------------------------------------------------------------------------------------

    def public_keys(self, keyset_id: str) -> dict[str, str]:
        """Public keys by amount (NUT-01)."""
        return {str(amount): key.public_key.format().hex() for amount, key in self._keyset(keyset_id).keys.items()}

    def swap(self, inputs: Sequence[Coin], outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Old coins for new ones (NUT-03)."""
        unit = self._check_inputs(inputs)
        self._check_outputs(outputs, unit)
        fee = self._fee(inputs)
        if _sum(inputs) != _sum(outputs) + fee:
            raise Refused(
                11000, f"inputs ({_sum(inputs)}) - fees ({fee}) vs outputs ({_sum(outputs)}) are not balanced"
            )
        self._spend(inputs)
        self.books[unit].fees += fee
        return [self._sign(output) for output in outputs]

    def mint_quote(self, amount: int, unit: str) -> Quote:
        """An invoice for ecash (NUT-04)."""
        if unit not in self.books or amount <= 0:
            raise Refused(11000, "unit or amount not supported")
        number, date = len(self._mint_quotes), int(self._clock())
        invoice = _invoice(amount * MSAT_PER_UNIT[unit], self._seed, number, date)
        quote = self._new_quote("mint", unit, amount, invoice)
        self._mint_quotes[quote.id] = quote
        return quote

    def mint_quote_state(self, quote_id: str) -> Quote:
        """The invoice's state, paid by now if invoices here pay themselves."""
        quote = self._quote(self._mint_quotes, quote_id)
        if quote.state == "UNPAID" and self.pays_itself:
            quote.state = "PAID"
        return quote

    def pay(self, request: str) -> None:
        """Somebody pays an invoice of this mint."""
        for quote in self._mint_quotes.values():
            if quote.request == request and quote.state == "UNPAID":
                quote.state = "PAID"

    def mint(self, quote_id: str, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Coins for a paid invoice."""
        unit = self._check_outputs(outputs, None)
        quote = self.mint_quote_state(quote_id)
        if quote.state == "ISSUED":
            raise Refused(20002, "quote already issued")
        if quote.state != "PAID":
            raise Refused(20001, "quote not paid")
        if quote.unit != unit or quote.amount != _sum(outputs):
            raise Refused(11000, "amount to mint does not match quote amount")
        quote.state = "ISSUED"
        self.books[unit].minted += quote.amount
        return [self._sign(output) for output in outputs]

    def melt_quote(self, request: str, unit: str) -> Quote:
        """What paying an invoice of another mint takes (NUT-05)."""
        amount_msat = int(bolt11.decode(request).amount_msat or 0)
        amount = ceil_div(amount_msat, MSAT_PER_UNIT[unit])
        quote = self._new_quote("melt", unit, amount, request)
        quote.fee_reserve = max(ceil_div(2000, MSAT_PER_UNIT[unit]), ceil_div(amount, 100))
        self._melt_quotes[quote.id] = quote
        return quote

    def melt_quote_state(self, quote_id: str) -> Quote:
        """How far the payment is."""
        return self._quote(self._melt_quotes, quote_id)

    def melt(self, quote_id: str, inputs: Sequence[Coin], outputs: Sequence[Output]) -> Quote:
        """Pay the invoice with coins; what the reserve did not need comes back in the blank outputs (NUT-08)."""
        quote = self._quote(self._melt_quotes, quote_id)
        if quote.state != "UNPAID":
            raise Refused(11000, f"melt quote is not unpaid: {quote.state}")
        if self._check_inputs(inputs) != quote.unit:
            raise Refused(11000, "proof unit does not match quote unit")
        if outputs:
            self._check_outputs(outputs, quote.unit, blank=True)
        fee = self._fee(inputs)
        spare = _sum(inputs) - quote.amount - fee
        if spare < quote.fee_reserve:
            raise Refused(11000, "not enough inputs provided for melt")
        if self.lightning == "FAILED":
            raise Refused(20004, "Lightning payment failed")
        if self.lightning == "PENDING":
            quote.state = "PENDING"
            self._pending |= {_y(coin) for coin in inputs}
            return quote
        self._spend(inputs)
        lightning_fee = quote.fee_reserve // 2
        change = self._signed_change(spare - lightning_fee, outputs)
        self.books[quote.unit].melted += quote.amount
        self.books[quote.unit].fees += _sum(inputs) - quote.amount - sum(each["amount"] for each in change)
        quote.state, quote.change = "PAID", change
        return quote

    def states(self, ys: Sequence[str]) -> list[str]:
        """Whether coins are spent (NUT-07)."""
        return ["SPENT" if y in self.spent else "PENDING" if y in self._pending else "UNSPENT" for y in ys]

    def restore(self, outputs: Sequence[Output]) -> list[tuple[Output, dict[str, Any]]]:
        """What was signed before (NUT-09)."""
        return [(output, self.signed[output.B_]) for output in outputs if output.B_ in self.signed]

    def is_spent(self, secret: str) -> bool:
        """Whether the coin of that secret is gone."""
        return y_of(secret) in self.spent

    # checks ----------------------------------------------------------------------------------------------------------

    def _check_inputs(self, inputs: Sequence[Coin]) -> str:
        if not inputs:
            raise Refused(11000, "no proofs provided.")
        if len({coin.secret for coin in inputs}) != len(inputs):
            raise Refused(11007, "Duplicate inputs provided")
        for coin in inputs:
            key = self._keyset(coin.id).keys.get(coin.amount)
            if key is None or hash_to_curve(coin.secret.encode()).multiply(key.secret).format().hex() != coin.C:
                raise Refused(10001, "proofs could not be verified")
            _check_lock(coin)
        ys = [_y(coin) for coin in inputs]
        if any(y in self._pending for y in ys):
            raise Refused(11002, "proofs are pending")
        if any(y in self.spent for y in ys):
            raise Refused(11001, "proofs already spent")
        units = {self.keysets[coin.id].unit for coin in inputs}
        if len(units) != 1:
            raise Refused(11009, "inputs have different units.")
        return units.pop()

    def _check_outputs(self, outputs: Sequence[Output], unit: str | None, *, blank: bool = False) -> str:
        if not outputs or len({output.id for output in outputs}) != 1:
            raise Refused(11000, "no outputs provided, or outputs of different keysets")
        keyset = self._keyset(outputs[0].id)
        if not keyset.active:
            raise Refused(12002, "keyset id inactive.")
        if unit is not None and keyset.unit != unit:
            raise Refused(11010, "Inputs and outputs not of same unit")
        if not blank and any(output.amount not in keyset.keys for output in outputs):
            raise Refused(11000, "invalid amount.")
        if len({output.B_ for output in outputs}) != len(outputs):
            raise Refused(11008, "Duplicate outputs provided")
        if any(output.B_ in self.signed for output in outputs):
            raise Refused(11003, "outputs already signed")
        return keyset.unit

    def _keyset(self, keyset_id: str) -> Keyset:
        if keyset_id not in self.keysets:
            raise Refused(12001, f"keyset not found: {keyset_id}")
        return self.keysets[keyset_id]

    def _quote(self, quotes: Mapping[str, Quote], quote_id: str) -> Quote:
        if quote_id not in quotes:
            raise Refused(11000, "quote not found")
        return quotes[quote_id]

    # what changes ----------------------------------------------------------------------------------------------------

    def _spend(self, inputs: Sequence[Coin]) -> None:
        self.spent.update({_y(coin): coin for coin in inputs})

    def _sign(self, output: Output) -> dict[str, Any]:
        point, e, s = step2_bob(PublicKey(bytes.fromhex(output.B_)), self.keysets[output.id].keys[output.amount])
        signature = {
            "id": output.id,
            "amount": output.amount,
            "C_": point.format().hex(),
            "dleq": {"e": e.to_hex(), "s": s.to_hex()},
        }
        self.signed[output.B_] = signature
        return signature

    def _signed_change(self, amount: int, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        coins = [1 << bit for bit in range(amount.bit_length()) if amount >> bit & 1]
        return [self._sign(Output(coin, output.id, output.B_)) for coin, output in zip(coins, outputs, strict=False)]

    def _fee(self, inputs: Sequence[Coin]) -> int:
        return ceil_div(sum(self.keysets[coin.id].fee_ppk for coin in inputs), 1000)

    def _new_quote(self, kind: str, unit: str, amount: int, request: str) -> Quote:
        id_ = f"{kind}-{len(self._mint_quotes) + len(self._melt_quotes)}-{_hash(self._seed).hex()[:8]}"
        return Quote(id_, unit, amount, request, int(self._clock()) + QUOTE_LIFE_S)


@cache
def _keys(root: str) -> dict[int, PrivateKey]:
    return {1 << bit: PrivateKey(_hash(f"{root} {bit}")) for bit in range(LARGEST_BIT)}


@cache
def _invoice(amount_msat: int, seed: str, number: int, date: int) -> str:
    tags = bolt11.Tags()
    tags.add(bolt11.TagChar.payment_hash, _hash(f"{seed} invoice {number}").hex())
    tags.add(bolt11.TagChar.payment_secret, _hash(f"{seed} secret").hex())
    tags.add(bolt11.TagChar.description, "simulated")
    tags.add(bolt11.TagChar.expire_time, QUOTE_LIFE_S)
    invoice = bolt11.Bolt11(currency="bc", amount_msat=bolt11.MilliSatoshi(amount_msat), date=date, tags=tags)
    return str(bolt11.encode(invoice, _hash(f"{seed} lightning").hex()))


def y_of(secret: str) -> str:
    """The point that names a coin's secret."""
    return str(hash_to_curve(secret.encode()).format().hex())


def _y(coin: Coin) -> str:
    return y_of(coin.secret)


def _sum(parts: Sequence[Coin] | Sequence[Output]) -> int:
    return sum(part.amount for part in parts)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _check_lock(coin: Coin) -> None:
    """A coin locked to a key wants that key's signature (NUT-11); of its tags, only SIG_INPUTS is known here."""
    if not coin.secret.startswith('["P2PK"'):
        return
    lock = json.loads(coin.secret)[1]
    if lock.get("tags") not in (None, [], [["sigflag", "SIG_INPUTS"]]):
        raise Refused(0, "this mint knows no such lock")
    signatures = json.loads(coin.witness or "{}").get("signatures", [])
    if not signatures:
        raise Refused(0, "no signatures in proof.")
    key = PublicKey(bytes.fromhex(lock["data"]))
    if not any(verify_schnorr_signature(coin.secret.encode(), key, bytes.fromhex(each)) for each in signatures):
        raise Refused(11000, "validation of input spending conditions failed.")
