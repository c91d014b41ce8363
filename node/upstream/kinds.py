"""An upstream of each kind. A new kind is a file of its own and a line here."""

from __future__ import annotations

from node.errors import BadSettings
from node.upstream.anthropic import AnthropicUpstream
from node.upstream.base import Upstream
from node.upstream.gemini import GeminiUpstream
from node.upstream.openai import OpenAIUpstream
from node.upstream.spec import Timeouts, UpstreamSpec


def upstream_of(spec: UpstreamSpec, timeouts: Timeouts) -> Upstream:
    """The upstream that the operator described. Raises BadSettings."""
    match spec.kind:
        case "openai" | "azure":
            return OpenAIUpstream(spec, timeouts)
        case "anthropic":
            return AnthropicUpstream(spec, timeouts)
        case "gemini":
            return GeminiUpstream(spec, timeouts)
        case "satroute":
            raise BadSettings([f"upstream {spec.name}: reselling other nodes is not built yet"])
