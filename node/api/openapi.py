"""The paid endpoints in the node's OpenAPI document: they are served straight on ASGI, which Litestar does not describe."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from node.asks import FIELDS
from relays.endpoints import ENDPOINTS, Endpoint

_TYPES = {
    **dict.fromkeys(("model", "prompt", "input", "query", "voice", "language"), OpenAPIType.STRING),
    **dict.fromkeys(("messages", "documents", "tools"), OpenAPIType.ARRAY),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed"), OpenAPIType.INTEGER),
    **dict.fromkeys(("temperature", "top_p"), OpenAPIType.NUMBER),
    **dict.fromkeys(("stream", "store"), OpenAPIType.BOOLEAN),
    **dict.fromkeys(("stream_options", "metadata"), OpenAPIType.OBJECT),
}
_SEVERAL = {"completions": "prompt", "embeddings": "input", "moderations": "input", "responses": "input"}
"""Fields that are a text or a list of them."""
_NEEDS = {
    **dict.fromkeys(("chat", "count_tokens"), ("model", "messages")),
    "messages": ("model", "messages", "max_tokens"),
    "completions": ("model", "prompt"),
    **dict.fromkeys(("responses", "embeddings", "speech"), ("model", "input")),
    "moderations": ("input",),
    "rerank": ("model", "query", "documents"),
    **dict.fromkeys(("images", "image_edits"), ("model", "prompt")),
    **dict.fromkeys(("transcriptions", "translations"), ("model", "file")),
}
_STATUSES = {
    200: "The answer, as the model's server gave it, with what it cost",
    400: "The request cannot be served as it is",
    401: "The credential is missing or unknown",
    402: "Not enough money: `X-Cashu` and the message say how much",
    403: "The key may not do this",
    404: "The model is not sold here",
    409: "The token or the request was used before",
    413: "The request is too large",
    422: "The Idempotency-Key belongs to another request, or the model's server refused the request",
    429: "Too many requests: see Retry-After",
    500: "The node failed",
    502: "The model's server did not deliver",
    503: "The node's books or a mint are not available: see Retry-After",
    504: "The model's server did not answer in time",
}
_ERROR = Schema(
    type=OpenAPIType.OBJECT,
    required=["error", "request_id"],
    properties={
        "error": Schema(
            type=OpenAPIType.OBJECT,
            required=["message", "type", "code"],
            properties={name: Schema(type=OpenAPIType.STRING) for name in ("message", "type", "code")},
        ),
        "request_id": Schema(type=OpenAPIType.STRING),
    },
)


SECURITY: Final = Components(
    security_schemes={
        "bearer": SecurityScheme(type="http", scheme="bearer", description="A key of this node, or a Cashu token"),
        "cashu": SecurityScheme(
            type="apiKey",
            name="X-Cashu",
            security_scheme_in="header",
            description="A Cashu token; its change comes back",
        ),
    }
)


class _Document(OpenAPI):
    """Where Litestar puts the paths that it knows of, ours join them."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, {**value, **paid_paths()} if name == "paths" and value is not None else value)


DOCUMENT: Final = (JsonRenderPlugin(path=("/", "/openapi.json")),)
"""No page: those that Litestar has fetch their scripts from servers of others, by the way that a visitor's browser takes."""


class WithPaidPaths(OpenAPIConfig):
    """The document is made when somebody asks for it, which a node's start does not."""

    def to_openapi_schema(self) -> OpenAPI:
        made = super().to_openapi_schema()
        return _Document(**{field.name: getattr(made, field.name) for field in fields(made)})


def paid_paths() -> dict[str, PathItem]:
    """A path for each endpoint."""
    return {f"/v1{endpoint.path}": PathItem(post=_operation(endpoint)) for endpoint in ENDPOINTS}


def _operation(endpoint: Endpoint) -> Operation:
    kind = "multipart/form-data" if endpoint.multipart else "application/json"
    files = {"image_edits": ("image", "mask"), "transcriptions": ("file",), "translations": ("file",)}
    properties: dict[str, Reference | Schema] = {
        **{name: _field(endpoint, name) for name in sorted(FIELDS[endpoint.name])},
        **{
            name: Schema(type=OpenAPIType.STRING, content_media_type="application/octet-stream")
            for name in files.get(endpoint.name, ())
        },
    }
    needs = list(_NEEDS[endpoint.name]) + (["image"] if endpoint.name == "image_edits" else [])
    schema = Schema(type=OpenAPIType.OBJECT, required=needs, properties=properties, additional_properties=False)
    return Operation(
        operation_id=f"paid_{endpoint.name}",
        summary=f"Paid: {endpoint.name.replace('_', ' ')}",
        tags=["paid"],
        request_body=RequestBody(content={kind: OpenAPIMediaType(schema=schema)}, required=True),
        responses={str(status): _response(status, words) for status, words in _STATUSES.items()},
        security=[{"bearer": []}, {"cashu": []}],
    )


def _field(endpoint: Endpoint, name: str) -> Schema:
    if _SEVERAL.get(endpoint.name) == name:
        return Schema(one_of=[Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.ARRAY)])
    kind = _TYPES.get(name)
    return Schema() if kind is None else Schema(type=kind)


def _response(status: int, words: str) -> OpenAPIResponse:
    if status < 400:
        return OpenAPIResponse(description=words)
    return OpenAPIResponse(description=words, content={"application/json": OpenAPIMediaType(schema=_ERROR)})
