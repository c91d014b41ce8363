"""Pages in a browser may call a node as any program may: whoever pays has a key or a token, and nothing goes by cookies or
addresses (WHATWG Fetch, CORS)."""

from __future__ import annotations

from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from node.api.reply import method_of

_TOLD: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
    (b"vary", b"origin"),
)
_ALLOWED: Final = (
    *_TOLD,
    (b"access-control-allow-methods", b"*"),
    (b"access-control-allow-headers", b"*, authorization"),  # which the star does not stand for
    (b"access-control-max-age", b"86400"),
)


def for_pages_too(app: ASGIApp) -> ASGIApp:
    """The application as it is, with what browsers want to hear before they show a page its answers."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        asked = dict(scope.get("headers", ()))  # which a lifespan has not
        if b"origin" not in asked:
            await app(scope, receive, send)
            return
        if method_of(scope) == "OPTIONS" and b"access-control-request-method" in asked:
            await send({"type": "http.response.start", "status": 204, "headers": list(_ALLOWED)})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if not pair[0].startswith(b"access-control-")]
                message = {**message, "headers": [*others, *_TOLD]}
            await send(message)

        await app(scope, receive, telling)

    return served
