"""Who pays: a bearer credential to an account."""

from __future__ import annotations

from node.deposits import Deposits
from node.errors import Refusal
from node.ledger.ledger import Ledger
from relays import payment
from router_client.ecash.token import looks_like_token, token_hash


class Credentials:
    """Knows keys and redeemed tokens; redeems a new token on its first use."""

    def __init__(self, ledger: Ledger, deposits: Deposits) -> None:
        self._ledger = ledger
        self._deposits = deposits

    async def account(self, authorization: str | None) -> int:
        """The account of an `Authorization` header: `Bearer sk-…` or `Bearer cashuA…|cashuB…`.

        Raises Refusal: 401 missing or unknown, 403 revoked; for a new token what `Deposits` raises.
        """
        credential = _bearer(authorization)
        if looks_like_token(credential):
            known = self._ledger.account_of_token(token_hash(credential))
            if known is None:
                return (await self._deposits.open_account(credential)).account
        else:
            known = self._ledger.account_of_key(token_hash(credential))
        if known is None:
            raise Refusal(
                401,
                payment.UNKNOWN_CREDENTIAL,
                "this key is not known here; POST /v1/balance/create with a Cashu token makes one",
            )
        account, revoked = known
        if revoked:
            raise Refusal(403, payment.UNKNOWN_CREDENTIAL, "this key was revoked: ask the operator")
        return account


def _bearer(authorization: str | None) -> str:
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
