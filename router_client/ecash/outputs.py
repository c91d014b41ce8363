"""Outputs of an operation: from the counters in its journal to blinded messages, and from signatures to coins."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router_client.ecash.crypto import BlindSecret, SecretChain, blind, unblind
from router_client.ecash.locks import lock_secret
from router_client.ecash.mint import BlindedMessage, BlindSignature
from router_client.ecash.store import Journal
from router_client.ecash.token import Proof
from router_client.errors import MintMisbehaved


def blinded(chain: SecretChain, journal: Journal) -> tuple[list[BlindSecret], list[BlindedMessage]]:
    """The secrets and messages that a journal stands for; the same ones every time."""
    secrets = [chain.at(journal.keyset, journal.counter + i) for i in range(len(journal.amounts))]
    if journal.lock:
        secrets[: journal.sent] = [
            BlindSecret(lock_secret(journal.lock, nonce=plain.secret), plain.r) for plain in secrets[: journal.sent]
        ]
    outputs = [
        BlindedMessage(amount, journal.keyset, blind(secret))
        for amount, secret in zip(journal.amounts, secrets, strict=True)
    ]
    return secrets, outputs


def unblinded(
    keys: dict[int, str],
    outputs: Sequence[BlindedMessage],
    secrets: Sequence[BlindSecret],
    signatures: Sequence[BlindSignature],
) -> list[Proof]:
    """Coins from signatures. Raises MintMisbehaved unless each fits the output it answers."""
    if len(signatures) != len(outputs):
        raise MintMisbehaved("the mint signed another number of outputs than it was given")
    proofs = []
    for output, secret, signature in zip(outputs, secrets, signatures, strict=True):
        if signature.amount != output.amount or signature.id != output.id or output.amount not in keys:
            raise MintMisbehaved("the mint signed other amounts than it was given")
        point = unblind(secret.r, output.B_, signature.C_, keys[output.amount], signature.dleq)
        dleq = None if signature.dleq is None else msgspec.structs.replace(signature.dleq, r=secret.r)
        proofs.append(Proof(output.id, output.amount, secret.secret, point, dleq))
    return proofs


def unblinded_change(
    keys: dict[int, str],
    outputs: Sequence[BlindedMessage],
    secrets: Sequence[BlindSecret],
    signatures: Sequence[BlindSignature | None],
) -> list[Proof]:
    """Coins from blank outputs, whose amounts the mint chose; those it did not sign are left out (NUT-08).

    Raises MintMisbehaved for signatures that do not fit.
    """
    if len(signatures) > len(outputs):
        raise MintMisbehaved("the mint signed more outputs than it was given")
    coins: list[Proof] = []
    for output, secret, signature in zip(outputs, secrets, signatures, strict=False):
        if signature is not None:
            filled = msgspec.structs.replace(output, amount=signature.amount)
            coins += unblinded(keys, [filled], [secret], [signature])
    return coins
