"""What is kept of a receipt, with its hold's row, is the whole receipt."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from node.ledger.entry import entry, receipt_of
from relays.pricing import ModelPrice, Usage
from relays.receipt import Receipt

AMOUNTS = st.integers(0, 21_000_000 * 100_000_000 * 1000)
COUNTS = st.integers(0, 10**12)
RECEIPTS = st.builds(
    Receipt,
    request_id=st.text(),
    model=st.text(),
    usage=st.builds(
        lambda cached, prompt, thought, completion, *rest: Usage(
            cached + prompt, thought + completion, cached, 0, thought, 0, 0, *rest
        ),
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
        COUNTS,
    ),
    metered=st.sampled_from(["upstream", "counted"]),
    outcome=st.sampled_from(["complete", "aborted", "interrupted"]),
    price=st.builds(ModelPrice, AMOUNTS, AMOUNTS, request_msat=AMOUNTS),
    hold_msat=AMOUNTS,
    cost_msat=AMOUNTS,
    balance_msat=AMOUNTS,
)


@given(RECEIPTS)
def test_nothing_of_a_receipt_is_lost(receipt: Receipt) -> None:
    assert receipt_of(entry(receipt), receipt.request_id, receipt.hold_msat, receipt.cost_msat) == receipt


@given(RECEIPTS)
def test_a_whole_receipt_of_earlier_books_is_read(receipt: Receipt) -> None:
    whole = msgspec.json.encode(receipt).decode()
    assert receipt_of(whole, receipt.request_id, receipt.hold_msat, receipt.cost_msat) == receipt
