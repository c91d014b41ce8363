"""A node's key has a face, and says where it publishes."""

import json

from relays.event import Signer, expiration
from relays.profile import profile, relay_list
from tests.relays.golden import SECRET

SIGNER = Signer.parse(SECRET)


def test_the_profile_is_a_programs() -> None:
    made = profile(SIGNER, 1, name="Node", about="", website="https://node.example")
    assert made.kind == 0
    assert json.loads(made.content) == {"name": "Node", "website": "https://node.example", "bot": True}


def test_the_relay_list_names_each_relay() -> None:
    made = relay_list(SIGNER, 1, ["wss://a.example", "wss://b.example"])
    assert made.kind == 10002
    assert made.tags[:-1] == (("r", "wss://a.example"), ("r", "wss://b.example"))


def test_both_are_forgotten_a_month_after_their_node() -> None:
    for made in (profile(SIGNER, 1, name="", about="", website=""), relay_list(SIGNER, 1, [])):
        assert expiration(made) == 1 + 30 * 86400
