"""What one training was started with: frozen, and stored beside its lists before the job is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from image_sync.errors import Refused

FILE = "snapshot.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the request for the job, and later the reading of its model's answers, depends on."""

    name: str
    """Of the model to be."""
    dataset: str
    """Id of the dataset."""
    detection: bool
    classes: tuple[str, ...]
    """Categories or labels; the place in the list is the number."""
    samples: int
    """Pictures that are trained on."""
    validating: int
    """Pictures that are held out."""
    objects: int = 0
    """Most boxes in one picture."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Hyper-parameters from the configuration, under SageMaker's names."""
    max_iter: int | None = None
    base: str = ""
    """Id of the model that it continues from."""
    base_uri: str = ""
    """Where that lies."""
    cold: str = ""
    """Why it does not continue from a model although it was to; empty when there is nothing to explain."""
    manifests: tuple[str, ...] = ()
    """Sides whose pictures are picked by a manifest, because others lie beside them."""
    content_type: str = "application/x-image"

    def encoded(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Snapshot:
        """From a document. Raises Refused when it is none."""
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        try:
            return cls(**{**known, "classes": tuple(known["classes"]), "manifests": tuple(known.get("manifests", ()))})
        except (KeyError, TypeError) as error:
            raise Refused(f"A snapshot of a training is not what image-sync wrote: {error}") from error
