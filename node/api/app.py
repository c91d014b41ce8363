"""The HTTP application of one node."""

from __future__ import annotations

from typing import Any, Final, cast

from litestar import Litestar, Response
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from node.api.balance import balance_routes
from node.api.browsers import for_pages_too
from node.api.errors import EXCEPTION_HANDLERS, new_request_id
from node.api.info import info_routes
from node.api.intake import Intake
from node.api.money import money_routes
from node.api.openapi import DOCUMENT, SECURITY, WithPaidPaths
from node.api.paid import paid_endpoints
from node.api.prices import price_routes
from node.api.providers import provider_routes
from node.api.reply import ID_HEADERS
from node.node import Node
from node.version import VERSION

MAX_FREE_BYTES: Final = 256 * 1024
"""Of a request that nobody pays for: it is read in passing, and no token is longer."""


def create_app(node: Node) -> ASGIApp:
    """The ASGI application that serves `node`, which must be open."""
    intake = Intake(node.settings.max_body_bytes)
    paid, free = paid_endpoints(node, intake), _free(node)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")  # which a lifespan has not
        served = paid.get(path) or paid.get(path.rstrip("/"))
        if served is not None:
            await served(scope, receive, send)
            return
        http = cast(HTTPScope, scope)
        if (
            http.get("method") == "HEAD" and not http["query_string"]
        ):  # which may hold a token; uvicorn keeps the body back
            scope = HTTPScope(**{**http, "method": "GET"})
        with intake.reading(receive) as incoming:
            await free(scope, incoming, send)

    return for_pages_too(app)


def _free(node: Node) -> Litestar:
    """What is not paid for, and the document of all."""
    return Litestar(
        route_handlers=[
            *balance_routes(node),
            *info_routes(node),
            *price_routes(node),
            *provider_routes(node),
            *money_routes(node),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        after_request=_named,
        request_max_body_size=MAX_FREE_BYTES,  # but for quotes
        openapi_config=WithPaidPaths(node.settings.name, VERSION, components=SECURITY, render_plugins=DOCUMENT),
        logging_config=None,
    )


def _named(response: Response[Any]) -> Response[Any]:
    """An id for every answer, by which it is found in the operator's log; the paid ones have their own."""
    request_id = new_request_id()
    for name in ID_HEADERS:
        response.headers.setdefault(name, request_id)
    return response
