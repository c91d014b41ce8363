"""Golden events, signed by rust-nostr (nostr-sdk 0.45), an implementation independent of ours."""

import json
from pathlib import Path
from typing import Any

SECRET = "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a"
EVENTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "events.json").read_text())
