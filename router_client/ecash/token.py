"""Cashu tokens: `cashuA…` (JSON) and `cashuB…` (CBOR) read, `cashuB…` written (NUT-00)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from relays.errors import MoneyError
from relays.money import MAX_MSAT, MSAT_PER_SAT, Msat, msat
from router_client.ecash import late
from router_client.ecash.crypto import Dleq, y_of
from router_client.errors import TokenUnreadable, WrongUnit

if TYPE_CHECKING:
    from cashu.core.base import TokenV3, TokenV4

MAX_TOKEN_CHARS = 100_000
MAX_PROOFS = 500
MAX_SECRET_CHARS = 1024
POINT_CHARS = 66
_HEX: Final = re.compile(r"[0-9a-fA-F]+")

MSAT_PER_UNIT: Final = {"msat": 1, "sat": MSAT_PER_SAT}
"""The units we take and what one of each is worth."""


class Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """One coin: an amount in the keyset's unit, its secret, and the mint's signature. Field names are the mint's."""

    id: str
    amount: int
    secret: str
    C: str
    dleq: Dleq | None = None
    witness: str | None = None

    def y(self) -> str:
        return y_of(self.secret)


class Token(msgspec.Struct, frozen=True):
    """Coins of one mint in one unit."""

    mint: str
    unit: str
    proofs: tuple[Proof, ...]

    @property
    def amount(self) -> int:
        """Face value in the token's unit."""
        return sum(proof.amount for proof in self.proofs)

    @property
    def amount_msat(self) -> Msat:
        """Face value in msat; a swap's fee comes off it."""
        return to_msat(self.amount, self.unit)


def to_msat(amount: int, unit: str) -> Msat:
    """An amount of a mint's unit in msat. Raises WrongUnit."""
    if unit not in MSAT_PER_UNIT:
        raise WrongUnit(f"the unit {unit[:16]!r} is not taken: bring sat or msat")
    return msat(amount * MSAT_PER_UNIT[unit])


def looks_like_token(text: str) -> bool:
    """Whether a bearer credential means to be a Cashu token."""
    return text.startswith(("cashuA", "cashuB"))


def token_hash(text: str) -> str:
    """The name of a token string in databases and logs, which never hold the token itself."""
    return hashlib.sha256(text.encode()).hexdigest()


def normal_mint_url(url: str) -> str:
    """Mint URLs compare without their trailing slash."""
    return url.strip().rstrip("/")


def decode(text: str) -> Token:
    """Read a token. Raises TokenUnreadable, which never repeats the token, or WrongUnit."""
    if len(text) > MAX_TOKEN_CHARS:
        raise TokenUnreadable(f"the token is longer than {MAX_TOKEN_CHARS} characters")
    parsed = _parse(text)
    mints = [entry.mint for entry in parsed.token] if isinstance(parsed, late.base().TokenV3) else [parsed.mint]
    if not all(_is_text(mint) and mint.startswith(("http://", "https://")) for mint in mints):
        raise TokenUnreadable("the token does not say which mint it is of")
    if len(set(mints)) > 1:
        raise TokenUnreadable("the token holds coins of several mints: send one token per mint")
    if not _is_text(parsed.unit):
        raise TokenUnreadable("the token does not say in which unit it is")
    try:
        proofs = tuple(_proofs(parsed))
    except (msgspec.ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise TokenUnreadable("a coin in the token is malformed") from error
    _check(proofs)
    token = Token(normal_mint_url(mints[0]), parsed.unit, proofs)
    try:
        to_msat(token.amount, token.unit)
    except MoneyError as error:
        raise TokenUnreadable("the token claims more than all bitcoin") from error
    return token


def encode(token: Token, *, with_dleq: bool = False) -> str:
    """Write a token as `cashuB…`.

    Without DLEQ proofs, whose blinding factors link it to its sender, unless its receiver is to check it offline.
    """
    by_keyset: dict[str, list[dict[str, Any]]] = {}
    for proof in token.proofs:
        coin: dict[str, Any] = {"a": proof.amount, "s": proof.secret, "c": bytes.fromhex(proof.C)}
        if proof.witness is not None:
            coin["w"] = proof.witness
        if with_dleq and proof.dleq is not None:
            coin["d"] = {part: bytes.fromhex(getattr(proof.dleq, part) or "") for part in ("e", "s", "r")}
        by_keyset.setdefault(proof.id, []).append(coin)
    groups = [{"i": bytes.fromhex(keyset_id), "p": coins} for keyset_id, coins in by_keyset.items()]
    return str(
        late.base().TokenV4.parse_obj({"m": token.mint, "u": token.unit, "t": groups}).serialize(include_dleq=with_dleq)
    )


def _parse(text: str) -> TokenV3 | TokenV4:
    if not looks_like_token(text):
        raise TokenUnreadable("not a Cashu token: expected cashuA… or cashuB…")
    version = late.base().TokenV3 if text.startswith("cashuA") else late.base().TokenV4
    try:
        return version.deserialize(text)
    except Exception as error:  # cashu lets base64, JSON, CBOR, pydantic and bare errors through
        raise TokenUnreadable("the Cashu token cannot be read: was it copied whole?") from error


def _proofs(parsed: TokenV3 | TokenV4) -> Iterator[Proof]:
    """The coins. cashu's own class of them is left out where it can be: it works out each one's Y."""
    if isinstance(parsed, late.base().TokenV3):
        for raw in parsed.proofs:
            dleq = Dleq(raw.dleq.e, raw.dleq.s, raw.dleq.r) if raw.dleq else None
            yield _proof(raw.id, raw.amount, raw.secret, raw.C, dleq, raw.witness)
        return
    for group in parsed.t:
        for coin in group.p:
            dleq = Dleq(coin.d.e.hex(), coin.d.s.hex(), coin.d.r.hex()) if coin.d else None
            yield _proof(group.i.hex(), coin.a, coin.s, coin.c.hex(), dleq, coin.w)


def _proof(keyset: Any, amount: Any, secret: Any, signature: Any, dleq: Dleq | None, witness: Any) -> Proof:
    """A coin; one whose DLEQ proof is none is a coin without."""
    fields = {"id": keyset, "amount": amount, "secret": secret, "C": signature, "witness": witness or None}
    proves = dleq is not None and all(_is_text(part) and _is_hex(part) for part in (dleq.e, dleq.s, dleq.r))
    return msgspec.convert({**fields, "dleq": dleq if proves else None}, type=Proof)


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that can be written: JSON has some that cannot."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _is_hex(text: str) -> bool:
    return len(text) % 2 == 0 and _HEX.fullmatch(text) is not None


def _check(proofs: tuple[Proof, ...]) -> None:
    if not 0 < len(proofs) <= MAX_PROOFS:
        raise TokenUnreadable(f"a token holds from 1 to {MAX_PROOFS} coins")
    for proof in proofs:
        if not 0 < proof.amount <= MAX_MSAT:
            raise TokenUnreadable("a coin in the token has no value, or more than all bitcoin")
        if not _is_text(proof.secret) or not (proof.witness is None or _is_text(proof.witness)):
            raise TokenUnreadable("a coin in the token has a secret or a witness that cannot be written")
        if not (_is_hex(proof.id) and _is_hex(proof.C) and len(proof.C) == POINT_CHARS):
            raise TokenUnreadable("a coin in the token is malformed")
        if not 0 < len(proof.secret) <= MAX_SECRET_CHARS:
            raise TokenUnreadable("a coin in the token has no secret, or one that no mint takes")
    if len({proof.secret for proof in proofs}) != len(proofs):
        raise TokenUnreadable("a coin is in the token twice")
