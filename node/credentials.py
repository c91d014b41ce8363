"""Who pays: a bearer credential to a key, which names an account."""

from __future__ import annotations

from node.deposits import Deposits
from node.errors import Refusal
from node.l402 import L402, claim_in
from node.ledger.ledger import Ledger
from node.ledger.model import Key
from node.refunds import check_owner
from relays import payment
from router_client.ecash.token import looks_like_token, token_hash


class Credentials:
    """Knows keys, redeemed tokens and paid invoices; redeems a new token on its first use."""

    def __init__(self, ledger: Ledger, deposits: Deposits, l402: L402) -> None:
        self._ledger = ledger
        self._deposits = deposits
        self._l402 = l402

    async def key(self, authorization: str | None) -> Key:
        """The key of an `Authorization` header: `Bearer sk-…`, `Bearer cashuA…|cashuB…` or `L402 TOKEN:PREIMAGE`.

        Raises Refusal: 401 missing or unknown, 403 revoked; for a new token what `Deposits` raises, for L402 503 too.
        """
        claim = claim_in(authorization)
        key = await (self._bearers(_bearer(authorization)) if claim is None else self._l402.key(claim))
        if key.revoked:
            raise Refusal(403, payment.UNKNOWN_CREDENTIAL, "this key was revoked: ask who gave it to you")
        return key

    async def _bearers(self, credential: str) -> Key:
        name = token_hash(credential)
        key = await self._ledger.key_of(name)
        if key is None and looks_like_token(credential):
            await self._deposits.open_account(credential)
            key = await self._ledger.key_of(name)
        if key is None:
            raise Refusal(
                401,
                payment.UNKNOWN_CREDENTIAL,
                "this key is not known here; POST /v1/balance/create with a Cashu token makes one",
            )
        return key

    async def owner(self, authorization: str | None) -> Key:
        """The same, for what only an account's owner may do. Raises Refusal 403 for a key that another key made."""
        key = await self.key(authorization)
        check_owner(key)
        return key


def authorization_in(authorization: str | None, api_key: str | None) -> str:
    """What the `Authorization` header says; or as if it said what Anthropic's clients send as `x-api-key`."""
    if not authorization and api_key:
        return f"Bearer {api_key}"
    return authorization or ""


def credential_in(authorization: str | None) -> str:
    """What the caller alone knows, in one spelling. Raises Refusal 401 when there is none."""
    claim = claim_in(authorization)
    return _bearer(authorization) if claim is None else claim.text


def _bearer(authorization: str | None) -> str:
    """The credential itself. Raises Refusal 401 when there is none."""
    scheme, _, credential = (authorization or "").strip().partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise Refusal(
            401,
            payment.MISSING_CREDENTIAL,
            "no credential: send 'Authorization: Bearer' with a key of this node or a Cashu token",
            headers={"www-authenticate": "Bearer"},
        )
    return credential
