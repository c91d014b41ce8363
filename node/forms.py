"""Multipart forms (RFC 7578): read within bounds, and written again with another text in a field. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from node.errors import Refusal
from relays import payment

MAX_PARTS: Final = 64
MAX_FIELD_BYTES: Final = 256 * 1024


class Part(msgspec.Struct, frozen=True):
    """A field: a file if it has a filename, else text."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str = ""


class Form(msgspec.Struct, frozen=True):
    parts: tuple[Part, ...]

    @property
    def files(self) -> list[Part]:
        return [part for part in self.parts if part.filename is not None]

    def texts(self) -> dict[str, str | list[str]]:
        """The text fields by name; those that end in `[]` are lists. Raises Refusal 400 for a field that comes twice."""
        fields: dict[str, str | list[str]] = {}
        for part in self.parts:
            if part.filename is not None:
                continue
            text = part.data.decode(errors="replace")
            if part.name.endswith("[]"):
                fields.setdefault(part.name, [])
                fields[part.name] = [*fields[part.name], text]
            elif part.name in fields:
                raise _bad(f"the field {part.name[:40]!r} comes twice")
            else:
                fields[part.name] = text
        return fields


def read_form(raw: bytes, content_type: str) -> Form:
    """The parts of a `multipart/form-data` body. Raises Refusal 400."""
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise _bad("send this as multipart/form-data, with a file in it")
    try:
        return Form(tuple(_parts(raw, options["boundary"])))
    except (MultipartError, UnicodeError, ValueError) as error:
        raise _bad("the form cannot be read") from error


def _parts(raw: bytes, boundary: str) -> Iterator[Part]:
    segment: MultipartSegment | None = None
    data = bytearray()
    with PushMultipartParser(boundary, content_length=len(raw), max_segment_count=MAX_PARTS) as parser:
        for event in (event for piece in (raw, b"") for event in parser.parse(piece)):
            if isinstance(event, MultipartSegment):
                segment, data = event, bytearray()
            elif event is not None:
                data += event
            elif segment is not None:
                if segment.filename is None and len(data) > MAX_FIELD_BYTES:
                    raise _bad(f"the field {segment.name[:40]!r} is too long")
                yield Part(segment.name, bytes(data), segment.filename, segment.content_type or "")


def write_form(form: Form, changed: Mapping[str, str], boundary: str) -> bytes:
    """The form as it was, with these texts in the place of those that had their names, or added."""
    parts = [part for part in form.parts if part.filename is not None or part.name not in changed]
    parts += [Part(name, text.encode()) for name, text in changed.items()]
    body = bytearray()
    for part in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(part.name)}"'.encode()
        if part.filename is not None:
            body += f'; filename="{_quoted(part.filename)}"\r\n'.encode()
            body += f"Content-Type: {_line(part.content_type) or 'application/octet-stream'}".encode()
        body += b"\r\n\r\n" + part.data + b"\r\n"
    return bytes(body) + f"--{boundary}--\r\n".encode()


def _quoted(text: str) -> str:
    """As browsers write it (WHATWG, multipart/form-data)."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _line(text: str) -> str:
    return text if text.isprintable() else ""


def _bad(message: str) -> Refusal:
    return Refusal(400, payment.INVALID_REQUEST, message)
