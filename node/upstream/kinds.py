"""An upstream of each kind. A new kind is a file of its own and a line here."""

from __future__ import annotations

from pathlib import Path

from node.tasks import Tasks
from node.upstream.anthropic import AnthropicUpstream
from node.upstream.base import Upstream
from node.upstream.gemini import GeminiUpstream
from node.upstream.openai import OpenAIUpstream
from node.upstream.satroute import SatrouteUpstream
from node.upstream.spec import Timeouts, UpstreamSpec


async def open_upstream(spec: UpstreamSpec, timeouts: Timeouts, tasks: Tasks, data_dir: Path) -> Upstream:
    """The upstream that the operator described. Raises StorageError for a wallet that cannot be opened."""
    match spec.kind:
        case "openai" | "azure":
            return OpenAIUpstream(spec, timeouts)
        case "anthropic":
            return AnthropicUpstream(spec, timeouts)
        case "gemini":
            return GeminiUpstream(spec, timeouts)
        case "satroute":
            return await SatrouteUpstream.open(spec, timeouts, tasks, data_dir / "buyer")
