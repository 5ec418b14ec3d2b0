"""A platform in memory: real bookkeeping, no network. For tests, for rehearsals, and to look before leaping."""

from __future__ import annotations

from image_sync.platforms.memory.platform import MemoryPlatform

__all__ = ["MemoryPlatform"]
