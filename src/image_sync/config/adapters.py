"""Platforms that other packages bring: entry points of the group ``image_sync.platforms`` (``docs/platforms.md``)."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import Field, create_model

from image_sync.config.settings import Settings
from image_sync.config.values import InvalidValue

OURS = ("mvi", "sagemaker", "mobius")
"""Those of this package are known without reading what is installed: that takes longer than all else at a start."""
_GROUP = "image_sync.platforms"


@cache
def adapter(name: str) -> Any:
    """What the entry point of this name gives (``platforms/base.py``), or None.

    Raises:
        InvalidValue: it cannot be loaded.
    """
    from importlib.metadata import entry_points  # late: most installations have no such package

    for found in entry_points(group=_GROUP, name=name):
        try:
            return found.load()
        except Exception as error:  # another package's code may raise anything
            raise InvalidValue(f"names a package that cannot be loaded from {found.value}: {error}") from error
    return None


@cache
def settings_model(platform: str) -> type[Settings]:
    """The settings with this platform's section, if another package brings it; else plain ones.

    Raises:
        InvalidValue: the package that brings it cannot be loaded.
    """
    found = None if platform in {*OURS, *Settings.model_fields} else adapter(platform)
    if found is None:
        return Settings
    fields: dict[str, Any] = {"platform": (Literal[platform], platform)}
    if found.section is not None:
        required = any(field.is_required() for field in found.section.model_fields.values())
        fields[platform] = (found.section, Field() if required else Field(default_factory=found.section))
    return create_model("Settings", __base__=Settings, **fields)
