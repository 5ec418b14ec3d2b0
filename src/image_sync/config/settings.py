"""The settings: every key of configuration.json, its default and its meaning. Frozen once they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, WithJsonSchema, field_validator, model_validator

from image_sync.config.credentials import Credentials
from image_sync.config.model import Model
from image_sync.config.sagemaker import SageMaker
from image_sync.config.values import (
    REFERENCE,
    InvalidValue,
    Name,
    Seconds,
    Section,
    Switch,
    Texts,
    alike,
    composed,
    printable,
    refuse_unprintable,
    setting,
)

_ALWAYS_REMOVED = 10
"""Pictures of a category that may always be removed at once, however small the category is."""
_MOST_REMOVALS = 10**9
Mode = Literal["required", "optional", "none"]
Form = Literal["auto", "voc", "coco", "yolo", "sagemaker"]

FORM = (
    "Which files are taken for annotations: `voc` (Pascal VOC, XML), `coco` and `sagemaker` (JSON), `yolo` (text), or "
    "`auto` for all of them."
)
Folder = Annotated[Path, Field(strict=False), WithJsonSchema({"type": "string"})]
State = Annotated[Path | str, WithJsonSchema({"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]})]


class Dataset(Section):
    """Where the pictures go."""

    name: Name = setting(
        ..., "Name of the dataset at the server; it is made if there is none.", examples=["classifier"]
    )
    action: Literal["append", "create"] = setting(
        "append", "`append` adds to the dataset of that name; `create` makes a new one, `<name>-<time>`, once."
    )


class Threshold(Section):
    """How many pictures are enough."""

    upload: int = setting(1, "Upload once this many pictures are waiting.", ge=1, le=10**9)
    training: int = setting(
        10,
        "Train once this many pictures were uploaded since the last training. `train` is the same key.",
        ge=1,
        le=10**9,
    )
    per_category: int | None = setting(
        None,
        "Pictures that each category needs before anything is trained; `null`, or less than that: what the "
        "platform asks for (MVI: 5).",
        ge=1,
        le=10**6,
    )
    wait_for_all: Switch = setting(
        False,
        "Whether a category with too few pictures holds training back. If not, it is left out where the platform "
        "can leave it out (SageMaker); MVI trains whole datasets, so there it always does.",
    )
    max_ratio: float | None = setting(
        10,
        "Warn when one category has more than this many times the pictures of another; `null` never warns.",
        ge=1,
        le=10**6,
    )

    @model_validator(mode="before")
    @classmethod
    def _alias(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "train" not in data:
            return data
        data = dict(data)
        train = data.pop("train")
        training = data.setdefault("training", train)
        if (type(training), training) != (type(train), train):
            raise InvalidValue("has both training and train, with different values; keep training", bare=True)
        return data


class Annotations(Section):
    """How annotations are used."""

    model_config = ConfigDict(
        json_schema_extra={"type": ["object", "string", "null"], "pattern": "^(required|optional|none)$"}
    )

    mode: Mode = Field(
        default=None,  # type: ignore[arg-type]  # what is trained decides, when the file is read
        description=(
            "Whether a picture's annotation (the file that says which objects are where in it) is sent with it. "
            "`required`: a picture waits until its annotation is there; `optional`: it goes without if there is none; "
            "`none`: annotations are not looked for. Left out: `required` for a detection `nn_arch`, else `none`. "
            'Short form: `"annotations": "required"`.'
        ),
        json_schema_extra={"enum": ["required", "optional", "none", None], "type": ["string", "null"]},
    )
    ignore_labels: Annotated[tuple[Name, ...], Field(strict=False)] = setting(
        (),
        "Labels whose boxes are left out, in capitals or not. A change reads all annotations anew.",
        examples=[["unclear"]],
    )
    minimum: int | None = setting(
        None,
        "Pictures that must show a label before it counts as learnable; a training starts when one label is, and "
        "the others are named. `null`: what the platform asks for (MVI: 5), or `threshold.per_category` if that "
        "is more.",
        ge=1,
        le=10**6,
    )

    @field_validator("ignore_labels")
    @classmethod
    def _alike(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(alike, value)))


class Watch(Section):
    """How pictures are found."""

    mode: Literal["auto", "events", "polling"] = setting(
        "auto", "`events` listens to the system, `polling` looks regularly (network folders), `auto` chooses."
    )
    settle: Seconds = setting(2, "Seconds for which a file must stay unchanged before it counts as complete.", ge=0)
    rescan: Seconds = setting(300, "Seconds between two full looks at all folders.", ge=1)
    poll: Seconds = setting(10, "Seconds between two looks where events do not work.", ge=0.1)
    validation: Literal["header", "full"] = setting(
        "header",
        "`header` checks that a picture is whole by its start and end; `full` also decodes it (slower).",
        alias="validate",
    )
    max_pixels: int = setting(50_000_000, "Pictures with more pixels than this are set aside.", ge=1, le=10**10)
    max_bytes: int = setting(200 * 2**20, "Files larger than this are set aside (default: 200 MiB).", ge=1, le=2**40)


class Upload(Section):
    """How pictures are sent."""

    batch_files: int = setting(
        500,
        "Most pictures in one request; the first have 100, larger ones follow while answers come quickly.",
        ge=1,
        le=10_000,
    )
    batch_bytes: int = setting(
        32 * 2**20,
        "Most bytes of pictures in one request (default: 32 MiB); a larger picture goes alone.",
        ge=1,
        le=2**40,
    )
    grace: Seconds = setting(180, "Seconds until the server is asked what became of a request without an answer.", ge=0)
    names: Literal["key", "original"] = setting(
        "key",
        "`key` adds part of the content's fingerprint to the file name, so that nothing is stored twice; "
        "`original` keeps the plain name, and with it a small risk of doubles.",
    )
    parallel: int = setting(4, "Requests at the same time.", ge=1, le=32)
    max_wait: Seconds = setting(300, "Longest wait for quiet (`time`) once the threshold is reached, in seconds.", ge=0)
    timeout: Seconds = setting(60, "Seconds to wait for a connection and for each answer.", ge=0.1)


class Mobius(Section):
    """How a Mobius Vision SDK is used; only with `platform` "mobius"."""

    negatives: Literal["others", "folders", "none"] = setting(
        "others",
        "What a tag is not: `others` takes pictures of the other categories, `folders` only those in a folder "
        "`_negative_` (for all tags) or `<category>/negative` (for one), `none` assigns no negatives.",
    )
    max_negatives: int = setting(
        200,
        "Most negatives of a tag that are taken from other categories; those in folders are all taken.",
        ge=1,
        le=100_000,
    )
    parallel: int = setting(4, "Most pictures that are added or assigned at the same time.", ge=1, le=32)
    tags: Literal["category", "dataset"] = setting(
        "category",
        "`category` calls a tag as its category; `dataset` puts the dataset's name before it "
        "(`<dataset>-<category>`), for servers that several datasets share.",
    )


class Settings(Section):
    """Everything that a configuration file says."""

    platform: Literal["mvi", "sagemaker", "mobius"] = setting(
        "mvi",
        "Where the pictures go: `mvi` is IBM Maximo Visual Inspection, `sagemaker` is AWS SageMaker, `mobius` is a "
        "Mobius Vision SDK.",
    )
    credentials: Credentials = Field(default_factory=Credentials, description="The server, and who we are there.")
    sagemaker: SageMaker = Field(
        default_factory=SageMaker,
        description="Where pictures and trainings go at AWS; only with the platform `sagemaker`.",
    )
    threshold: Threshold = Field(default_factory=Threshold, description="How many pictures are enough.")
    skip_duplicates: Switch = setting(
        True, "Upload the same picture only once, whatever its name; hold it back when two categories claim it."
    )
    recursive: Switch = setting(True, "Watch the folders inside the category folders too.")
    time: Seconds = setting(
        10, "Seconds without a new picture before an upload starts, once the threshold is reached.", ge=0
    )
    category_from: Literal["first", "parent"] = setting(
        "first", "Which folder names the category: the `first` below the watched one, or the picture's `parent`."
    )
    deletions: Literal["keep", "remove"] = setting(
        "keep",
        "`remove` deletes a picture at the server when its file is deleted here, after twice `watch.rescan`. Only "
        "deletions that are seen while this is set count.",
    )
    max_removals: int | str = setting(
        "20%",
        "Most pictures of a category that are removed at once; more wait for `image-sync removals confirm`. A "
        'number, or a share like `"20%"` of the category, which always allows 10.',
        json_schema_extra={"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]},
    )
    repair: Literal["ask", "auto"] = setting(
        "ask",
        "What happens to pictures that somebody deleted at the server: `ask` says so and waits for "
        "`image-sync repair`, `auto` sends them again.",
    )
    shutdown: Seconds = setting(20, "Seconds that running requests get when the daemon is stopped.", ge=0)
    dataset: Dataset = setting(..., "Where the pictures go.", examples=[{"name": "classifier"}])
    model: Model = Field(default_factory=Model, description="What is trained.")
    folders: Annotated[tuple[Folder, ...], Field(strict=False)] = setting(
        ...,
        "Folders to watch, each with one folder per category in it. A relative path starts at this file's folder.",
        min_length=1,
        examples=[["/data/pictures"]],
    )
    annotations: Annotations = Field(
        default_factory=Annotations,
        description="How annotations are used: boxes drawn in pictures, as files beside them.",
    )
    annotation_format: Form = setting("auto", FORM)
    exclude: Texts = setting(
        (),
        "Files and folders that are left alone, in the syntax of .gitignore, below each watched folder. Folders "
        "that begin with `_` always are.",
        examples=[["/trash/", "*_preview.jpg"]],
    )
    categories: Mapping[str, Name | None] = Field(
        default_factory=dict,
        description=(
            "Folder name to category name, where they differ; `null`: the folder is left alone. Keys that begin with "
            "`_` are ignored."
        ),
        examples=[{"crk": "crack"}],
    )
    watch: Watch = Field(default_factory=Watch, description="How pictures are found.")
    upload: Upload = Field(default_factory=Upload, description="How pictures are sent.")
    mobius: Mobius = Field(
        default_factory=Mobius, description='How a Mobius Vision SDK is used; only with `platform` "mobius".'
    )
    state: State = Field(  # type: ignore[assignment]
        default=None,  # set when the file is read
        description=(
            "Folder where image-sync remembers what is done, or `postgresql://user@host/database`. Left out: "
            "`$STATE_DIRECTORY`, or `~/.local/state/image-sync/` (`/var/lib/image-sync/` for files in /etc/image-sync)."
        ),
    )
    status: dict[str, Any] | None = setting(
        None, "Reserved for the status page of a later version; ignored by this one."
    )
    notify: list[Any] | None = setting(None, "Reserved for the notifications of a later version; ignored by this one.")
    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _secret_files: tuple[Path, ...] = PrivateAttr(default=())
    _unread: tuple[str, ...] = PrivateAttr(default=())
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should be told at each start, one line each, without secrets."""
        return self._warnings

    @property
    def document(self) -> dict[str, Any]:
        """What the file said, without what must not be kept anywhere else: for :func:`restored`."""
        return self._document

    @property
    def unread(self) -> tuple[str, ...]:
        """Which secrets could not be read, one line each; without them nobody can be called."""
        return self._unread

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Files that hold the secrets which the configuration only names: a change of theirs is a change of it."""
        return self._secret_files

    @property
    def address(self) -> str:
        """Where the platform is: what a ledger is tied to, and what people are shown."""
        return str(getattr(self.section, "address", "")) or self.credentials.endpoint

    @property
    def section(self) -> Section | None:
        """The platform's own section, if it has one."""
        return getattr(self, self.platform, None)

    def most_removals(self, stored: int) -> int:
        """How many pictures may be removed at once of a category of which so many are stored (``max_removals``)."""
        if isinstance(self.max_removals, int):
            return self.max_removals
        return max(_ALWAYS_REMOVED, stored * int(self.max_removals.removesuffix("%")) // 100)

    @field_validator("max_removals", mode="before")
    @classmethod
    def _removals(cls, value: object) -> object:
        text = value.removesuffix("%") if isinstance(value, str) and value.endswith("%") else ""
        number = not isinstance(value, bool) and isinstance(value, int) and 0 <= value <= _MOST_REMOVALS
        if number or (text.isascii() and text.isdigit() and int(text) <= 100):  # noqa: PLR2004 - percent
            return value
        raise InvalidValue('is neither a number of pictures nor a share; write 50 or "20%"')

    @field_validator("exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            from pathspec import GitIgnoreSpec  # late: most files exclude nothing
        for pattern in value:
            refuse_unprintable(pattern)
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                raise InvalidValue(
                    f'has "{printable(pattern)}", which is not a pattern of .gitignore', bare=True
                ) from None
        return value

    @field_validator("categories", mode="before")
    @classmethod
    def _folder_names(cls, value: object) -> object:
        seen: dict[str, str] = {}
        for key in value if isinstance(value, dict) else ():
            if not key.strip() or "/" in key or key in {".", ".."}:
                raise InvalidValue(
                    f'has the key "{key}", which is not a folder name; write one folder\'s name', bare=True
                )
            refuse_unprintable(key)
            twin = seen.setdefault(composed(key), key)
            if twin != key:
                raise InvalidValue(f'has the keys "{twin}" and "{key}", which look the same; keep one', bare=True)
        return value

    @field_validator("categories")
    @classmethod
    def _category_twins(cls, value: Mapping[str, str | None]) -> Mapping[str, str | None]:
        seen: dict[str, str] = {}
        for name in filter(None, value.values()):
            twin = seen.setdefault(alike(name), name)
            if twin != name:
                raise InvalidValue(
                    f'has the categories "{twin}" and "{name}", which differ only in case; choose one', bare=True
                )
        return value

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.model.name:
            named = self.model.model_copy(update={"name": self.dataset.name})
            self.__dict__["model"] = named  # frozen from here on
        return self
