"""What is owed and what is done: the only memory, and the only place where threads meet.

Written down before acting, confirmed after::

    file    settled -> sound | quarantined | uncategorised | waiting  (a *place*: one path)
    content ready -> claimed(batch) -> confirmed(remote id)         (a *picture*: one SHA-256 in one dataset)
                       |-> ready (the batch was released)  '-> refused(reason) -> ready (``image-sync retry``)
    marks   wanted -> due (the content is confirmed) -> sent | refused -> due (``image-sync retry``)
    batch   sending -> confirmed | doubtful -> confirmed | released
    run     starting -> running -> trained | failed                 (a training)
               '-> doubtful -> running | refused
    model   judge -> deploy -> retire -> tidy                       (what is owed once it is trained)
"""

from image_sync.ledger.changes import Departed, PictureStatus
from image_sync.ledger.contents import Membership
from image_sync.ledger.history import PictureHistory
from image_sync.ledger.ledger import RETRYING, Ledger, exists, open_ledger
from image_sync.ledger.remote_index import Remote

__all__ = [
    "RETRYING",
    "Departed",
    "Ledger",
    "Membership",
    "PictureHistory",
    "PictureStatus",
    "Remote",
    "exists",
    "open_ledger",
]
