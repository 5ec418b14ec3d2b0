"""MVI's REST interface in IBM's words: one method for each endpoint that we use, wire models back.

After IBM's API document and what IBM's own clients send; success is any 2xx whose ``result`` is absent or "success".
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from image_sync.errors import Ambiguous, Refused, Transient
from image_sync.platforms.http import Answer, Client, Denied, Part, Spool, Timeouts, in_doubt, sanitize
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.auth import Auth

T = TypeVar("T")

_LISTING_LIMIT = 256 * 2**20
"""Bytes: no release is known to cap a list, and 100,000 files make some 70 MB."""
_LISTING_TIMEOUTS = Timeouts(read=120.0, total=600.0)
_EXPORT_TIMEOUTS = Timeouts(read=300.0, total=4 * 3600.0)
_SLOWEST_LINE = 10_000.0
"""Bytes a second that an upload is given time for."""
_LONGEST_POLL = 5.0
_BAD_REQUEST = 400
_UNAUTHORISED = 401
_SOME_FAILED = 422


class Api:
    """The endpoints. Ids have been checked by ``wire`` before they get here.

    Args:
        timeouts: for all but listings, exports and the time that an upload takes on the line.
        stop: ends every wait.
    """

    def __init__(self, client: Client, auth: Auth, timeouts: Timeouts, stop: threading.Event) -> None:
        self._client = client
        self._auth = auth
        self._timeouts = timeouts
        self.stop = stop
        self.patience = 30.0
        """Seconds in which a request that got no answer may still be carried out."""
        self.poll = 0.5
        """Seconds until the second look for what it made, about; then twice as long each time."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # datasets and categories

    def datasets(self) -> Iterator[wire.Dataset]:
        """``GET /datasets``."""
        return self._each(wire.Dataset, "/datasets", "Listing the datasets")

    def dataset(self, dataset: str) -> wire.Dataset:
        """``GET /datasets/{id}``."""
        return self._call(wire.Dataset, "GET", f"/datasets/{dataset}", f"Asking for the dataset {dataset}")

    def create_dataset(self, name: str) -> wire.CreatedDataset:
        """``POST /datasets``. Not repeatable: names need not be unique."""
        what = f"Creating the dataset {name}"
        return self._call(wire.CreatedDataset, "POST", "/datasets", what, repeatable=False, body={"name": name})

    def categories(self, dataset: str) -> Iterator[wire.Category]:
        """``GET /datasets/{id}/categories``."""
        what = f"Listing the categories of dataset {dataset}"
        return self._each(wire.Category, f"/datasets/{dataset}/categories", what)

    def create_category(self, dataset: str, name: str) -> wire.CreatedCategory:
        """``POST /datasets/{id}/categories``. Not repeatable: what a second one does is not documented."""
        path, what = f"/datasets/{dataset}/categories", f"Creating the category {name}"
        return self._call(wire.CreatedCategory, "POST", path, what, repeatable=False, body={"name": name})

    # files

    def files(self, dataset: str, **query: str) -> Iterator[wire.File]:
        """``GET /datasets/{id}/files``, newest first; query: ``category_id``, ``query``, ``limit``, ``skip``."""
        what = f"Listing the pictures of dataset {dataset}"
        return self._each(wire.File, f"/datasets/{dataset}/files", what, params=query, timeouts=_LISTING_TIMEOUTS)

    def upload_files(self, dataset: str, files: Sequence[Part], fields: Mapping[str, bytes], *, what: str) -> Any:
        """``POST /datasets/{id}/files``. Not repeatable. None: a 2xx with an empty body.

        ``fields`` come first; without a ``category_id`` the files get no category, and ``labels``, a JSON array, may
        only go with a single one. A list of results is returned whatever it says and, with status 400 or 422, too: some
        pictures may be stored.
        """
        form = [*(Part(name, value) for name, value in fields.items()), *files]
        size = sum(part.size for part in files)
        timeouts = self._timeouts._replace(total=self._timeouts.total + size / _SLOWEST_LINE)
        answer = self._send(
            "POST", f"/datasets/{dataset}/files", what=what, repeatable=False, form=form, timeouts=timeouts
        )
        if answer.ok or answer.status in {_BAD_REQUEST, _SOME_FAILED}:
            with contextlib.suppress(ValueError):
                body = answer.json()
                if isinstance(body, dict) and isinstance(body.get("resultList"), list) and body["resultList"]:
                    return body
        if answer.status == _SOME_FAILED and len(files) > 1:
            raise in_doubt(what, "some were refused, but the server does not say which", repeatable=False)
        return self._client.check(answer, what=what, repeatable=False)

    def change_category(self, dataset: str, file: str, category_id: str) -> None:
        """``POST /datasets/{id}/files/{id}/action``."""
        path, what = f"/datasets/{dataset}/files/{file}/action", f"Changing the category of picture {file}"
        body = {"action": "change_category", "target_category_id": category_id}
        self._do("POST", path, what, body=body)

    def delete_file(self, dataset: str, file: str) -> None:
        """``DELETE /datasets/{id}/files/{id}``."""
        self._do("DELETE", f"/datasets/{dataset}/files/{file}", f"Deleting the picture {file}")

    # tags and labels

    def tags(self, dataset: str) -> list[wire.Tag]:
        """``GET /datasets/{id}/tags``."""
        path, what = f"/datasets/{dataset}/tags", f"Listing the object labels of dataset {dataset}"
        return self._call(list[wire.Tag], "GET", path, what)

    def create_tag(self, dataset: str, name: str) -> str:
        """``POST /datasets/{id}/tags``: its name. Not repeatable: what a second one does is not documented."""
        what = f"Creating the object label {name}"
        self._do("POST", f"/datasets/{dataset}/tags", what, repeatable=False, body={"name": name})
        return name

    def replace_labels(self, dataset: str, file: str, labels: Sequence[Mapping[str, object]]) -> None:
        """``POST /datasets/{id}/files/{id}/labels``: in place of all labels of the file."""
        path, what = f"/datasets/{dataset}/files/{file}/labels", f"Marking the objects in picture {file}"
        self._do("POST", path, what, body={"labels": [dict(label) for label in labels]})

    # trainings

    def create_task(self, task: Mapping[str, object]) -> wire.CreatedTask:
        """``POST /dltasks``. Not repeatable: it starts a training."""
        what = f"Starting the training {task['name']}"
        return self._call(wire.CreatedTask, "POST", "/dltasks", what, repeatable=False, body=dict(task))

    def tasks(self) -> Iterator[wire.Task]:
        """``GET /dltasks``, newest first."""
        return self._each(wire.Task, "/dltasks/", "Listing the trainings")

    def task(self, task: str) -> wire.Task:
        """``GET /dltasks/{id}``."""
        return self._call(wire.Task, "GET", f"/dltasks/{task}", f"Asking for the training {task}")

    def task_status(self, task: str) -> wire.TaskStatus:
        """``GET /dltasks/{id}/status``."""
        return self._call(wire.TaskStatus, "GET", f"/dltasks/{task}/status", f"Asking how far training {task} is")

    def stop_task(self, task: str) -> None:
        """``POST /dltasks/{id}/action``: stop. IBM documents the endpoint, but of its actions only ``rename``."""
        what = f"Stopping the training {task}"
        self._do("POST", f"/dltasks/{task}/action", what, body={"action": "stop"})

    # models

    def trained_models(self) -> Iterator[wire.TrainedModel]:
        """``GET /trained-models``, newest first."""
        return self._each(wire.TrainedModel, "/trained-models/", "Listing the models")

    def trained_model(self, model: str) -> wire.TrainedModel:
        """``GET /trained-models/{id}``."""
        return self._call(wire.TrainedModel, "GET", f"/trained-models/{model}", f"Asking for the model {model}")

    def delete_trained_model(self, model: str) -> None:
        """``DELETE /trained-models/{id}``; refused while it is deployed."""
        self._do("DELETE", f"/trained-models/{model}", f"Deleting the model {model}")

    def export_trained_model(self, model: str, sink: Callable[[bytes], object]) -> None:
        """``GET /trained-models/{id}/export``: a zip archive, piece by piece into ``sink``."""
        path, what = f"/trained-models/{model}/export", f"Exporting the model {model}"
        answer = self._send("GET", path, what=what, repeatable=True, timeouts=_EXPORT_TIMEOUTS, sink=sink)
        self._client.check(answer, what=what, repeatable=True)

    def import_trained_model(self, archive: Part) -> wire.ImportedModel:
        """``POST /trained-models/import``. Not repeatable: each makes a model."""
        what = f"Importing the model {sanitize(archive.filename)}"
        timeouts = _EXPORT_TIMEOUTS
        path = "/trained-models/import"
        return self._call(wire.ImportedModel, "POST", path, what, repeatable=False, form=[archive], timeouts=timeouts)

    def create_webapi(self, model: str, name: str, usage: str) -> None:
        """``POST /webapis``: deploy. Not repeatable: each may take a GPU, of which there are few."""
        body = {"trained_model_id": model, "name": name, "usage": usage}
        self._do("POST", "/webapis", f"Deploying the model {name}", repeatable=False, body=body)

    def webapi(self, model: str) -> wire.WebApi:
        """``GET /webapis/{id}``."""
        return self._call(wire.WebApi, "GET", f"/webapis/{model}", f"Asking for the deployed model {model}")

    def delete_webapi(self, model: str) -> None:
        """``DELETE /webapis/{id}``: undeploy; the trained model stays."""
        self._do("DELETE", f"/webapis/{model}", f"Undeploying the model {model}")

    def infer(self, model: str, picture: bytes, suffix: str) -> wire.Inference:
        """``POST /dlapis/{id}``."""
        content_type = "image/png" if suffix == "png" else "image/jpeg"
        form = [Part("files", picture, filename=f"picture.{suffix}", content_type=content_type)]
        return self._call(wire.Inference, "POST", f"/dlapis/{model}", f"Asking the model {model}", form=form)

    # how every call is made

    def _do(self, method: str, path: str, what: str, *, repeatable: bool = True, **request: Any) -> None:
        answer = self._send(method, path, what=what, repeatable=repeatable, **request)
        self._client.check(answer, what=what, repeatable=repeatable)

    def _call(self, kind: type[T], method: str, path: str, what: str, *, repeatable: bool = True, **request: Any) -> T:
        answer = self._send(method, path, what=what, repeatable=repeatable, **request)
        body = self._client.check(answer, what=what, repeatable=repeatable)
        return wire.parse(kind, body, what=what, repeatable=repeatable)

    def _each(self, kind: type[T], path: str, what: str, **request: Any) -> Iterator[T]:
        """The entries of a list, however long it is, one after the other."""
        with contextlib.closing(Spool(what, _LISTING_LIMIT)) as spool:
            answer = self._send("GET", path, what=what, repeatable=True, sink=spool.write, **request)
            for entry in self._client.entries(answer, spool, what=what):
                yield wire.parse(kind, entry, what=what, repeatable=True)

    def _send(self, method: str, path: str, **request: Any) -> Answer:
        token = self._auth.token()
        answer = self._client.send(method, path, headers={"X-Auth-Token": token} if token else {}, **request)
        if answer.status == _UNAUTHORISED:
            # A 401 proves that nothing was done, so this is no repetition.
            token = self._auth.renew(token)
            answer = self._client.send(method, path, headers={"X-Auth-Token": token}, **request)
        if answer.status != _UNAUTHORISED:
            self._auth.accepted(token)
        return answer

    def create_once(self, make: Callable[[], T], find: Callable[[], T | None]) -> T:
        """What ``make`` makes, called once; or, after it failed, what ``find`` finds.

        MVI makes another one whenever it is asked. What was to be made may be there in spite of the failure: the answer
        got lost, or somebody else was quicker.

        Raises:
            Refused: the server said no, and it is not there.
            Transient: there was no answer, and it has not appeared. A later call looks first, too.
        """
        try:
            return make()
        except (Refused, Denied) as error:
            found = find()
            if found is not None:
                return found
            if isinstance(error, Denied):
                raise Refused(error.what) from error
            raise
        except Ambiguous as error:
            doubt = error
        give_up, poll = time.monotonic() + self.patience, self.poll
        while (found := find()) is None:
            if time.monotonic() >= give_up or self.stop.wait(poll):
                raise Transient(doubt.what, hint="It was looked for since, and is not there") from doubt
            poll = min(2 * poll, _LONGEST_POLL)
        return found
