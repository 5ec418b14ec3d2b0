"""``image-sync schema``: the JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import json

from image_sync.config import json_schema


def schema() -> None:
    """Print the JSON Schema of configuration.json, which lets an editor complete and check it."""
    print(json.dumps(json_schema(), indent=2))
