"""``image-sync demo``: the whole job on this machine, with pictures that are sorted or with boxes drawn in them."""

from image_sync.cli.demo.command import demo

__all__ = ["demo"]
