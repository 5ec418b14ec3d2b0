"""Which handler answers which call; the first line that fits counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.call import Call
from image_sync_server.mvi.handlers import (
    categories,
    datasets,
    files,
    images,
    inference,
    labels,
    metadata,
    models,
    system,
    tasks,
    webapis,
)

Handler = Callable[[Call], Any]

_DS = "/datasets/{ds}"
_FILE = "/datasets/{ds}/files/{file}"
_TABLE: list[tuple[str, str, Handler]] = [
    ("GET", "/version-info", system.version_info),
    ("GET", "/system", system.system),
    ("GET", "/profiles", system.profiles),
    ("GET", "/projects", system.projects),
    ("POST", "/tokens", system.sign_in),
    ("GET", "/api-keys", system.show_key),
    ("POST", "/api-keys", system.make_key),
    ("DELETE", "/api-keys", system.revoke_key),
    ("GET", "/users/{token}", system.user),
    ("GET", "/_faults", system.show_faults),
    ("POST", "/_faults", system.add_faults),
    ("DELETE", "/_faults", system.clear_faults),
    ("POST", "/datasets", datasets.create),
    ("GET", "/datasets", datasets.listing),
    ("POST", "/datasets/action", datasets.act_on_many),
    ("POST", "/datasets/import", datasets.import_),
    ("GET", _DS, datasets.show),
    ("PUT", _DS, datasets.change),
    ("DELETE", _DS, datasets.delete),
    ("POST", _DS + "/action", datasets.act),
    ("GET", _DS + "/export", datasets.export),
    ("GET", _DS + "/categories", categories.listing),
    ("POST", _DS + "/categories", categories.create),
    ("GET", _DS + "/categories/{cat}", categories.show),
    ("DELETE", _DS + "/categories/{cat}", categories.delete),
    ("POST", _DS + "/categories/{cat}/action", categories.act),
    ("GET", _DS + "/files", files.listing),
    ("POST", _DS + "/files", files.upload),
    ("POST", _DS + "/files/action", files.act_on_many),
    ("POST", _DS + "/files/copy", files.copy),
    ("POST", _DS + "/files/move", files.move),
    ("GET", _DS + "/files/user-metadata", metadata.export),
    ("GET", _DS + "/files/user-keys", metadata.list_keys),
    ("POST", _DS + "/files/user-keys", metadata.create_key),
    ("GET", _DS + "/files/user-keys/{key}", metadata.show_key),
    ("PUT", _DS + "/files/user-keys/{key}", metadata.change_key),
    ("DELETE", _DS + "/files/user-keys/{key}", metadata.delete_key),
    ("GET", _FILE, files.show),
    ("DELETE", _FILE, files.delete),
    ("POST", _FILE + "/action", files.act),
    ("GET", _FILE + "/action", files.act),
    ("GET", _FILE + "/labels", labels.show_all),
    ("POST", _FILE + "/labels", labels.replace_all),
    ("GET", _FILE + "/user-metadata", metadata.show),
    ("POST", _FILE + "/user-metadata", metadata.add),
    ("DELETE", _FILE + "/user-metadata", metadata.remove),
    ("GET", _FILE + "/user-metadata/{key}", metadata.show_one),
    ("DELETE", _FILE + "/user-metadata/{key}", metadata.remove),
    ("POST", _FILE + "/object-labels", labels.create),
    *(
        (method, base + path, handler)
        for base in (_DS, _FILE)
        for method, path, handler in (
            ("GET", "/object-labels", labels.listing),
            ("DELETE", "/object-labels", labels.delete_many),
            ("GET", "/object-labels/{label}", labels.show),
            ("PUT", "/object-labels/{label}", labels.change),
            ("DELETE", "/object-labels/{label}", labels.delete),
        )
    ),
    ("GET", _DS + "/tags", labels.list_tags),
    ("POST", _DS + "/tags", labels.create_tag),
    ("GET", _DS + "/tags/{tag}", labels.show_tag),
    ("DELETE", _DS + "/tags/{tag}", labels.delete_tag),
    ("POST", _DS + "/tags/{tag}/action", labels.act_on_tag),
    ("GET", "/bgtasks", tasks.list_background),
    ("DELETE", "/bgtasks", tasks.delete_background),
    ("POST", "/dltasks", tasks.create),
    ("GET", "/dltasks", tasks.listing),
    ("GET", "/dltasks/{task}", tasks.show),
    ("DELETE", "/dltasks/{task}", tasks.delete),
    ("GET", "/dltasks/{task}/status", tasks.status),
    ("POST", "/dltasks/{task}/action", tasks.act),
    ("GET", "/dltasks/{task}/action", tasks.act),
    ("GET", "/trained-models", models.listing),
    ("POST", "/trained-models/action", models.act_on_many),
    ("POST", "/trained-models/import", models.import_),
    ("GET", "/trained-models/{model}", models.show),
    ("PUT", "/trained-models/{model}", models.change),
    ("DELETE", "/trained-models/{model}", models.delete),
    ("GET", "/trained-models/{model}/export", models.export),
    ("GET", "/trained-models/{model}/assets/{kind}/download", models.asset),
    ("POST", "/webapis", webapis.create),
    ("GET", "/webapis", webapis.listing),
    ("POST", "/webapis/action", webapis.act_on_many),
    ("GET", "/webapis/{model}", webapis.show),
    ("DELETE", "/webapis/{model}", webapis.delete),
    ("POST", "/dlapis/{model}", inference.infer),
    ("GET", "/dlapis/{model}", inference.by_url),
    ("GET", "/uploads/temp/{model}/{name}", images.inferred),
    ("GET", "/uploads/{owner}/datasets/{ds}/files/{name}", images.picture),
    ("GET", "/uploads/{owner}/datasets/{ds}/thumbnails/{name}", images.thumbnail),
]
_FORMS = frozenset({datasets.import_, files.upload, inference.infer, models.import_})
_PUBLIC = frozenset({system.version_info, system.sign_in, inference.infer})


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the API."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler

    @property
    def takes_form(self) -> bool:
        """Whether its body is a multipart form."""
        return self.handler in _FORMS

    @property
    def public(self) -> bool:
        """Whether it needs no token."""
        return self.handler in _PUBLIC


_ROUTES = [
    Route(method, re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), handler) for method, path, handler in _TABLE
]


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route for a call and what its placeholders stand for.

    Raises:
        Failure: 404 or 405.
    """
    known = []
    for route in _ROUTES:
        if match := route.pattern.fullmatch(path):
            if route.method == ("GET" if method == "HEAD" else method):
                return route, match.groupdict()
            known.append(route.method)
    if known:
        allowed = ", ".join(dict.fromkeys(known))
        raise Failure(405, f"{path} takes {allowed}, not {method}.", headers={"Allow": allowed})
    raise Failure(404, f"There is no {path or 'such address'} here. The API lies below /api.")


def inside(path: str) -> str:
    """A path without its context root and without a slash at its end; empty when it leads nowhere.

    MVI has many roots, and clients write a slash or not.

    >>> inside("/visual-inspection/api/datasets/")
    '/datasets'
    >>> inside("/powerai-vision/uploads/ann/x.jpg")
    '/uploads/ann/x.jpg'
    """
    words = [word for word in path.split("/") if word]
    for at, word in enumerate(words):
        if word == "api":
            return "/" + "/".join(words[at + 1 :])
        if word in {"uploads", "_faults"}:
            return "/" + "/".join(words[at:])
    return ""
