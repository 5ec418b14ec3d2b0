"""An emulator of the Mobius Vision SDK's "Customized Training" (1.5), as small as honest: for tests and rehearsals.

Calls, paths, parameters, the part ``data``, the states ``in_queue``, ``ongoing`` and ``success`` and the messages are
the vendor's, as documented. No public page shows the bodies of these calls except that training answers with a
``task_id``: so the bodies here, and the choice of HTTP status 200 for failures, are **ours**. The scores are real, from
a small classifier that is trained on the pictures of a tag.

Ours, too, where the documents are silent: deleting a tag drops its assignments; assigning a picture again replaces its
kind; a tag without negatives is told from all pictures that are not assigned to it; tasks are forgotten when the server
ends; ``GET /get_state`` (documented for older versions) gives the tar that ``POST /set_state`` takes.
"""
