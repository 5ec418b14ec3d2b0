"""What MVI answers, as models. Lenient: twenty releases differ in fields, and send numbers as strings at will."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Hashable
from typing import Annotated, Any, TypeVar, cast

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from image_sync.errors import NotFound
from image_sync.platforms.http import in_doubt, sanitize

T = TypeVar("T")

ID = re.compile(r"(?!\.*$)[A-Za-z0-9_.-]{1,128}")
"""What may stand in a URL: what the server names becomes part of our next request."""
_PAIR = 2


def checked(value: str, noun: str) -> str:
    """The id, if it may stand in a URL. Raises NotFound when no server can have given it."""
    if not ID.fullmatch(value):
        raise NotFound(f"{sanitize(value, 60) or 'An empty string'} is not an id of a {noun} at MVI")
    return value


def _id(value: object) -> str:
    if not _id_or_none(value):
        raise ValueError("this is not an id")
    return str(value)


def _id_or_none(value: object) -> str:
    return value if isinstance(value, str) and ID.fullmatch(value) else ""


def _text(value: object) -> str:
    if isinstance(value, dict | list):
        raise ValueError("this is not text")  # noqa: TRY004 - pydantic collects ValueErrors
    return "" if value is None else str(value)


def _number(value: object) -> float | None:
    try:
        number = float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _object(value: object) -> object:
    return value if isinstance(value, dict) else {}


def _array(value: object) -> object:
    return value if isinstance(value, list) else []


Id = Annotated[str, BeforeValidator(_id)]
OptionalId = Annotated[str, BeforeValidator(_id_or_none)]
Text = Annotated[str, BeforeValidator(_text)]
Number = Annotated[float | None, BeforeValidator(_number)]
Whole = Annotated[int | None, BeforeValidator(_whole)]
_OWN_ID = Field(validation_alias=AliasChoices("_id", "id"))


class Wire(BaseModel):
    """One JSON object; fields that we do not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Token(Wire):
    """``POST /tokens``."""

    token: Text = ""


class CreatedDataset(Wire):
    """``POST /datasets``."""

    dataset_id: Id


class Dataset(Wire):
    """One of ``GET /datasets``; stamps are milliseconds."""

    id: Id = _OWN_ID
    name: Text = ""
    created_at: Number = None
    total_file_count: Whole = None


class CreatedCategory(Wire):
    """``POST /datasets/{id}/categories``."""

    category_id: Id = Field(validation_alias=AliasChoices("dataset_category_id", "category_id", "_id", "id"))


class Category(Wire):
    """One of ``GET /datasets/{id}/categories``."""

    id: Id = _OWN_ID
    name: Text = ""


class File(Wire):
    """One of ``GET /datasets/{id}/files``; an uncategorised one has "", null or no category at all."""

    id: Id = _OWN_ID
    original_file_name: Text = ""
    category_id: Text = ""
    category_name: Text = ""
    size: Whole = None
    uploaded_at: Number = None
    user_metadata: Annotated[dict[str, Any], BeforeValidator(_object)] = {}


class UploadEntry(Wire):
    """One of ``resultList``; which name a release gives, if any, is not documented."""

    result: Text = ""
    id: OptionalId = Field("", validation_alias=AliasChoices("id", "_id", "file_id"))
    original_file_name: Text = ""
    file_name: Text = ""
    filename: Text = ""
    name: Text = ""
    fault: Text = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that may be the name we sent."""
        return tuple(filter(None, (self.original_file_name, self.filename, self.file_name, self.name)))


class Uploaded(Wire):
    """``POST /datasets/{id}/files``: a bare success in 1.1, a list of results since 1.2."""

    id: OptionalId = ""
    result_list: list[UploadEntry] | None = Field(None, validation_alias=AliasChoices("resultList", "result_list"))


class Tag(Wire):
    """One of ``GET /datasets/{id}/tags``: a name that objects are labelled with."""

    name: Text = ""


class ImportedModel(Wire):
    """``POST /trained-models/import``."""

    trained_model_id: Id = Field(validation_alias=AliasChoices("trained_model_id", "_id", "id"))


class CreatedTask(Wire):
    """``POST /dltasks``."""

    task_id: Id


class Task(Wire):
    """A training, of ``GET /dltasks``."""

    id: Id = _OWN_ID
    name: Text = ""
    dataset_id: Text = ""
    status: Text = ""
    created_at: Number = None


class StatusEntry(Wire):
    """One line of a training's report."""

    type: Text = ""
    iter: Whole = None
    total_iter: Whole = None
    loss: Number = None
    accuracy: Number = None
    remaining: Number = Field(None, validation_alias=AliasChoices("remain_time", "remaining_time"))


