"""Images and documents between the two languages. Pure: what is named by an address is passed on, never fetched."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from node.translation.reading import bad, flag, mapping, name, objects, shown, text

_IMAGES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_PDF: Final = "application/pdf"

Json = dict[str, Any]


def blocks(content: object, where: str) -> list[Json]:
    """An OpenAI message's content as Anthropic's blocks."""
    if content is None:
        return []
    if isinstance(content, str):
        return _text_blocks(content)
    found = [_block(part, f"{where}[{i}]") for i, part in enumerate(_parts(content, where))]
    return [block for group in found for block in group]


def parts(content: object, where: str) -> list[Json]:
    """An Anthropic content as OpenAI's parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    found = [part(block, f"{where}[{i}]") for i, block in enumerate(_parts(content, where))]
    return [each for group in found for each in group]


def part(block: Json, where: str) -> list[Json]:
    """One of Anthropic's blocks as OpenAI's parts."""
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": text(block.get("text"), f"{where}.text")}]
    if kind == "image":
        return [_image_part(mapping(block.get("source"), f"{where}.source"), f"{where}.source")]
    if kind == "document":
        return _document_parts(block, where)
    raise bad(f"'{where}' of type {shown(kind)} cannot be passed on to this model's server: send text, images or PDFs")


def texts(content: object, where: str) -> list[str]:
    """The texts of a content that may hold nothing else, in either language."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    found = _parts(content, where)
    for i, each in enumerate(found):
        if each.get("type") != "text":
            raise bad(f"'{where}[{i}]' of type {shown(each.get('type'))} is not possible here: send text")
    return [text(each.get("text"), f"{where}[{i}].text") for i, each in enumerate(found)]


def _parts(content: object, where: str) -> list[Json]:
    if not isinstance(content, list):
        raise bad(f"'{where}' is a string or a list of parts")
    return objects(content, where)


def _text_blocks(said: str) -> list[Json]:
    # Anthropic's servers refuse blank ones, which models of others like to write beside a tool call.
    return [{"type": "text", "text": said}] if said.strip() else []


def _block(part: Json, where: str) -> list[Json]:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return _text_blocks(text(part.get(kind), f"{where}.{kind}"))
    if kind == "image_url":
        image = mapping(part.get("image_url"), f"{where}.image_url")
        return [_image_block(name(image.get("url"), f"{where}.image_url.url"), f"{where}.image_url.url")]
    if kind == "file":
        return [_document_block(mapping(part.get("file"), f"{where}.file"), f"{where}.file")]
    raise bad(f"'{where}' of type {shown(kind)} cannot be passed on to this model's server: send text, images or files")


def _image_block(url: str, where: str) -> Json:
    if _is_web(url):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = _inline(url, where)
    media_type = "image/jpeg" if media_type == "image/jpg" else media_type
    if media_type not in _IMAGES:
        raise bad(f"'{where}' is of type {shown(media_type)}: this model reads JPEG, PNG, GIF and WebP")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _document_block(file: Json, where: str) -> Json:
    if file.get("file_data") is None:
        raise bad(f"'{where}.file_data' is missing: uploaded files are not known here, send the data in base64")
    data = name(file["file_data"], f"{where}.file_data")
    titled = {"title": text(file["filename"], f"{where}.filename")} if file.get("filename") else {}
    if _is_web(data):
        return {"type": "document", "source": {"type": "url", "url": data}, **titled}
    # Data without a type is what OpenAI's older examples send, and means a PDF.
    media_type, data = _inline(data, f"{where}.file_data") if data.startswith("data:") else (_PDF, data)
    if media_type == _PDF:
        return {"type": "document", "source": {"type": "base64", "media_type": _PDF, "data": data}, **titled}
    if not media_type.startswith("text/"):
        raise bad(f"'{where}.file_data' is of type {shown(media_type)}: this model reads PDF and plain text")
    source = {"type": "text", "media_type": "text/plain", "data": _decoded(data, f"{where}.file_data")}
    return {"type": "document", "source": source, **titled}


def _decoded(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise bad(f"'{where}' is not text in base64") from error


def _image_part(source: Json, where: str) -> Json:
    return {"type": "image_url", "image_url": {"url": _url(source, where)}}


def _url(source: Json, where: str) -> str:
    if source.get("type") == "base64":
        media_type = name(source.get("media_type"), f"{where}.media_type")
        return f"data:{media_type};base64,{name(source.get('data'), f'{where}.data')}"
    url = source.get("url")
    if source.get("type") == "url" and isinstance(url, str) and _is_web(url):
        return url
    raise bad(f"'{where}' is neither base64 data nor a web address: send one of them")


def _document_parts(block: Json, where: str) -> list[Json]:
    if flag(mapping(block.get("citations") or {}, f"{where}.citations").get("enabled"), f"{where}.citations.enabled"):
        raise bad(f"'{where}.citations' is not possible with this model: leave it out")
    source = mapping(block.get("source"), f"{where}.source")
    title, context = (text(block.get(field) or "", f"{where}.{field}") for field in ("title", "context"))
    kind = source.get("type")
    if kind == "base64" and source.get("media_type") == _PDF:
        file = {"filename": title or "document.pdf", "file_data": _url(source, f"{where}.source")}
        return [*_labels(context), {"type": "file", "file": file}]
    if kind == "text":
        return [*_labels(title, context), *parts(text(source.get("data"), f"{where}.source.data"), where)]
    if kind == "content":
        inside, place = source.get("content"), f"{where}.source.content"
        # Documents do not hold documents: one level, so that nothing here recurses.
        if isinstance(inside, list) and any(
            isinstance(each, dict) and each.get("type") == "document" for each in inside
        ):
            raise bad(f"'{place}' holds a document: send text and images")
        return [*_labels(title, context), *parts(inside, place)]
    raise bad(f"'{where}.source' cannot be passed on to this model's server: send a PDF in base64 or text")


def _labels(*labels: str) -> list[Json]:
    return [{"type": "text", "text": label} for label in labels if label]


def _inline(url: str, where: str) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    if not comma or not data or not head.startswith("data:") or not head.endswith(";base64"):
        raise bad(f"'{where}' is neither a web address nor a data: URL in base64")
    return head.removeprefix("data:").partition(";")[0].strip().lower(), data


def _is_web(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))
