"""How long a sound plays by what it holds, whatever its header says: its frames counted, or its bytes at their highest rate.
Pure. A model's server decodes frames; who lies in a header is heard in full."""

from __future__ import annotations

import re
from typing import Final

MOST_FRAMES: Final = 500_000
"""Three and a half hours of MP3; who takes more looking for is not believed at all."""
SPARE: Final = 0.95
"""Of what was counted: tags, padding and what a coder puts before and after a sound may pass for some of it."""
MOST_RATE: Final = 48_000
"""Samples a second, of sound that is coded for the ear."""
AAC_SAMPLES: Final = 1024
_KBITS: Final = {
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""By version and layer of MPEG, for the indices from 1."""
_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version."""
_OPUS_SHORT_MS: Final = (2.5, 5, 10, 20)


class TooMuch(Exception):
    """Counting would take too long."""


def _headers() -> dict[bytes, tuple[int, float]]:
    """The second and third byte of every MP3 and MP2 frame: its bytes and its seconds."""
    made = {}
    for bits, rates in _RATES.items():
        for layer in (2, 3):
            version = 1 if bits == 3 else 2
            samples = 576 if (version, layer) == (2, 3) else 1152
            for kbits, kbit_s in enumerate(_KBITS[version, layer], 1):
                for place, rate in enumerate(rates):
                    for low in range(4):  # padding, and a bit of no meaning
                        size = samples // 8 * kbit_s * 1000 // rate + (low >> 1)
                        for crc in (0, 1):
                            head = (0xE0 | bits << 3 | (4 - layer) << 1 | crc, kbits << 4 | place << 2 | low)
                            made[bytes(head)] = (size, samples / rate)
    return made


_HEADERS: Final = _headers()
_SYNC: Final = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][\x10-\xeb]")


def mpeg_seconds(data: bytes) -> float:
    """Of MP3 and MP2: all frames, found again behind what is none. Raises TooMuch."""
    at, seconds, in_step = _behind_tag(data), 0.0, False
    for _ in range(MOST_FRAMES):
        found = _HEADERS.get(data[at + 1 : at + 3]) if data[at : at + 1] == b"\xff" else None
        if found is not None and (in_step or data[at + found[0] + 1 : at + found[0] + 3] in _HEADERS):
            seconds += found[1]
            at, in_step = at + found[0], True
            continue
        sync = _SYNC.search(data, at + 1)
        if sync is None:
            return seconds
        at, in_step = sync.start(), False
    raise TooMuch


def _behind_tag(data: bytes) -> int:
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))


def opus_seconds(data: bytes) -> float:
    """Of Opus in Ogg: each packet says how long it plays, to the decoder too. Raises TooMuch."""
    at, ms, steps, begins = data.find(b"OggS"), 0.0, 0, True
    while at != -1 and at + 27 <= len(data):
        sizes = data[at + 27 : at + 27 + data[at + 26]]
        place = at + 27 + data[at + 26]
        begins = not data[at + 5] & 1  # else it goes on with a packet of the page before
        steps += 1 + len(sizes)
        if steps > MOST_FRAMES:
            raise TooMuch
        for size in sizes:
            if begins and size and data[place : place + 4] not in (b"Opus", b""):
                ms += _opus_ms(data[place : place + 2])
            begins = size < 255
            place += size
        at = data.find(b"OggS", max(place, at + 4))
    return ms / 1000


def _opus_ms(packet: bytes) -> float:
    """By its first byte, and where that says so by its second (RFC 6716, 3.1)."""
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame_ms: float = (10, 20, 40, 60)[config & 3]
    else:
        frame_ms = (10, 20)[config & 1] if config < 16 else _OPUS_SHORT_MS[config & 3]
    frames = (1, 2, 2)[code] if code < 3 else packet[-1] & 63
    return min(120.0, frames * frame_ms)


def flac_seconds(data: bytes) -> float:
    """Of FLAC: its bytes, as if nothing of it were compressed."""
    told = int.from_bytes(data[18:26])
    bits = (told >> 44) * ((told >> 41 & 7) + 1) * ((told >> 36 & 31) + 1)
    return len(data) * 8 / bits if bits else 0.0


def wave_seconds(data: bytes) -> float:
    """Of a wave file: its bytes at the rate of its samples, which is the one at which they are played."""
    at = data.find(b"fmt ", 12, 4096)
    if at == -1 or len(data) < at + 24:
        return 0.0
    channels, rate = (
        int.from_bytes(data[at + 10 : at + 12], "little"),
        int.from_bytes(data[at + 12 : at + 16], "little"),
    )
    bits = channels * rate * int.from_bytes(data[at + 22 : at + 24], "little")
    return len(data) * 8 / bits if bits else 0.0


def aac_seconds(packets: int) -> float:
    """Of so many packets of AAC, at the highest rate in use."""
    return packets * AAC_SAMPLES / MOST_RATE
