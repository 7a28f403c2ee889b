"""What makes an HTML document safe to carry scripts and other people's text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any


def as_json(value: Any) -> str:
    """JSON that is safe inside a script element: no <, > or &, and ASCII throughout."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_text(text: str) -> str:
    """A script as an HTML parser hands it on: one kind of line end, no tag or comment in its strings."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def policy(scripts: Sequence[str]) -> str:
    """A content security policy under which these scripts run, and nothing is fetched."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode("utf-8")).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"
