"""The configuration: one JSON file, read leniently, checked completely, frozen afterwards."""

from image_sync.config.credentials import Credentials
from image_sync.config.difference import difference, secrets
from image_sync.config.loading import load, parse, restored, state_of
from image_sync.config.model import Model
from image_sync.config.schema import json_schema, settings_table
from image_sync.config.settings import Dataset, Settings
from image_sync.config.threshold import Threshold
from image_sync.config.upload import Upload
from image_sync.config.watch import Watch

__all__ = [
    "Credentials",
    "Dataset",
    "Model",
    "Settings",
    "Threshold",
    "Upload",
    "Watch",
    "difference",
    "json_schema",
    "load",
    "parse",
    "restored",
    "secrets",
    "settings_table",
    "state_of",
]
