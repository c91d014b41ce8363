"""What a chat request needs of a model, and whether an offer has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from relays.announcement import ModelOffer
from relays.prompt import Prompt

Need = Literal["tools", "json", "reasoning", "image", "audio", "video", "file"]
FEATURES: Final[tuple[Need, ...]] = ("tools", "json", "reasoning")
"""Of a model; the other needs are kinds of parts that it reads."""
_PARTS: Final[Mapping[str, Need]] = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "video_url": "video",
    "file": "file",
    "document": "file",
    "input_file": "file",
}


def needs_of(body: Mapping[str, Any], prompt: Prompt) -> frozenset[Need]:
    """Of a request: its kinds of parts, and what else it asks of a model."""
    needs = {_PARTS[part] for part in prompt.media if part in _PARTS}
    if prompt.pictures:
        needs.add("image")
    if body.get("tools") or body.get("functions"):
        needs.add("tools")
    form = body.get("response_format")
    if isinstance(form, Mapping) and str(form.get("type", "")).startswith("json"):
        needs.add("json")
    if body.get("reasoning_effort") not in (None, "none") or body.get("reasoning"):
        needs.add("reasoning")
    return frozenset(needs)


def lacks(offer: ModelOffer, needs: frozenset[Need], *, strict: bool) -> str | None:
    """Why the offer will not do; where nothing is known of its features, only `strict` takes that for a no."""
    for need in get_args(Need):
        if need not in needs:
            continue
        if need not in FEATURES:
            if need not in offer.input and not (need == "image" and "vision" in (offer.features or ())):
                return f"it reads no {need}"
        elif offer.features is None:
            if strict:
                return f"it does not say whether it has {need}"
        elif need not in offer.features and (strict or need != "reasoning"):
            return f"it has no {need}"
    return None
