"""``image-sync init``: write a configuration by asking, or from options where nobody can be asked."""

from image_sync.cli.init.command import init

__all__ = ["init"]
