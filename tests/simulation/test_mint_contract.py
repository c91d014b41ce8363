"""The contract of a mint: the simulated one answers what nutshell answers, to the code."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from router_client.ecash.coins import split, swap_fee
from router_client.ecash.crypto import BlindSecret, SecretChain, blind
from router_client.ecash.locks import LockKey, lock_secret
from router_client.ecash.mint import BlindedMessage, BlindSignature, Keyset, MintClient
from router_client.ecash.outputs import unblinded
from router_client.ecash.token import Proof
from router_client.errors import TokenRefused, TokenSpent
from tests.client.mints import running_mint
from tests.conftest import MINT_FEE_PPK
from tests.simulation.mint import Mint
from tests.simulation.mint_http import MintTransport

Made = tuple[list[BlindSecret], list[BlindedMessage]]
KINDS = ["simulated", "nutshell"]


class Bench:
    """A mint to be asked, and the means to make outputs and coins for it."""

    def __init__(self, client: MintClient, http: httpx.AsyncClient, seed: str) -> None:
        self.client = client
        self.keysets: dict[str, Keyset] = {}
        self._http = http
        self._chain = SecretChain(seed.encode().ljust(32))
        self._counter = 0

    async def look(self) -> None:
        for keyset in await self.client.keysets():
            if keyset.active:
                self.keysets[keyset.unit] = await self.client.with_keys(keyset)

    def outputs(self, amounts: Sequence[int], unit: str = "msat", secrets: Sequence[str] = ()) -> Made:
        """Fresh secrets and the messages that hide them; the first of the given texts."""
        id_, first = self.keysets[unit].id, self._counter
        self._counter += len(amounts)
        made = [self._chain.at(id_, first + i) for i in range(len(amounts))]
        hidden = [BlindSecret(text, plain.r) for text, plain in zip(secrets, made, strict=False)]
        both = [*hidden, *made[len(hidden) :]]
        return both, [BlindedMessage(amount, id_, blind(one)) for amount, one in zip(amounts, both, strict=True)]

    def coins(self, made: Made, signatures: Sequence[BlindSignature], unit: str = "msat") -> list[Proof]:
        """Coins of signatures, whose DLEQ proofs are checked."""
        keys = self.keysets[unit].keys
        assert keys is not None
        return unblinded(keys, made[1], made[0], signatures)

    async def fund(self, amounts: Sequence[int], unit: str = "msat") -> list[Proof]:
        quote = await self.client.mint_quote(sum(amounts), unit)
        while (await self.client.mint_quote_state(quote.quote)).state != "PAID":
            pass
        made = self.outputs(sorted(amounts), unit)
        return self.coins(made, await self.client.mint(quote.quote, made[1]), unit)

    async def swap(self, inputs: Sequence[Proof], made: Made) -> list[Proof]:
        return self.coins(made, await self.client.swap(inputs, made[1]))

    async def code(self, path: str, body: dict[str, Any]) -> int:
        """The code of a refusal."""
        url = f"{self.client.url}/v1/{path}"
        content, headers = msgspec.json.encode(body), {"content-type": "application/json"}
        answer = await self._http.post(url, content=content, headers=headers)
        assert answer.status_code == 400, answer.text
        return int(msgspec.json.decode(await answer.aread()).get("code") or 0)

    async def swap_code(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> int:
        return await self.code("swap", {"inputs": [plain(coin) for coin in inputs], "outputs": outputs})


def plain(coin: Proof) -> Proof:
    return msgspec.structs.replace(coin, dleq=None)


def change_of(coins: Sequence[Proof]) -> tuple[int, ...]:
    """What a swap of these coins may make."""
    return split(sum(coin.amount for coin in coins) - swap_fee([MINT_FEE_PPK] * len(coins)))


@asynccontextmanager
async def place(kind: str, *, pays_itself: bool, real: Callable[[], str], seed: str) -> AsyncIterator[Bench]:
    """A mint of that kind."""
    mint = Mint("http://mint.simulated", time.time, fee_ppk=MINT_FEE_PPK)
    mint.pays_itself = pays_itself
    transport = MintTransport(mint) if kind == "simulated" else None
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=60) as http:
        bench = Bench(MintClient(mint.url if kind == "simulated" else real(), http), http, seed)
        await bench.look()
        yield bench


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    seed = f"{request.node.name} {time.time_ns()}"[-32:]
    async with place(
        request.param, pays_itself=True, real=lambda: str(request.getfixturevalue("mint_url")), seed=seed
    ) as made:
        yield made


@pytest.fixture(scope="module")
def poor_mint_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Nutshell, whose invoices nobody pays."""
    folder: Path = tmp_path_factory.mktemp("poor")
    with running_mint(folder, extra={"FAKEWALLET_BRR": "FALSE"}) as url:
        yield url


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unpaid_quote_gives_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    async with place(
        kind, pays_itself=False, real=lambda: str(request.getfixturevalue("poor_mint_url")), seed="unpaid"
    ) as bench:
        quote = await bench.client.mint_quote(8, "msat")
        assert (await bench.client.mint_quote_state(quote.quote)).state == "UNPAID"
        assert await bench.code("mint/bolt11", {"quote": quote.quote, "outputs": bench.outputs([8])[1]}) == 20001