class TaskStatus(Wire):
    """``GET /dltasks/{id}/status``."""

    status: Text = ""
    fault: Text = ""
    data: Annotated[list[StatusEntry], BeforeValidator(_array)] = []


class ModelCategory(Wire):
    """A category that a model knows."""

    category_name: Text = Field("", validation_alias=AliasChoices("category_name", "name"))


class TrainedModel(Wire):
    """One of ``GET /trained-models``; its id is the id of the task that made it."""

    id: Id = _OWN_ID
    name: Text = ""
    dataset_id: Text = ""
    usage: Text = ""
    accuracy: Number = None
    categories: Annotated[list[ModelCategory], BeforeValidator(_array)] = []
    created_at: Number = None
    deployed: Whole = None


class WebApi(Wire):
    """A deployed model, of ``GET /webapis/{id}``."""

    id: Id = _OWN_ID
    status: Text = ""


class Found(Wire):
    """One thing that a model sees in a picture."""

    name: Text = Field("", validation_alias=AliasChoices("name", "label"))
    confidence: Number = None
    xmin: Number = None
    ymin: Number = None
    xmax: Number = None
    ymax: Number = None
    polygons: Annotated[list[Any], BeforeValidator(_array)] = []

    @property
    def corners(self) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom in pixels; None without a box, or with one that is inside out."""
        if self.xmin is None or self.ymin is None or self.xmax is None or self.ymax is None:
            return None
        return (self.xmin, self.ymin, self.xmax, self.ymax) if self.xmin < self.xmax and self.ymin < self.ymax else None

    @property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """The first polygon's corners, if there is one that can be read."""
        corners = self.polygons[0] if self.polygons and isinstance(self.polygons[0], list) else []
        pairs = [(_number(one[0]), _number(one[1])) for one in corners if isinstance(one, list) and len(one) == _PAIR]
        return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def _classified(value: object) -> object:
    # Up to 1.2 an object of name: confidence, later a list, best first.
    if isinstance(value, dict):
        return [{"name": name, "confidence": confidence} for name, confidence in value.items()]
    return [] if value is None else value


class Inference(Wire):
    """``POST /dlapis/{id}``."""

    classified: Annotated[list[Found], BeforeValidator(_classified)] = []

    @property
    def scores(self) -> list[tuple[Found, float]]:
        """(what, confidence 0 to 1), best first. Old releases answer in percent: then at least one exceeds 1."""
        pairs = [(found, found.confidence) for found in self.classified if found.confidence is not None]
        divisor = 100.0 if any(confidence > 1 for _, confidence in pairs) else 1.0
        scores = [(found, min(max(confidence / divisor, 0.0), 1.0)) for found, confidence in pairs]
        return sorted(scores, key=lambda score: -score[1])


@functools.lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def parse(kind: type[T], body: object, *, what: str, repeatable: bool) -> T:
    """The answer as ``kind``. Raises Transient or Ambiguous, naming the call, when it has another shape."""
    try:
        return cast(T, _adapter(cast(Hashable, kind)).validate_python(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise in_doubt(
            what, f"the answer has an unexpected shape ({sanitize(place, 60)}: {first['msg']})", repeatable=repeatable
        ) from None


def fault(body: object) -> str | None:
    """The server's words when the body reports a failure, which old releases do under status 200, else None."""
    if not isinstance(body, dict) or str(body.get("result", "success")).lower() == "success":
        return None
    return str(body.get("fault") or "no reason given")


def normal(name: str) -> str:
    """The spelling by which names are compared: systems differ in how they store an accented letter."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def seconds(milliseconds: float | None) -> float | None:
    """What the server counts in milliseconds."""
    return None if milliseconds is None else milliseconds / 1000
