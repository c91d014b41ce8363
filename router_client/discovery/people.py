"""Whom the user trusts, blocks and follows: one JSON file of npubs, that people can read and edit."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from relays.errors import InvalidJson, InvalidKey
from relays.event import npub, pubkey_of
from relays.jsontext import from_json
from router_client.discovery.trust import Own
from router_client.disk.ownfile import write_own
from router_client.errors import StorageError

MAX_PEOPLE: Final = 500
"""In each list. Whom a follower follows is asked for, so the circle has to end somewhere."""

List = Literal["trusted", "blocked", "followed"]


class _Lists(msgspec.Struct):
    trusted: list[str] = []
    blocked: list[str] = []
    followed: list[str] = []


class People:
    """The lists in the file at `path`; without the file they are empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def own(self) -> Own:
        """The lists as keys. Raises StorageError for a file that cannot be read: a block that is overlooked costs money."""
        try:
            lists = from_json(self._path.read_bytes(), _Lists)
            return Own(
                frozenset(map(pubkey_of, lists.trusted)),
                frozenset(map(pubkey_of, lists.blocked)),
                frozenset(map(pubkey_of, lists.followed)),
            )
        except FileNotFoundError:
            return Own()
        except (OSError, InvalidJson, InvalidKey) as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from error

    def put(self, pubkey: str, name: List, *, there: bool = True) -> Own:
        """Put a key on a list or take it off; nobody is both trusted and blocked. Raises StorageError."""
        own = self.own()
        lists = {each: set(getattr(own, each)) for each in ("trusted", "blocked", "followed")}
        if there:
            lists[name].add(pubkey)
            for other in {"trusted": ("blocked",), "blocked": ("trusted", "followed"), "followed": ("blocked",)}[name]:
                lists[other].discard(pubkey)
        else:
            lists[name].discard(pubkey)
        if len(lists[name]) > MAX_PEOPLE:
            raise StorageError(f"no more than {MAX_PEOPLE} keys can be {name}")
        write_own(self._path, {each: sorted(map(npub, keys)) for each, keys in lists.items()})
        return self.own()
