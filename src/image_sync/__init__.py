"""image-sync: folders of labelled pictures in, trained vision models out.

The watcher finds pictures, the tracker says when, the uploader sends, the trainer trains; the ledger
remembers; platforms are where it goes; the daemon runs it.
"""

__version__ = "1.0.0"
