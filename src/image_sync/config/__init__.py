"""The configuration: one JSON file, read leniently, checked completely, frozen afterwards."""

from image_sync.config.credentials import Credentials
from image_sync.config.load import load, parse, restored, state_of
from image_sync.config.model import Model
from image_sync.config.schema import difference, json_schema, secrets, settings_table
from image_sync.config.settings import Dataset, Settings, Threshold, Upload, Watch

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
