"""The calls: from a method, a path and a body to a body. HTTP statuses are not documented; failures are 200 here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from image_sync_server.learn.features import extract
from image_sync_server.mobius.store import Store, labelled, usable_id
from image_sync_server.mobius.tasks import Tasks

SUCCESS = {"status": "success"}


class Failure(HTTPException):
    """A failure in the vendor's words."""

    def __init__(self, message: str) -> None:
        super().__init__(200, message)

    @property
    def body(self) -> dict[str, str]:
        """What is answered."""
        return {"status": "error", "message": self.detail}


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        parts: what stands in the path for ids and tags, decoded.
        data: content of the form's part ``data``; None without one.
    """

    parts: tuple[str, ...]
    query: Mapping[str, str]
    data: bytes | None

    @property
    def picture(self) -> bytes:
        """The form's part ``data``."""
        if not self.data:
            raise Failure("data_payload_required")
        return self.data


class Api:
    """All calls, on one state."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self.calls: list[tuple[str, str, Callable[[Call], Any]]] = [
            ("POST", "/system/database/image/add", self._add),
            ("GET", "/custom/assign/{image}/{kind}/{tag}", self._assign),
            ("GET", "/custom/train/{tag}", self._train),
            ("GET", "/status/{task}", self._status),
            ("GET", "/custom/delete/{tag}", self._delete),
            ("POST", "/predict/custom/{tag}", self._predict_tag),
            ("POST", "/predict/custom", self._predict_custom),
            ("POST", "/predict", self._predict_all),
            ("GET", "/custom/predict_batch", self._predict_batch),
            ("GET", "/custom/predict/{tag}/{image}", self._predict_added_tag),
            ("GET", "/custom/predict/{image}", self._predict_added),
            ("POST", "/set_state", self._set_state),
            ("GET", "/get_state", self._get_state),
        ]
        """Method, path and what carries it out."""

    def _add(self, call: Call) -> Any:
        image = call.query.get("image_id") or uuid.uuid4().hex
        if not usable_id(image):
            raise Failure("wrong_arguments_format")
        picture = call.picture
        if self._store.has(image):
            raise Failure("duplicate_image_id")
        try:
            extract(picture)  # the SDK looks at a picture when it is added, too
        except ValueError:
            raise Failure("image_reading_error") from None
        if not self._store.add(image, picture):
            raise Failure("duplicate_image_id")
        return {**SUCCESS, "image_id": image}

    def _assign(self, call: Call) -> Any:
        image, kind, tag = call.parts
        if kind not in {"positive", "negative"}:
            raise Failure("wrong_arguments_format")
        self._known(image)
        self._store.assign(tag, image, kind)
        return SUCCESS

    def _train(self, call: Call) -> Any:
        (tag,) = call.parts
        if not labelled(self._store.assigned(tag), "positive"):
            raise Failure("positive_samples_required")
        return {"task_id": self._tasks.train(tag).id, "status": "ongoing", "message": "training"}

    def _status(self, call: Call) -> Any:
        task = self._tasks.all.get(call.parts[0])
        if task is None:
            raise Failure("unknown_task_id")
        return task.as_json()

    def _delete(self, call: Call) -> Any:
        if not self._store.reset(call.parts[0]):
            raise Failure("unknown_custom_model")
        return SUCCESS

    def _predict_tag(self, call: Call) -> Any:
        return {**SUCCESS, "result": self._scores(call.picture, [call.parts[0]])}

    def _predict_custom(self, call: Call) -> Any:
        return {**SUCCESS, "result": self._scores(call.picture, self._store.trained())}

    def _predict_all(self, call: Call) -> Any:
        picture = call.picture
        return {**SUCCESS, "result": self._scores(picture, self._store.trained()) | _base(picture)}

    def _predict_added(self, call: Call) -> Any:
        return {**SUCCESS, "result": self._scores(self._picture(call.parts[0]), self._store.trained())}

    def _predict_added_tag(self, call: Call) -> Any:
        tag, image = call.parts
        return {**SUCCESS, "result": self._scores(self._picture(image), [tag])}

    def _predict_batch(self, call: Call) -> Any:
        images = [image for image in call.query.get("image_id", "").split(",") if image]
        tags = [tag for tag in call.query.get("tags", "").split(",") if tag] or self._store.trained()
        if not images:
            raise Failure("wrong_arguments_format")
        return {**SUCCESS, "result": {image: self._scores(self._picture(image), tags) for image in images}}

    def _set_state(self, call: Call) -> Any:
        try:
            self._store.replace(call.picture)
        except ValueError:
            raise Failure("wrong_arguments_format") from None
        return SUCCESS

    def _get_state(self, _call: Call) -> Any:
        return self._store.state()

    def _known(self, image: str) -> None:
        if not self._store.has(image):
            raise Failure("image_id_not_found")

    def _picture(self, image: str) -> bytes:
        self._known(image)
        return self._store.path(image).read_bytes()

    def _scores(self, picture: bytes, tags: list[str]) -> dict[str, float]:
        found = {}
        for tag in tags:
            model = self._store.model(tag)
            if model is None:
                raise Failure("unknown_custom_model")
            try:
                found[tag] = dict(model.predict(picture)).get("positive", 0.0)
            except ValueError:
                raise Failure("image_reading_error") from None
        return found


def _base(picture: bytes) -> dict[str, float]:
    """What stands for the SDK's base models: how light the picture is."""
    import io

    from PIL import Image, ImageStat

    with Image.open(io.BytesIO(picture)) as image:
        light = ImageStat.Stat(image.convert("L")).mean[0] / 255
    return {"light": light, "dark": 1 - light}
