"""The section ``upload``: how pictures are sent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from image_sync.config.section import Seconds, Section


class Upload(Section):
    """How pictures are sent."""

    batch_files: int = Field(
        default=500,
        ge=1,
        le=10_000,
        description="Most pictures in one request; the first have 100, larger ones follow while answers come quickly.",
    )
    batch_bytes: int = Field(
        default=32 * 2**20,
        ge=1,
        le=2**40,
        description="Most bytes of pictures in one request (default: 32 MiB); a larger picture goes alone.",
    )
    grace: Seconds = Field(
        default=180, ge=0, description="Seconds until the server is asked what became of a request without an answer."
    )
    names: Literal["key", "original"] = Field(
        default="key",
        description=(
            "`key` adds part of the content's fingerprint to the file name, so that nothing is stored twice; "
            "`original` keeps the plain name, and with it a small risk of doubles."
        ),
    )
    parallel: int = Field(default=4, ge=1, le=32, description="Requests at the same time.")
    max_wait: Seconds = Field(
        default=300, ge=0, description="Longest wait for quiet (`time`) once the threshold is reached, in seconds."
    )
    timeout: Seconds = Field(default=60, ge=0.1, description="Seconds to wait for a connection and for each answer.")
