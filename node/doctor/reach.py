"""How others find the node: relays, its URL, its onion address."""

from __future__ import annotations

import secrets
import time
from typing import Final

import httpx
import msgspec

from node.config import Settings
from node.doctor.finding import Finding, note, ok, wrong
from node.tor.key import FILE as KEY_FILE
from node.tor.key import onion_key
from relays import kinds
from relays.deletion import deletion
from relays.errors import InvalidJson
from relays.event import Signer
from relays.jsontext import from_json
from relays.pool import RelayPool
from relays.routes import DIRECT, Routes
from router_client.disk.storage import is_held
from router_client.net.fetch import FetchFailed, fetch

APP_DATA: Final = 30078
"""Application data (NIP-78): addressable as an announcement is, and of interest to nobody else."""
IDENTIFIER: Final = "satroute doctor"
LIVES_S: Final = 60


async def relay(
    url: str, signer: Signer, deadline_s: float, routes: Routes = DIRECT, *, is_announced: bool = False
) -> Finding:
    """Write an event under the node's key, read it back, and take it away again. Look for the announcement that a running
    node has there: a relay may take some kinds and not others."""
    async with RelayPool([url], signer, routes) as pool:
        now, content = int(time.time()), secrets.token_hex(8)
        # Each look has an address of its own: what the last one took away, by whatever clock, does not count for this one.
        tags = [["d", f"{IDENTIFIER} {content}"], ["expiration", str(now + LIVES_S)]]
        event = signer.sign(kind=APP_DATA, content=content, created_at=now, tags=tags)
        answer = (await pool.publish(event, deadline_s))[url]
        if not answer.accepted:
            remedy = (
                "check the URL in RELAYS, or name another" if not answer.answered else "name another relay in RELAYS"
            )
            return wrong("relay", f"{url}: {answer.words}", remedy)
        found = await pool.query({"ids": [event.id]}, deadline_s=deadline_s)
        await pool.publish(deletion([event], signer, now + 1), deadline_s)
        if event not in found.events:
            words = found.failures.get(url, "it took an event and does not give it back")
            return wrong(
                "relay", f"{url}: {words}", "name another relay in RELAYS: buyers would not find the node there"
            )
        theirs = {"kinds": [kinds.PROVIDER_ANNOUNCEMENT], "authors": [signer.pubkey]}
        if is_announced and not (await pool.query(theirs, deadline_s=deadline_s)).events:
            remedy = "a node that has just started needs a moment; the relay's own words are in GET /v1/info"
            return note("relay", f"{url}: written to and read back, but the node's announcement is not there", remedy)
    return ok("relay", f"{url}: written to and read back")


class _Info(msgspec.Struct):
    npub: str


async def public_url(settings: Settings, npub: str, http: httpx.AsyncClient, deadline_s: float) -> list[Finding]:
    """Whether the node answers at the URL that it announces."""
    away = "check HTTP_URL, the name in DNS, the firewall, and that the proxy passes it on to HOST and PORT"
    another = "point the proxy at this node's HOST and PORT"
    return await _answering("url", settings.http_url, settings, npub, http, deadline_s, away, another)


async def onion(settings: Settings, npub: str, http: httpx.AsyncClient, deadline_s: float) -> list[Finding]:
    """Whether the node answers at its onion address, asked through Tor as buyers do."""
    away = "look at tor's log, and that TOR_SOCKS names its port; a new service takes a minute to be found"
    another = "let HiddenServicePort lead to this node's port"
    return await _answering("onion", _onion_url(settings), settings, npub, http, deadline_s, away, another)


async def _answering(
    part: str,
    url: str,
    settings: Settings,
    npub: str,
    http: httpx.AsyncClient,
    deadline_s: float,
    away: str,
    another: str,
) -> list[Finding]:
    """Whether the node of that npub answers there; nothing without a URL. The last two are what to do where nobody does, or
    another."""
    if not url:
        return []
    if not is_held(settings.lock_path):
        return [note(part, f"{url}: not looked at: the node does not run", "start it, and ask again")]
    try:
        reply = await fetch(http, "GET", f"{url}/v1/info", deadline_s=deadline_s)
        answers = from_json(reply.body, _Info).npub if reply.is_success else ""
    except FetchFailed as error:
        return [wrong(part, f"{url}: {error}", away)]
    except InvalidJson:
        answers = ""
    return (
        [ok(part, f"{url}: this node answers")]
        if answers == npub
        else [wrong(part, f"{url}: another answers there", another)]
    )


def _onion_url(settings: Settings) -> str:
    """As the node itself finds it: by the key of a service of its own, the file of another tor, or the settings. Empty where
    there is none yet."""
    if settings.has_onion_service:
        is_kept = settings.tor_onion == "persistent" and (settings.data_dir / KEY_FILE).exists()
        return f"http://{onion_key(settings).name}" if is_kept else ""
    if settings.onion_hostname_file is not None:
        try:
            return f"http://{settings.onion_hostname_file.read_text().strip()}"
        except OSError:
            return ""
    return settings.onion_url
