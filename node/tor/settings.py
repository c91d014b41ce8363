"""The settings of Tor: an onion service for the node, and the way out for its own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator

from node.storage import StorageSettings
from relays.routes import Routes, host_and_port, host_of, is_onion

USUAL_SOCKS: Final = "127.0.0.1:9050"


class TorSettings(StorageSettings):
    """How the node uses Tor, if at all; see docs/tor.md."""

    run_tor: bool = Field(
        default=False, description="Start a tor process, and with it an onion service; the same as serve --tor"
    )
    tor_control: str = Field(
        "",
        description="Use a tor that runs already: its control port, as HOST:PORT or the path of a socket",
        examples=["/run/tor/control"],
    )
    tor_control_password: SecretStr = Field(
        SecretStr(""), description="Password of that control port; without it the cookie is read that tor names"
    )
    tor_onion: Literal["persistent", "ephemeral"] = Field(
        "persistent",
        description="Keep the onion address's key in DATA_DIR/onion_key, or take a new address at each start",
    )
    onion_hostname_file: Path | None = Field(
        None,
        description="Where a tor that has the onion service in its own torrc keeps the name",
        examples=["/var/lib/onion/satroute/hostname"],
    )
    onion_url: str = Field("", description="Onion URL of this node, where none of the above finds it out")
    tor_socks: str = Field(
        "",
        description="Tor's SOCKS port, HOST:PORT, for mints, relays and upstreams that are onions, and for TOR_ONLY; "
        f"without it {USUAL_SOCKS} if one of the settings above is there, or the port of our own tor",
        examples=[USUAL_SOCKS],
    )
    tor_only: bool = Field(
        default=False,
        description="Tell no address but the onion's, and reach mints, relays, price sources and Lightning addresses "
        "through Tor alone; upstreams by UPSTREAM_TOR",
    )
    tor_config: Path | None = Field(
        None, description="More lines for the torrc of our own tor, such as bridges", examples=["/etc/satroute.torrc"]
    )
    upstream_tor: bool = Field(default=False, description="Reach UPSTREAM_BASE_URL through Tor; onions are anyway")

    @property
    def has_onion_service(self) -> bool:
        """Whether the node makes one itself, under a key of its own."""
        return self.run_tor or bool(self.tor_control)

    @property
    def has_own_tor(self) -> bool:
        """Whether the node starts one itself."""
        return self.run_tor and not self.tor_control

    @property
    def tor_dir(self) -> Path:
        """Where that one has its files."""
        return self.data_dir / "tor"

    @property
    def routes(self) -> Routes:
        """The way out."""
        uses_tor = self.tor_only or self.tor_control or self.onion_hostname_file is not None
        return Routes(self.tor_socks or (USUAL_SOCKS if uses_tor else ""), self.tor_only)

    @field_validator("onion_url")
    @classmethod
    def _onion(cls, value: str) -> str:
        if value and not is_onion(host_of(value)):
            raise ValueError(f"{value!r} is no onion address: one of the open net is for HTTP_URL")
        return value

    @field_validator("tor_socks")
    @classmethod
    def _socks(cls, value: str) -> str:
        if value:
            host_and_port(value)
        return value

    @field_validator("tor_control")
    @classmethod
    def _control(cls, value: str) -> str:
        if value and not value.startswith("/"):
            host_and_port(value)
        return value

    @field_validator("tor_config")
    @classmethod
    def _config(cls, value: Path | None) -> Path | None:
        if value is not None and not value.expanduser().is_file():
            raise ValueError(f"there is no file {value}")
        return None if value is None else value.expanduser().absolute()
