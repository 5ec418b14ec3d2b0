"""The only memory, and the only place where threads meet.

Written down before acting, confirmed after::

    file        settled -> sound | quarantined | uncategorised | waiting  (one path)
    picture     ready -> claimed(batch) -> confirmed(remote id)           (one SHA-256 in one dataset)
                  |-> ready (the batch was released)  '-> refused(reason) -> ready (``image-sync retry``)
    annotation  wanted -> due (the picture is confirmed) -> sent | refused -> due (``image-sync retry``)
    batch       sending -> confirmed | doubtful -> confirmed | released
    training    starting -> running -> trained | failed
                   '-> doubtful -> running | refused
    model       judge -> deploy -> retire -> tidy                         (the next step, once it is trained)
"""

from image_sync.ledger.changes import Departed, PictureStatus
from image_sync.ledger.history import Membership, PictureHistory
from image_sync.ledger.ledger import RETRYING, Ledger, exists, open_ledger

__all__ = [
    "RETRYING",
    "Departed",
    "Ledger",
    "Membership",
    "PictureHistory",
    "PictureStatus",
    "exists",
    "open_ledger",
]
