"""Stand-in servers: what image-sync talks to, on one machine, for tests, rehearsals and work without a licence.

``mvi`` speaks the API of IBM Maximo Visual Inspection, ``mobius`` that of the Mobius Vision SDK; both really train
(``learn``). This package knows nothing of ``image_sync``; it needs the extra ``[server]``.
"""
