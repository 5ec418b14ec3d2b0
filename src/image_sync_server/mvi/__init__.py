"""An MVI-compatible server on one machine: stores datasets, trains small classifiers for real, predicts.

Start it with :class:`image_sync_server.mvi.server.MviServer` or ``image-sync serve``. It needs the extra ``[server]``.
"""
