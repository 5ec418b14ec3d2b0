"""Every error of image-sync, and what each one asks of whoever catches it.

::

    ImageSyncError                  what happened, to what; a hint says what to do next; an exit code
    |- UsageError                   2   the command was called wrongly
    |- ConfigError                  78  stop before anything starts
    |- LedgerError                  74  stop, or wait if it is ``passing``
    |- AlreadyRunning               75  another daemon has the state folder
    |- PictureError                     skip this picture, record why, go on
    |  |- Changed                       it is not the picture that was checked: look at it again
    |  '- Unreadable                    it cannot be read now: look at it again
    '- PlatformError                69
       |- Transient                     nothing was done there: try again later (``retry_after``)
       |  |- Unanswered                 nobody answered: after some in a row the platform rests (backoff.py)
       |  '- Resting                    it rests: it was not even tried
       |- Ambiguous                     it may or may not have been done there: ask before doing it again
       '- Permanent                     it was refused: do not repeat it unchanged
          |- Unauthorised           77  the platform does not accept who we are
          |- NotFound                   what was named does not exist there
          |- Refused                    the platform said no, and said why
          |  '- Unfit                   for what the picture is: the same one is never sent again
          '- Unsupported                this platform has no such operation
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_LEDGER = 74
EXIT_TRY_LATER = 75
EXIT_UNAUTHORISED = 77
EXIT_CONFIG = 78


class ImageSyncError(Exception):
    """Something went wrong that a person should read about.

    Args:
        what: what happened and to what, one sentence without the final full stop.
        hint: what the reader can do next; empty when there is nothing to do.
    """

    exit_code = EXIT_SOME_FAILED

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}. {self.hint}" if self.hint else self.what


class UsageError(ImageSyncError):
    """The command was called in a way that cannot be carried out."""

    exit_code = EXIT_USAGE


class ConfigError(ImageSyncError):
    """The configuration cannot be used; ``what`` holds every mistake, one a line."""

    exit_code = EXIT_CONFIG


class LedgerError(ImageSyncError):
    """The ledger cannot be read or written.

    Args:
        passing: nothing is damaged and it will work again by itself: a full disk, a lock, a database that restarts.
    """

    exit_code = EXIT_LEDGER

    def __init__(self, what: str, *, hint: str = "", passing: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.passing = passing


class AlreadyRunning(ImageSyncError):  # noqa: N818 - it is a state of affairs, named as such
    """Another process works on the same state folder."""

    exit_code = EXIT_TRY_LATER


class PictureError(ImageSyncError):
    """One picture cannot be used; the others go on."""


class Changed(PictureError):  # noqa: N818
    """The file no longer holds the bytes that were checked."""


class Unreadable(PictureError):  # noqa: N818
    """The file cannot be read: gone, no permission, an input/output error."""


class PlatformError(ImageSyncError):
    """The platform could not do what was asked."""

    exit_code = EXIT_UNREACHABLE


class Transient(PlatformError):  # noqa: N818
    """Nothing was done at the platform; the same call may work later.

    Args:
        retry_after: seconds that the platform asked us to wait, or None.
    """

    def __init__(self, what: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.retry_after = retry_after


class Unanswered(Transient):
    """Nobody answered: no connection, no answer in time, or a router's word that there is nothing behind it."""


class Resting(Transient):
    """The platform is being left alone for ``retry_after`` seconds: nothing was sent, and no repeat helps earlier."""


class Ambiguous(PlatformError):  # noqa: N818
    """The answer is missing or unreadable: the platform may have done it, or may yet do it."""


class Permanent(PlatformError):  # noqa: N818
    """The platform will not do this, however often it is asked."""

    exit_code = EXIT_SOME_FAILED


class Unauthorised(Permanent):
    """The platform does not accept the user, password, key or token."""

    exit_code = EXIT_UNAUTHORISED


class NotFound(Permanent):
    """What was named does not exist at the platform."""


class Refused(Permanent):
    """The platform understood and said no; ``what`` carries its own words.

    Args:
        words: these alone.
    """

    def __init__(self, what: str, *, hint: str = "", words: str = "") -> None:
        super().__init__(what, hint=hint)
        self.words = words


class Unfit(Refused):
    """A picture was refused for what it is. Any other refusal of a picture may pass by itself."""


class Unsupported(Permanent):
    """This platform has no such operation."""
