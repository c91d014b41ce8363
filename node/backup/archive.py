"""The file of a backup: a compressed tar whose first member says what it is, encrypted if there is a passphrase."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from node.backup.sealing import MAGIC, SealedReader, SealingWriter
from node.errors import BadBackup
from node.version import VERSION

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MOST_MANIFEST: Final = 1_000_000
_NAME: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*){0,3}")
PART: Final = 1 << 20

Books = Literal["sqlite", "postgres", "none"]


class Manifest(msgspec.Struct, frozen=True):
    """What is in a backup."""

    format: int
    made_at: int
    """Unix seconds."""
    version: str
    npub: str
    ledger: Books
    running: bool
    """Whether the node was running: then it went on after the backup."""
    files: dict[str, int]
    """Sizes in bytes, by name."""


def manifest_of(folder: Path, npub: str, ledger: Books, *, running: bool) -> Manifest:
    """What a folder would be as a backup made now."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return Manifest(FORMAT, int(time.time()), VERSION, npub, ledger, running, files)


def pack(folder: Path, manifest: Manifest, target: Path, passphrase: str = "") -> None:
    """Write a backup of the folder's files, for its owner alone; it is there whole or not at all.

    Raises BadBackup when it cannot be written, or there is a file of that name.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        with _new(part) as file:
            with _sealed(file, passphrase) as out, tarfile.open(fileobj=out, mode="w|gz") as tar:
                _add(tar, MANIFEST, msgspec.json.encode(manifest))
                for name in manifest.files:
                    tar.add(folder / name, arcname=name, recursive=False)
            file.flush()
            os.fsync(file.fileno())
        _name(part, target)
    except FileExistsError as error:
        raise BadBackup(f"there is a file {error.filename2 or error.filename} already: name another") from error
    except OSError as error:
        raise BadBackup(f"cannot write {target} ({error.strerror}): name another place") from error
    finally:
        part.unlink(missing_ok=True)


def _name(part: Path, target: Path) -> None:
    """Give a file its name. Unlike a rename that takes nobody's place."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system that has no links, such as FAT
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        part.replace(target)


def is_sealed(source: Path) -> bool:
    """Whether reading it takes a passphrase. Raises BadBackup when it cannot be read at all."""
    try:
        with source.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise BadBackup(f"cannot read {source} ({error.strerror})") from error


def unpack(source: Path, folder: Path, passphrase: str = "") -> Manifest:
    """Put a backup's files into the folder, each for its owner alone. Raises BadBackup for anything but a whole backup."""
    try:
        with (
            source.open("rb") as file,
            _opened(file, passphrase) as plain,
            gzip.GzipFile(fileobj=plain) as whole,
            tarfile.open(fileobj=whole, mode="r|") as tar,
        ):
            manifest = _manifest(tar)
            sizes = {}
            while (member := tar.next()) is not None:
                sizes[member.name] = _extract(tar, member, folder)
            while whole.read(PART):  # to the checksum at its end
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise BadBackup(f"{source} is no backup of a node, or was cut off") from error
    except OSError as error:
        raise BadBackup(f"cannot read {source} ({error.strerror or error})") from error
    if {name: sizes.get(name) for name in manifest.files} != manifest.files:
        raise BadBackup(f"{source} was cut off: files are missing in it")
    return manifest


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        yield file


@contextmanager
def _sealed(file: IO[bytes], passphrase: str) -> Iterator[IO[bytes] | SealingWriter]:
    if not passphrase:
        yield file
        return
    writer = SealingWriter(file, passphrase)
    yield writer
    writer.close()  # not after a failure: what has no last chunk is no backup


@contextmanager
def _opened(file: IO[bytes], passphrase: str) -> Iterator[IO[bytes] | io.BufferedReader]:
    if file.read(len(MAGIC)) != MAGIC:
        file.seek(0)
        yield file
    elif not passphrase:
        raise BadBackup("the backup is encrypted: give its passphrase")
    else:
        yield io.BufferedReader(SealedReader(file, passphrase))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _manifest(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    file = None if member is None or member.name != MANIFEST else tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError("it does not begin with a manifest")
    manifest = msgspec.json.decode(file.read(MOST_MANIFEST), type=Manifest)
    if manifest.format > FORMAT:
        raise BadBackup(f"the backup was made by satroute {manifest.version}: restore it with that one, or a later one")
    return manifest


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> int:
    """A plain file below the folder, and nothing else whatever the archive says; its size."""
    file = tar.extractfile(member) if member.isreg() and _NAME.fullmatch(member.name) else None
    if file is None:
        raise tarfile.ReadError("a member of it is no plain file")
    path = folder / member.name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _new(path) as out:
        while part := file.read(PART):
            out.write(part)
    return path.stat().st_size
