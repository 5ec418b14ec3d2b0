"""``python -m image_sync`` is the same as the command ``image-sync``."""

from image_sync.cli.main import run

if __name__ == "__main__":
    run()
