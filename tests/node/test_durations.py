"""How long a sound says it is is read from its bytes, or not told; the bound holds whatever it says."""

import io
import struct
import time
import wave

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.asks import read_ask
from node.durations import MOST_SECONDS, audio_ms, least_audio_ms, most_audio_ms
from relays.endpoints import TRANSCRIPTIONS


def wav(frames: int, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\0\0" * frames)
    return file.getvalue()


def mp3(frames: int) -> bytes:
    """Of 128 kbit/s: 417 bytes and 1152 samples of 44,100 a second each."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * frames


def flac(samples: int, rate: int = 16_000) -> bytes:
    told = (rate << 44) | (0 << 41) | (15 << 36) | samples
    return b"fLaC\x80\x00\x00\x22" + struct.pack(">HH6x", 4096, 4096) + told.to_bytes(8) + bytes(16) + b"sound"


def page(packet: bytes, position: int, sequence: int, flags: int) -> bytes:
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, 77, sequence, 0, 1)
    return head + bytes([len(packet)]) + packet


def ogg(head: bytes, position: int, last: int = 4) -> bytes:
    return page(head, 0, 0, 2) + page(b"tags", 0, 1, 0) + page(b"sound", position, 2, last)


def opus(samples: int, last: int = 4) -> bytes:
    return ogg(b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 312, 48_000, 0, 0), samples + 312, last)


def vorbis(samples: int) -> bytes:
    return ogg(b"\x01vorbis" + struct.pack("<IBI3iBB", 0, 1, 44_100, 0, 64_000, 0, 0xB8, 1), samples)


def atom(name: bytes, *inside: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, inside)), name) + b"".join(inside)


def m4a(units: int, per_second: int = 1000) -> bytes:
    handler = atom(b"hdlr", bytes(8), b"soun", bytes(13))
    length = atom(b"mdhd", bytes(12), struct.pack(">II", per_second, units), bytes(4))
    return atom(b"ftyp", b"M4A ", bytes(4)) + atom(b"moov", atom(b"trak", atom(b"mdia", length, handler)))


@pytest.mark.parametrize(
    ("sound", "ms"),
    [
        *((wav(8000), 1000), (wav(12_345, 44_100), 280), (wav(1), 1)),
        *((mp3(100), 2607), (b"ID3\x04\x00\x00\x00\x00\x00\x05" + bytes(5) + mp3(100), 2607)),
        *((flac(40_000), 2500), (flac(1), 1)),
        *((opus(48_000), 1000), (opus(48_001, last=0), 1001), (vorbis(88_200), 2000)),
        *((m4a(61_500), 61_500), (m4a(1, per_second=3), 334)),
    ],
)
def test_a_sound_tells_how_long_it_is_rounded_up(sound: bytes, ms: int) -> None:
    assert audio_ms(sound) == ms


def test_a_wave_file_from_a_pipe_is_as_long_as_its_bytes() -> None:
    sound = bytearray(wav(8000))
    sound[4:8] = sound[40:44] = b"\xff\xff\xff\xff"
    told = audio_ms(bytes(sound))
    assert told is not None
    assert 1000 <= told <= 1003


@pytest.mark.parametrize(
    "sound",
    [
        *(b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\0\0\0\x08ftyp", b"text"),
        *(b"\x1aE\xdf\xa3webm", wav(0), mp3(1), flac(0), opus(-400), m4a(0), m4a(1, per_second=0)),
        *(m4a(2**32 - 1, per_second=1), opus(48_000 * MOST_SECONDS + 1), opus(2**63 - 313), flac(9, rate=0)),
        *(ogg(b"\x80theora", 5), flac(5).replace(b"\x80", b"\x04", 1)),
    ],
)
def test_what_does_not_tell_or_cannot_be_true_is_none(sound: bytes) -> None:
    assert audio_ms(sound) is None


@pytest.mark.parametrize("sound", [wav(8000), mp3(9), flac(9), opus(9), vorbis(9), m4a(9)], ids=lambda s: repr(s[:4]))
def test_a_sound_that_is_cut_anywhere_raises_nothing(sound: bytes) -> None:
    for end in range(0, len(sound), max(1, len(sound) // 200)):
        audio_ms(sound[:end])


MARKS = [b"", b"RIFF\xff\xff\xff\x7fWAVE", b"fLaC", opus(1)[:60], b"\0\0\0\x0cftypM4A ", b"ID3\x04", b"\xff\xfb\x90"]
PIECES = [wav(3), mp3(3), flac(3), opus(3), vorbis(3), m4a(3)]


@given(st.sampled_from(MARKS), st.lists(st.binary(max_size=60) | st.sampled_from(PIECES), max_size=5))
def test_random_bytes_raise_nothing(mark: bytes, rest: list[bytes]) -> None:
    told = audio_ms(mark + b"".join(rest))
    assert told is None or 0 < told <= MOST_SECONDS * 1000


MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(
    "hostile",
    [
        b"RIFF\xff\xff\xff\x7fWAVE" + b"JUNK\0\0\0\0" * (3 * MEGABYTE),
        b"\0\0\0\x0cftypM4A " + struct.pack(">I4s", 2**31, b"moov") + atom(b"free") * (3 * MEGABYTE),
        b"\0\0\0\x0cftypM4A " + struct.pack(">I4s", 2**31, b"moov") * MEGABYTE,
        opus(1, last=0)[:-33] + page(b"", -1, 1, 0)[:-1].replace(b"\x01\0", b"\0") * MEGABYTE,
        b"ID3\x04\0\0\0\0\0\x01x" * (2 * MEGABYTE),
        b"\xff\xfb" + b"\xff\x00\xff\xe0" * (6 * MEGABYTE),
    ],
    ids=["chunks", "atoms", "nested", "pages", "tags", "syncs"],
)
def test_headers_that_would_take_for_ever_are_given_up(hostile: bytes) -> None:
    started = time.process_time()
    assert audio_ms(hostile) is None
    assert time.process_time() - started < 5


def test_a_tag_is_never_unpacked() -> None:
    """mutagen would unpack a compressed frame, whatever its size; here tags are stepped over."""
    assert (
        audio_ms(b"ID3\x03\x00\x00\x00\x00\x00\x1eTIT2\x00\x00\x00\x14\x00\x80\xff\xff\xff\xff" + bytes(16) + mp3(9))
        == 235
    )


@pytest.mark.parametrize(("size", "ms"), [(0, 0), (1, 2), (500, 1000), (501, 1002), (25_000_000, 50_000_000)])
def test_the_bound_is_of_the_bytes_alone(size: int, ms: int) -> None:
    assert most_audio_ms(bytes(size)) == ms


@pytest.mark.parametrize("sound", [wav(80_000), mp3(100)])
def test_a_sound_that_speaks_is_within_its_bound(sound: bytes) -> None:
    assert (audio_ms(sound) or 0) <= most_audio_ms(sound)


def speech(frames: int) -> bytes:
    """MP3 of 24 kbit/s: 72 bytes and 24 ms each; the first says that there are two."""
    frame = b"\xff\xf3\x34\xc0" + bytes(68)
    told = frame[:13] + b"Xing" + struct.pack(">II", 1, 2)
    return told + bytes(72 - len(told)) + frame * frames


def liar_in_wave(field: int, value: bytes) -> bytes:
    sound = bytearray(wav(160_000, 16_000))
    sound[field : field + len(value)] = value
    return bytes(sound)


def opus_packets(packets: int) -> bytes:
    """20 ms each, 50 to a page; the last page says that all of it plays for a millisecond."""
    head = page(b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0), 0, 0, 2) + page(b"OpusTags", 0, 1, 0)
    full = struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 48, 77, 2, 0, 50) + bytes([30]) * 50 + (b"\x48" + bytes(29)) * 50
    return head + full * (packets // 50 - 1) + full[:5] + b"\x04" + full[6:]


def m4a_packets(packets: int) -> bytes:
    """AAC of 48,000 samples a second; its head says that it plays for a millisecond."""
    described = atom(b"stsd", bytes(4), struct.pack(">I", 1), atom(b"mp4a", bytes(28), atom(b"free")))
    table = atom(b"stbl", described, atom(b"stsz", bytes(8), struct.pack(">I", packets)))
    handler = atom(b"hdlr", bytes(8), b"soun", bytes(13))
    length = atom(b"mdhd", bytes(12), struct.pack(">II", 1000, 1), bytes(4))
    track = atom(b"trak", atom(b"mdia", length, handler, atom(b"minf", table)))
    return atom(b"ftyp", b"M4A ", bytes(4)) + atom(b"moov", track) + atom(b"mdat", bytes(100 * packets))


LIARS = {
    "wave, its size": (liar_in_wave(40, struct.pack("<I", 44)), 10_000),
    "wave, its blocks": (liar_in_wave(32, struct.pack("<H", 65_535)), 10_000),
    "mp3": (speech(10_000), 240_000),
    "mp3 behind junk": (speech(1) + b"\xff\xfb\x90junk" * 100 + speech(10_000)[72:], 240_000),
    "opus": (opus_packets(10_000), 200_000),
    "flac, as if not compressed": (flac(9) + bytes(320_000), 10_000),
    "aac": (m4a_packets(46_875), 1_000_000),
}


@pytest.mark.parametrize(("sound", "plays_ms"), LIARS.values(), ids=LIARS)
def test_a_sound_that_lies_about_its_length_is_charged_for_what_plays(sound: bytes, plays_ms: int) -> None:
    told = audio_ms(sound)
    assert told is not None
    assert told < plays_ms / 20
    form = httpx.Request("POST", "http://x", data={"model": "m"}, files={"file": ("a", sound)})
    ask = read_ask(TRANSCRIPTIONS, form.read(), form.headers["content-type"])
    assert 0.94 * plays_ms < ask.audio_ms <= plays_ms * 1.01
    assert ask.most_audio_ms >= ask.audio_ms


@pytest.mark.parametrize(
    "sound",
    [
        *(wav(80_000), wav(80_000, 44_100), mp3(500), flac(40_000), opus(480_000), vorbis(882_000), m4a(61_500)),
        b"ID3\x04\x00\x00\x00\x00\x00\x05" + bytes(5) + mp3(100),
    ],
)
def test_who_tells_the_truth_is_believed(sound: bytes) -> None:
    assert least_audio_ms(sound) <= (audio_ms(sound) or 0)


@pytest.mark.parametrize(
    ("hostile", "mark"),
    [(b"\xff\xfb\x90\x00" * (6 * MEGABYTE), b""), (page(b"", 1, 1, 0)[:-1] * 1_200_000, opus(1)[:60])],
    ids=["syncs", "pages"],
)
def test_what_would_take_for_ever_to_count_is_taken_for_the_longest(hostile: bytes, mark: bytes) -> None:
    started = time.process_time()
    assert least_audio_ms(mark + hostile) == most_audio_ms(mark + hostile)
    assert time.process_time() - started < 5


@given(st.sampled_from(MARKS), st.lists(st.binary(max_size=60) | st.sampled_from(PIECES), max_size=5))
def test_counting_raises_nothing_and_stays_within_the_bound(mark: bytes, rest: list[bytes]) -> None:
    sound = mark + b"".join(rest)
    assert 0 <= least_audio_ms(sound) <= most_audio_ms(sound)