async def test_keysets_of_both_units_say_their_fee_and_their_ids_are_their_keys(bench: Bench) -> None:
    assert set(bench.keysets) == {"sat", "msat"}
    assert {keyset.input_fee_ppk for keyset in bench.keysets.values()} == {MINT_FEE_PPK}
    assert await bench.client.supports(7, 8, 9, 11, 12)


@pytest.mark.parametrize("count", [1, 10, 11])
async def test_a_swap_costs_a_fee_by_the_coin_rounded_up(bench: Bench, count: int) -> None:
    coins = await bench.fund([64] * count)
    fee = -(-count * MINT_FEE_PPK // 1000)
    for wrong in (64 * count, 64 * count - fee - 1):
        assert await bench.swap_code(coins, bench.outputs(split(wrong))[1]) == 11000
    assert await bench.client.spent(coins) == set(), "a refused swap changes nothing"
    made = await bench.swap(coins, bench.outputs(split(64 * count - fee)))
    assert sum(coin.amount for coin in made) == 64 * count - fee
    assert await bench.client.spent(coins) == {coin.y() for coin in coins}
    assert await bench.client.spent(made) == set()


async def test_a_coin_is_spent_once(bench: Bench) -> None:
    coins = await bench.fund([64])
    await bench.swap(coins, bench.outputs(change_of(coins)))
    with pytest.raises(TokenSpent):
        await bench.client.swap(coins, bench.outputs(change_of(coins))[1])
    assert await bench.swap_code(coins, bench.outputs(change_of(coins))[1]) == 11001


async def test_the_same_swap_again_is_refused_and_its_signatures_are_restored(bench: Bench) -> None:
    coins = await bench.fund([64])
    made = bench.outputs(change_of(coins))
    before = await bench.client.swap(coins, made[1])
    assert await bench.swap_code(coins, made[1]) == 11001
    stranger = bench.outputs([1])[1]
    restored = await bench.client.restore([*made[1], *stranger])
    assert [restored[output.B_].C_ for output in made[1]] == [signature.C_ for signature in before]
    assert [restored[output.B_].amount for output in made[1]] == [output.amount for output in made[1]]
    assert set(restored) == {output.B_ for output in made[1]}


async def test_outputs_are_signed_once(bench: Bench) -> None:
    one, two = await bench.fund([64]), await bench.fund([64])
    made = bench.outputs(change_of(one))
    await bench.client.swap(one, made[1])
    assert await bench.swap_code(two, made[1]) == 11003
    with pytest.raises(TokenRefused):
        await bench.client.swap(two, made[1])
    assert await bench.client.spent(two) == set()


async def test_no_coin_or_output_is_in_a_swap_twice(bench: Bench) -> None:
    coins = await bench.fund([64])
    assert await bench.swap_code([*coins, *coins], bench.outputs(split(127))[1]) == 11007
    (twice,) = bench.outputs([1])[1]
    assert await bench.swap_code(coins, [twice] * 63) == 11008


async def test_forged_coins_and_strange_units_are_refused(bench: Bench) -> None:
    (coin,), (other,) = await bench.fund([64]), await bench.fund([32])
    forged = msgspec.structs.replace(coin, C=other.C)
    assert await bench.swap_code([forged], bench.outputs(change_of([coin]))[1]) == 10001
    dearer = msgspec.structs.replace(coin, amount=128)
    assert await bench.swap_code([dearer], bench.outputs(split(127))[1]) == 10001
    for unit in ("sat", "msat"):
        strange = bench.outputs(change_of([coin]), "sat")[1]
        if unit == "msat":
            strange = [msgspec.structs.replace(output, id="00ffffffffffffff") for output in strange]
        with pytest.raises(TokenRefused):
            await bench.client.swap([coin], strange)
    assert await bench.client.spent([coin]) == set()


async def test_a_paid_quote_is_issued_once_for_its_amount(bench: Bench) -> None:
    quote = await bench.client.mint_quote(8, "msat")
    while (await bench.client.mint_quote_state(quote.quote)).state != "PAID":
        pass
    assert await bench.code("mint/bolt11", {"quote": quote.quote, "outputs": bench.outputs([16])[1]}) == 11000
    made = bench.outputs([8])
    signatures = await bench.client.mint(quote.quote, made[1])
    assert (await bench.client.mint_quote_state(quote.quote)).state == "ISSUED"
    again = {"quote": quote.quote, "outputs": made[1]}
    assert await bench.code("mint/bolt11", again) == 11003, "the outputs are looked at first"
    assert await bench.code("mint/bolt11", {**again, "outputs": bench.outputs([8])[1]}) == 20002
    assert (await bench.client.restore(made[1]))[made[1][0].B_].C_ == signatures[0].C_


async def test_a_locked_coin_wants_its_owners_signature(bench: Bench) -> None:
    owner, stranger = LockKey(b"owner" * 8), LockKey(b"other" * 8)
    paid = await bench.fund([64])
    nonce = bench.outputs([1])[0][0].secret
    made = bench.outputs(change_of(paid), secrets=[lock_secret(owner.public, nonce=nonce)])
    coins = await bench.swap(paid, made)
    locked, target = coins[0], change_of(coins)
    assert owner.owns(locked.secret)
    assert await bench.swap_code(coins, bench.outputs(target)[1]) == 0, "nutshell has no code for no signature"
    not_his = msgspec.structs.replace(locked, secret=locked.secret.replace(owner.public, stranger.public))
    by_another = msgspec.structs.replace(locked, witness=stranger.signed(not_his).witness)
    assert by_another.witness is not None
    assert await bench.swap_code([by_another, *coins[1:]], bench.outputs(target)[1]) == 11000
    assert await bench.client.spent(coins) == set()
    assert await bench.swap([owner.signed(locked), *coins[1:]], bench.outputs(target))


async def test_what_the_fee_reserve_did_not_need_comes_back_as_change(bench: Bench) -> None:
    foreign = Mint("http://foreign.simulated", time.time, seed="foreign")
    request = foreign.mint_quote(1000, "msat").request
    quote = await bench.client.melt_quote(request, "msat")
    assert (quote.amount, quote.state) == (1000, "UNPAID")
    assert quote.fee_reserve > 0
    coins = await bench.fund([4096])
    blanks = bench.outputs([1] * 12)
    too_little = {"quote": quote.quote, "inputs": await bench.fund([512]), "outputs": blanks[1]}
    assert await bench.code("melt/bolt11", too_little) == 11000
    paid = await bench.client.melt(quote.quote, coins, blanks[1])
    assert paid.state == "PAID"
    assert paid.change
    back = sum(signature.amount for signature in paid.change)
    assert 4096 - 1000 - quote.fee_reserve - 1 <= back <= 4096 - 1000 - 1
    assert await bench.client.spent(coins) == {coin.y() for coin in coins}
    assert (await bench.client.melt_quote_state(quote.quote)).state == "PAID"
    restored = await bench.client.restore(blanks[1])
    assert sum(signature.amount for signature in restored.values()) == back
    again = {"quote": quote.quote, "inputs": await bench.fund([4096]), "outputs": bench.outputs([1] * 12)[1]}
    assert await bench.code("melt/bolt11", again) == 11000
