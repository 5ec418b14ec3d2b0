"""``image-sync serve``, which remembers what it saw in a picture: a soak trains on the same ones again and again."""

from __future__ import annotations

from functools import lru_cache

from image_sync.cli.main import run
from image_sync_server.learn import features

features.extract = lru_cache(maxsize=100_000)(features.extract)

if __name__ == "__main__":
    run()
