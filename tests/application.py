"""The node's HTTP application, laid out once for many nodes: that takes longer than all else a node does as it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

from litestar.types import ASGIApp

from node.api.app import create_app
from node.node import Node


class Application:
    """The real application of whichever node is set: its routes ask the node for everything when they are called."""

    node: Node

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)

    @cached_property
    def app(self) -> ASGIApp:
        return create_app(cast(Node, self))


_IDLE: dict[tuple[str, int], list[Application]] = {}
"""By what of a node's settings is laid down in its application."""


@contextmanager
def application_of(node: Node) -> Iterator[ASGIApp]:
    """One that nobody else uses as long as the block runs."""
    idle = _IDLE.setdefault((node.settings.name, node.settings.max_body_bytes), [])
    application = idle.pop() if idle else Application()
    application.node = node
    yield application.app
    idle.append(application)
