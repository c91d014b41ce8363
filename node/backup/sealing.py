"""A file encrypted with a passphrase, written and read as a stream.

    magic | salt (16) | prefix (7) | chunks

The key comes from scrypt. Each chunk is AES-256-GCM over 64 KiB of the text under a nonce of its own: the prefix, the
chunk's number (4 bytes, big endian) and whether it is the last (1 byte), so that chunks cannot be left out, moved or cut off
(the STREAM construction, as in age).
"""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from node.errors import BadBackup

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC: Final = b"satroute sealed backup 1\n"
CHUNK: Final = 64 * 1024
TAG: Final = 16
SALT: Final = 16
PREFIX: Final = 7
COST: Final = 2**16
"""Of scrypt: 64 MB of memory for each guess."""


class SealingWriter(io.RawIOBase):
    """Encrypts what is written to it. `close` writes the last chunk, and leaves the file below open."""

    def __init__(self, file: IO[bytes], passphrase: str) -> None:
        super().__init__()
        salt, self._prefix = os.urandom(SALT), os.urandom(PREFIX)
        self._file, self._cipher = file, _cipher(passphrase, salt)
        self._buffer, self._number = bytearray(), 0
        file.write(MAGIC + salt + self._prefix)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        given = bytes(data)
        self._buffer += given
        while len(self._buffer) > CHUNK:  # the last one is not written before it is known to be that
            self._seal(bytes(self._buffer[:CHUNK]), last=False)
            del self._buffer[:CHUNK]
        return len(given)

    def close(self) -> None:
        if not self.closed:
            self._seal(bytes(self._buffer), last=True)
        super().close()

    def _seal(self, text: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._prefix, self._number, last=last), text, None))
        self._number += 1


class SealedReader(io.RawIOBase):
    """Decrypts a file whose MAGIC has been read. Raises BadBackup for a wrong passphrase, and for a changed file."""

    def __init__(self, file: IO[bytes], passphrase: str) -> None:
        super().__init__()
        salt, self._prefix = file.read(SALT), file.read(PREFIX)
        self._file, self._cipher = file, _cipher(passphrase, salt)
        self._next, self._text, self._number = file.read(CHUNK + TAG), b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._text and self._next:
            self._open()
        part = self._text[: len(view)]
        view[: len(part)] = part
        self._text = self._text[len(part) :]
        return len(part)

    def _open(self) -> None:
        sealed, self._next = self._next, self._file.read(CHUNK + TAG)
        nonce = _nonce(self._prefix, self._number, last=not self._next)
        try:
            self._text = self._cipher.decrypt(nonce, sealed, None)
        except InvalidTag as error:
            wrong = (
                "the file was cut off or changed"
                if self._number
                else "the passphrase is wrong, or the file was changed"
            )
            raise BadBackup(wrong) from error
        self._number += 1


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase.encode()))


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
