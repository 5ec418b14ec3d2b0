"""``image-sync models``: the trained models of the dataset, listed, drawn, deployed, carried about and deleted."""

from image_sync.cli.models.group import app

__all__ = ["app"]
