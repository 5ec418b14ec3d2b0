"""The settings: every key of configuration.json, its default and its meaning. Frozen once they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pathspec import GitIgnoreSpec
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from image_sync.config import annotations as marks
from image_sync.config import mobius, texts
from image_sync.config.credentials import Credentials
from image_sync.config.mobius import Mobius
from image_sync.config.model import Model
from image_sync.config.problems import Mistake, printable
from image_sync.config.sagemaker import SageMaker
from image_sync.config.section import Folder, Name, Seconds, Section, State, Switch, context_of
from image_sync.config.threshold import Threshold
from image_sync.config.upload import Upload
from image_sync.config.watch import Watch

_ALWAYS_REMOVED = 10
"""Pictures of a category that may always be removed at once, however small the category is."""
_MOST_REMOVALS = 10**9


class Dataset(Section):
    """Where the pictures go."""

    name: Name = Field(
        description="Name of the dataset at the server; it is made if there is none.", examples=["classifier"]
    )
    action: Literal["append", "create"] = Field(
        default="append",
        description="`append` adds to the dataset of that name; `create` makes a new one, `<name>-<time>`, once.",
    )


class Settings(Section):
    """Everything that a configuration file says."""

    platform: Literal["mvi", "sagemaker", "mobius", "memory"] = Field(
        default="mvi",
        description=(
            "Where the pictures go: `mvi` is IBM Maximo Visual Inspection, `sagemaker` is AWS SageMaker, `mobius` is a "
            "Mobius Vision SDK."
        ),
        json_schema_extra={"enum": ["mvi", "sagemaker", "mobius"]},
    )
    credentials: Credentials = Field(
        default_factory=dict,  # validated, so that the environment is looked at
        validate_default=True,
        description="The server, and who we are there.",
    )
    sagemaker: SageMaker = Field(
        default_factory=dict,  # validated, so that it is told what is missing
        validate_default=True,
        description="Where pictures and trainings go at AWS; only with the platform `sagemaker`.",
    )
    threshold: Threshold = Field(default_factory=Threshold, description="How many pictures are enough.")
    skip_duplicates: Switch = Field(
        default=True,
        description="Upload the same picture only once, whatever its name; hold it back when two categories claim it.",
    )
    recursive: Switch = Field(default=True, description="Watch the folders inside the category folders too.")
    time: Seconds = Field(
        default=10,
        ge=0,
        description="Seconds without a new picture before an upload starts, once the threshold is reached.",
    )
    category_from: Literal["first", "parent"] = Field(
        default="first",
        description="Which folder names the category: the `first` below the watched one, or the picture's `parent`.",
    )
    deletions: Literal["keep", "remove"] = Field(
        default="keep",
        description=(
            "`remove` deletes a picture at the server when its file is deleted here, after twice `watch.rescan`. Only "
            "deletions that are seen while this is set count."
        ),
    )
    max_removals: int | str = Field(
        default="20%",
        description=(
            "Most pictures of a category that are removed at once; more wait for `image-sync removals confirm`. A "
            'number, or a share like `"20%"` of the category, which always allows 10.'
        ),
        json_schema_extra={"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]},
    )
    repair: Literal["ask", "auto"] = Field(
        default="ask",
        description=(
            "What happens to pictures that somebody deleted at the server: `ask` says so and waits for "
            "`image-sync repair`, `auto` sends them again."
        ),
    )
    shutdown: Seconds = Field(
        default=20, ge=0, description="Seconds that running requests get when the daemon is stopped."
    )
    dataset: Dataset = Field(description="Where the pictures go.", examples=[{"name": "classifier"}])
    model: Model = Field(default_factory=Model, validate_default=True, description="What is trained.")
    folders: Annotated[tuple[Folder, ...], Field(strict=False)] = Field(
        min_length=1,
        description=(
            "Folders to watch, each with one folder per category in it. A relative path starts at this file's folder."
        ),
        examples=[["/data/pictures"]],
    )
    annotations: marks.Annotations = Field(
        default_factory=dict,  # validated, since what is trained decides what is left out
        validate_default=True,
        description="How annotations are used: boxes drawn in pictures, as files beside them.",
    )
    annotation_format: marks.Form = Field(default="auto", description=marks.FORM)
    exclude: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description=(
            "Files and folders that are left alone, in the syntax of .gitignore, below each watched folder. Folders "
            "that begin with `_` always are."
        ),
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
    state: State = Field(
        default=None,
        validate_default=True,
        description=(
            "Folder where image-sync remembers what is done, or `postgresql://user@host/database`. Left out: "
            "`$STATE_DIRECTORY`, or `~/.local/state/image-sync/` (`/var/lib/image-sync/` for files in /etc/image-sync)."
        ),
    )
    status: dict[str, Any] | None = Field(
        default=None, description="Reserved for the status page of a later version; ignored by this one."
    )
    notify: list[Any] | None = Field(
        default=None, description="Reserved for the notifications of a later version; ignored by this one."
    )
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
        return self.sagemaker.uri if self.platform == "sagemaker" else self.credentials.endpoint

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
        raise Mistake('is neither a number of pictures nor a share; write 50 or "20%"')

    @field_validator("platform", mode="before")
    @classmethod
    def _known_from_here_on(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            context_of(info).platform = value
        return value

    @field_validator("credentials", "sagemaker", "mobius", mode="before")
    @classmethod
    def _of_this_platform(cls, value: object, info: ValidationInfo) -> object:
        context, name = context_of(info), info.field_name or ""
        if (name,) not in context.places:
            return value
        if name == "credentials":
            if context.platform == "sagemaker":
                context.warn((name,), "is not used: AWS's own chain says who we are (environment, profile or role)")
                return {}
        elif name != context.platform:
            raise Mistake(f'stands beside another platform; write "platform": "{name}", or remove it', bare=True)
        return value

    @field_validator("model", mode="after")
    @classmethod
    def _named(cls, value: Model, info: ValidationInfo) -> Model:
        dataset = info.data.get("dataset")
        if info.data.get("platform") == mobius.PLATFORM:
            value = mobius.applicable(value, context_of(info))
        return value if value.name or not dataset else value.model_copy(update={"name": dataset.name})

    @field_validator("annotations", mode="before")
    @classmethod
    def _annotated(cls, value: object, info: ValidationInfo) -> object:
        return marks.section_of(value, info.data.get("model"))

    @field_validator("exclude", mode="after")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            texts.refuse_unprintable(pattern)
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                raise Mistake(f'has "{printable(pattern)}", which is not a pattern of .gitignore', bare=True) from None
        return value

    @field_validator("categories", mode="before")
    @classmethod
    def _folder_names(cls, value: object) -> object:
        seen: dict[str, str] = {}
        for key in value if isinstance(value, dict) else ():
            if not key.strip() or "/" in key or key in {".", ".."}:
                raise Mistake(f'has the key "{key}", which is not a folder name; write one folder\'s name', bare=True)
            texts.refuse_unprintable(key)
            twin = seen.setdefault(texts.composed(key), key)
            if twin != key:
                raise Mistake(f'has the keys "{twin}" and "{key}", which look the same; keep one', bare=True)
        return value

    @field_validator("categories", mode="after")
    @classmethod
    def _category_twins(cls, value: Mapping[str, str | None]) -> Mapping[str, str | None]:
        seen: dict[str, str] = {}
        for name in filter(None, value.values()):
            twin = seen.setdefault(texts.alike(name), name)
            if twin != name:
                raise Mistake(
                    f'has the categories "{twin}" and "{name}", which differ only in case; choose one', bare=True
                )
        return value

    @field_validator("status", "notify", mode="after")
    @classmethod
    def _not_yet(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            context_of(info).warn((info.field_name or "",), "belongs to a later version; this one ignores it")
        return value

    @model_validator(mode="after")
    def _look_around(self, info: ValidationInfo) -> Self:
        context = context_of(info)
        if self.upload.max_wait < self.time:
            context.warn(("upload", "max_wait"), f"{self.upload.max_wait:g} is less than time, which then never passes")
        if context.literal_secret and context.mode & 0o044:
            shown = printable(str(context.shown))
            context.warn((), f"it holds a secret and can be read by other users; run: chmod 600 {shown}")
        if self.platform == mobius.PLATFORM:
            mobius.judge(self, context)
        self._warnings = context.told()
        self._secret_files = tuple(context.secret_files)
        self._unread = context.told(context.unread)
        return self
