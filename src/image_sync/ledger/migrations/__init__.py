"""Steps from one schema to the next, run by Alembic inside one transaction."""

from __future__ import annotations

import os
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

VERSIONS = [str(files(__name__) / "versions")]
"""Folders with the steps."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(__name__)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(VERSIONS).replace("%", "%%"))
    return config


def known(version: str) -> bool:
    """Whether this image-sync has the migration that wrote this schema."""
    return version in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version in the connection's transaction."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
