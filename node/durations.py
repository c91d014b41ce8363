"""How long a sound is, from its bytes. Pure: nothing but these bytes is read.

Only the headers that tell a length are read, by mutagen's readers of stream information. Its tags are left alone: they may
be compressed, and a stranger's few bytes could unpack to gigabytes. Reads are counted, since headers can be made that have
a reader step through a file in steps of a few bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from node import frames
from relays.money import ceil_div

LEAST_BYTES_PER_SECOND: Final = 500
"""4 kbit/s, below the rates that codecs in use speak at. Silence alone can take less: see `most_audio_ms`."""
MOST_BYTES_PER_S: Final = {"plain": 400_000, "coded": 64_000}
"""Of sound that is not compressed for the ear (48 kHz, 32 bits, two channels), and of sound that is (512 kbit/s)."""
MOST_SECONDS: Final = 1_000_000
"""Eleven days: a file that says more is broken."""
MAX_READS: Final = 100_000
"""A real header takes a few. Only an Ogg file whose last page is not marked is read whole, up to half an hour of it."""
SPARE_BYTES: Final = 4 * 1024 * 1024
"""A reader may take these beside three times the file: MP3's looks for its first frame in a megabyte."""

Reader = Callable[[io.BytesIO], float]

_OGG: Final = {
    b"OpusHead": "mutagen.oggopus:OggOpusInfo",
    b"\x01vorbis": "mutagen.oggvorbis:OggVorbisInfo",
    b"\x7fFLAC": "mutagen.oggflac:OggFLACStreamInfo",
}
"""By the first bytes of the first packet, which stand behind Ogg's own 28."""


def audio_ms(data: bytes) -> int | None:
    """How long a wav, mp3, flac, ogg, m4a or mp4 file says it is, in milliseconds rounded up; None where it does not tell.

    It is what the file says: who made it may have had it say anything.
    """
    reader = _reader(data)
    if reader is None:
        return None
    try:
        seconds = reader(_Sparing(data))
    except Exception:  # noqa: BLE001 - mutagen lets struct's, index and recursion errors through
        return None
    if not 0 < seconds <= MOST_SECONDS:
        return None
    return ceil_div(round(seconds * 1_000_000), 1000)


def most_audio_ms(data: bytes) -> int:
    """The longest that a sound of so many bytes can sensibly be, whatever it says of itself.

    Speech and music cannot be longer. Silence can, in codecs that write next to nothing for it (FLAC, Opus with DTX).
    """
    return ceil_div(len(data) * 1000, LEAST_BYTES_PER_SECOND)


def least_audio_ms(data: bytes) -> int:
    """At least how long a sound plays, whatever its header claims: by its frames, and by more bytes a second than any server
    takes. One that was made to take for ever to count is taken for the longest that it can be."""
    most = MOST_BYTES_PER_S["plain" if data[:4] in (b"RIFF", b"fLaC", b"FORM") else "coded"]
    try:
        played_ms = round(_played_seconds(data) * frames.SPARE * 1000)
    except frames.TooMuch:
        return most_audio_ms(data)
    return max(len(data) * 1000 // most, min(played_ms, most_audio_ms(data)))


def _played_seconds(data: bytes) -> float:
    """By what it holds; 0 where that is not to be told. Raises TooMuch."""
    reader = _reader(data)
    if reader is _mp4_seconds:
        return frames.aac_seconds(_mp4_packets(data))
    if reader is _ogg_seconds:
        return frames.opus_seconds(data) if data[28:36] == b"OpusHead" else 0.0
    if reader is _mp3_seconds:
        return frames.mpeg_seconds(data)
    counted = {_flac_seconds: frames.flac_seconds, _wave_seconds: frames.wave_seconds}
    return counted[reader](data) if reader in counted else 0.0


def _mp4_packets(data: bytes) -> int:
    """Of the track that sounds, if it is AAC: as many as a decoder finds in its table."""
    file = _Sparing(data)
    try:
        for track in _mutagen("mutagen.mp4._atom:Atoms")(file)[b"moov"].findall(b"trak"):
            described, sizes = (track[b"mdia", b"minf", b"stbl", name].read(file)[1] for name in (b"stsd", b"stsz"))
            if described[12:16] == b"mp4a" and len(sizes) >= 12:
                return int.from_bytes(sizes[8:12])
    except Exception:  # noqa: BLE001 - as above
        return 0
    return 0


class _Sparing(io.BytesIO):
    """A file that stops a reader which reads too often or too much."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = MAX_READS
        self._bytes = 3 * len(data) + SPARE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        read = super().read(size)
        self._reads -= 1
        self._bytes -= len(read)
        if self._reads < 0 or self._bytes < 0:
            raise OSError("this file takes too much reading")
        return read


def _reader(data: bytes) -> Reader | None:
    """By the first bytes, since names and types that strangers give tell nothing."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _wave_seconds
    if data[:4] == b"fLaC":
        return _flac_seconds
    if data[:4] == b"OggS":
        return _ogg_seconds
    if data[4:8] == b"ftyp":
        return _mp4_seconds
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return _mp3_seconds
    return None


def _mutagen(name: str) -> Callable[..., Any]:
    """One of its readers, imported when it is needed: that takes a tenth of a second, and most nodes sell no sound."""
    module, _, reader = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), reader)
    return found


def _wave_seconds(file: io.BytesIO) -> float:
    info = _mutagen("mutagen.wave:WaveStreamInfo")(file)
    if not info.bitrate:
        return float(info.length)
    # A file that was written to a pipe says that it is as long as can be said.
    return float(min(info.length, file.getbuffer().nbytes * 8 / info.bitrate))


def _flac_seconds(file: io.BytesIO) -> float:
    """The block that tells is always the first after the mark."""
    head = file.read(42)
    return float(_mutagen("mutagen.flac:StreamInfo")(head[8:]).length) if head[4] & 0x7F == 0 else 0.0


def _ogg_seconds(file: io.BytesIO) -> float:
    head = file.read(64)
    for mark, name in _OGG.items():
        if head[28:].startswith(mark):
            file.seek(0)
            info = _mutagen(name)(file)
            info._post_tags(file)  # looks for the last page, which has the length
            return float(info.length)
    return 0.0


def _mp4_seconds(file: io.BytesIO) -> float:
    atoms = _mutagen("mutagen.mp4._atom:Atoms")(file)
    return float(_mutagen("mutagen.mp4:MP4Info")(atoms, file).length)


def _mp3_seconds(file: io.BytesIO) -> float:
    info = _mutagen("mutagen.mp3:MPEGInfo")(file)
    return 0.0 if info.sketchy else float(info.length)
