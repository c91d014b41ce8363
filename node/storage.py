"""Where a node's books and its money lie: all that tools beside a running node need to know."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.errors import BadSettings

POSTGRES: Final = ("postgresql://", "postgres://", "postgresql+asyncpg://")
DEFAULT_DATA_DIR: Final = Path("~/.satroute/node")
AGAIN: Final = "give `satroute restore` the same backup again, with --replace"


class StorageSettings(BaseSettings):
    """The settings of the ledger, the wallet and the key."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Folder for the ledger, the wallet and the key")
    database_url: SecretStr = Field(
        SecretStr(""),
        description="Ledger, as sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME, which several nodes may share; "
        "without it DATA_DIR/ledger.db",
    )

    @field_validator("data_dir")
    @classmethod
    def _folder(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("sqlite:///", "sqlite+aiosqlite:///", *POSTGRES)):
            raise ValueError("expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
        return value

    @property
    def ledger_url(self) -> str:
        """`sqlite:///PATH` or `postgresql://…`; the latter may hold a password."""
        url = self.database_url.get_secret_value()
        if url.startswith(POSTGRES):
            return "postgresql://" + url.partition("://")[2]
        _, separator, path = url.partition(":///")
        return f"sqlite:///{Path(path).expanduser() if separator else self.data_dir / 'ledger.db'}"

    @property
    def lock_path(self) -> Path:
        """Held by the one process that serves from these books, or where they are shared from this folder's wallet."""
        if self.ledger_url.startswith("postgresql://"):
            return self.data_dir / "node.lock"
        return Path(self.ledger_url.removeprefix("sqlite:///")).with_suffix(".lock")

    def instance(self) -> str:
        """What this folder's process is called in shared books; kept in DATA_DIR/instance. Raises BadSettings."""
        return self.kept("instance", lambda: secrets.token_hex(8))

    def kept(self, name: str, make: Callable[[], str]) -> str:
        """What the file of that name in the data folder says, made when there is none."""
        path = self.data_dir / name
        try:
            if not path.exists() or not path.read_text():
                self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                _keep(path, make())
            return path.read_text()
        except OSError as error:
            raise BadSettings(
                [f"DATA_DIR: cannot write in {self.data_dir} ({error.strerror}): name another"]
            ) from error

    @property
    def wallet_path(self) -> Path:
        return self.data_dir / "wallet.db"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where books and money lie on this machine."""
        books = () if self.ledger_url.startswith("postgresql://") else (self.lock_path.parent,)
        return (self.data_dir, *books)

    @property
    def unfinished_path(self) -> Path:
        """There from the moment at which a restore begins to put files in their places until all of them are."""
        return self.data_dir / "restore-unfinished"

    def check_whole(self) -> None:
        """Raise BadSettings where a restore broke off half way: books and wallet there are of different moments."""
        if self.unfinished_path.exists():
            raise BadSettings([f"DATA_DIR: a restore into {self.data_dir} broke off half way: {AGAIN}"])


def _keep(path: Path, text: str) -> None:
    """Write the file for its owner alone. It gets its name when it is whole and on the disk, since what a crash cuts off is
    another key; of two who make it at once, the first one's counts."""
    handle, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except OSError:  # there is one, or the file system has no links, such as FAT
            if not path.exists() or not path.read_text():
                Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)
    synced(path.parent)


def synced(path: Path) -> None:
    """What a file holds, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)
