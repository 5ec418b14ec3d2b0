"""The section ``watch``: how pictures are found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from image_sync.config.section import Seconds, Section


class Watch(Section):
    """How pictures are found."""

    mode: Literal["auto", "events", "polling"] = Field(
        default="auto",
        description="`events` listens to the system, `polling` looks regularly (network folders), `auto` chooses.",
    )
    settle: Seconds = Field(
        default=2, ge=0, description="Seconds for which a file must stay unchanged before it counts as complete."
    )
    rescan: Seconds = Field(default=300, ge=1, description="Seconds between two full looks at all folders.")
    poll: Seconds = Field(default=10, ge=0.1, description="Seconds between two looks where events do not work.")
    validation: Literal["header", "full"] = Field(
        default="header",
        alias="validate",
        description="`header` checks that a picture is whole by its start and end; `full` also decodes it (slower).",
    )
    max_pixels: int = Field(
        default=50_000_000, ge=1, le=10**10, description="Pictures with more pixels than this are set aside."
    )
    max_bytes: int = Field(
        default=200 * 2**20, ge=1, le=2**40, description="Files larger than this are set aside (default: 200 MiB)."
    )
