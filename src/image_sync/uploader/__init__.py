"""Sends what is due."""

from image_sync.uploader.cargo import read_verified
from image_sync.uploader.uploader import STAGE, Uploader, UploadRules

__all__ = ["STAGE", "UploadRules", "Uploader", "read_verified"]
