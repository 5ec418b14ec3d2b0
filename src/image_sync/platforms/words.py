"""What servers say, made fit to be shown."""

from __future__ import annotations

from image_sync.log import masked

_LONGEST = 300


def sanitize(text: object, limit: int = _LONGEST) -> str:
    """A server's words as they may be shown: one line, no control characters, no secret, not too long."""
    # Masked before blanks are folded, too: a password may hold two in a row.
    line = masked(" ".join(masked(str(text)[: limit * 4]).split()))
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"
