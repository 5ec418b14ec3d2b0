"""A Mobius SDK as a platform of ours, and its models: what the protocols promise, said through ``api``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound, Refused, Transient, Unanswered, Unsupported
from image_sync.platforms.base import Adapter, Model, PlatformState, Prediction, Site, Traits
from image_sync.platforms.http import Client, Timeouts
from image_sync.platforms.mobius.api import Api
from image_sync.platforms.mobius.assign import Assigner
from image_sync.platforms.mobius.pictures import Pictures
from image_sync.platforms.mobius.records import Records, Training, short
from image_sync.platforms.mobius.scores import scores
from image_sync.platforms.mobius.tags import NEGATIVE, Naming, Rule
from image_sync.platforms.mobius.trainings import Trainings

_BATCH = 10
"""Pictures in one batch: each is a request of its own, and several threads share the work by batches."""
_NOBODY = "0" * 32


class MobiusPlatform:
    """A Mobius Vision SDK, or its emulator.

    Args:
        endpoint: its address, without a slash at the end.
        state: what the server cannot be asked; see ``records.py``.
        negatives, max_negatives, parallel, tags: see the section ``mobius`` of the configuration.
        grace: seconds in which a request without an answer may still be carried out, and a tag's training ends.
        verify: whether to check the server's certificate, or a file with those to trust.
        proxy: URL of a proxy.
        batch_files, batch_bytes: most pictures and bytes for one batch, as configured.
        timeouts: of requests; adding a picture gets the time on top that its bytes need on a slow line.
        stop: ends what takes long.
        alive: called for each request, and each block of it.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        stop: threading.Event,
        state: PlatformState,
        negatives: str = "others",
        max_negatives: int = 200,
        parallel: int = 4,
        tags: Naming = "category",
        grace: float = 600.0,
        verify: bool | str = True,
        proxy: str = "",
        batch_files: int = _BATCH,
        batch_bytes: int = 32 * 2**20,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        client = Client(endpoint, verify=verify, proxy=proxy, timeouts=timeouts, alive=alive)
        self.api = Api(client, timeouts, parallel)
        records = Records(state)
        assigner = Assigner(self.api, records, parallel, stop)
        self.pictures = Pictures(self.api, records, tags, stop)
        rule = Rule(negatives, max_negatives)
        self.trainings = Trainings(self.api, records, self.pictures, assigner, tags, rule, grace=grace)
        self.models = Models(self.api, records, assigner)
        self.traits = Traits(
            name="mobius",
            who=f"The Mobius SDK at {urlsplit(endpoint).netloc}",
            batch_files=min(batch_files, _BATCH),
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            # The server wants one positive; whatever a tag is not comes from another category, or from _negative_.
            min_categories=2 if negatives == "others" else 1,
            min_pictures=1,
            idempotent_uploads=True,
            idempotent_starts=True,
            lists_pictures=False,
            keeps_models=False,
            negatives=NEGATIVE,
        )

    def sign_in(self) -> None:
        """Ask for a task that nobody has: there is no account, but something must answer, in the right words."""
        try:
            self.api.status(_NOBODY, "Signing in")
        except Unanswered:
            raise
        except Transient as error:
            hint = "Check credentials.endpoint and port: is it a Mobius SDK that answers there?"
            raise Transient(error.what, hint=hint, retry_after=error.retry_after) from error

    def close(self) -> None:
        """Close the connections."""
        self.api.close()


class Models:
    """The model part: a dataset has one model, the tags as the last training left them."""

    def __init__(self, api: Api, records: Records, assigner: Assigner) -> None:
        self._api = api
        self._records = records
        self._assigner = assigner

    def of_dataset(self, dataset: DatasetRef) -> list[Model]:
        """The one there is."""
        current = self._records.current(dataset.id)
        return [] if current is None else [self._model(current)]

    def of_task(self, task_id: str) -> Model | None:
        """The model, once the training ended well for any tag."""
        training = self._records.training(task_id)
        return self._model(training) if training is not None and training.succeeded else None

    def deploy(self, model: Model) -> None:
        """Nothing to do: tags answer as soon as they are trained."""

    def undeploy(self, model: Model) -> None:
        """Not here; an earlier model than the present one is out of service anyway."""
        current = self._records.current(model.dataset_id)
        if current is not None and current.id == model.id:
            raise Unsupported(
                f"The model {model.name} cannot be taken from service: tags answer as soon as they are trained",
                hint=f"To reset its tags: image-sync models delete {model.name}",
            )

    def predict(self, model: Model, picture: bytes) -> list[Prediction]:
        """What the dataset's tags say of the picture, each for itself."""
        tags = {tag.name: tag.category for tag in self._records.tags(model.dataset_id) if tag.trained is not None}
        if not tags:
            raise NotFound(f"The model {model.name} has no trained tags at the Mobius SDK")
        found = {score.tag: score.value for score in scores(self._api.predict(picture), tags=tags)}
        predictions = [Prediction(tags[tag], value) for tag, value in found.items()]
        return sorted(predictions, key=lambda one: -one.confidence)

    def export(self, model: Model, to: Path) -> Path:  # noqa: ARG002 - the protocol
        """Not here."""
        raise Unsupported(
            f"The model {model.name} cannot be exported: a Mobius SDK 1.5 documents no call for it",
            hint="Ask the server's operator for a state file",
        )

    def import_model(self, source: Path) -> Model:
        """Not here: a state file is no model of one dataset, it takes the place of everything on the server."""
        raise Unsupported(
            f"{source.name} would replace everything on the Mobius SDK, for everybody who uses it",
            hint=f"If that is what you want: image-sync mobius set-state {source.name}",
        )

    def delete(self, model: Model) -> None:
        """Reset its tags, so that they answer no more. Their pictures are assigned anew at the next training."""
        tags = self._records.tags(model.dataset_id)
        if any(tag.start is not None and tag.start.run for tag in tags):
            raise Refused(f"The model {model.name} is being trained", hint="Wait until it has ended, and try again")
        attempts = self._records.attempts()
        for tag in tags:
            if tag.trained is not None or tag.start is not None:
                self._records.save(self._assigner.reset(tag, attempts.get(short(tag.name), {}), ""), start=None)
        for training in self._records.trainings(model.dataset_id):
            self._records.forget_training(training)

    def _model(self, training: Training) -> Model:
        tags = self._records.tags(training.dataset)
        return Model(
            id=training.id,
            name=training.name,
            dataset_id=training.dataset,
            categories=tuple(tag.category for tag in tags if tag.trained is not None),
            created_at=training.ended,
            deployed=True,
        )


def make(site: Site) -> MobiusPlatform:
    """The Mobius SDK of the settings."""
    who, upload, how = site.settings.credentials, site.settings.upload, site.settings.mobius
    return MobiusPlatform(
        who.endpoint,
        stop=site.stop,
        state=site.state,
        negatives=how.negatives,
        max_negatives=how.max_negatives,
        parallel=how.parallel,
        tags=how.tags,
        grace=site.settings.model.grace,
        verify=who.trust,
        proxy=who.proxy or "",
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeouts=Timeouts.of(upload.timeout),
        alive=site.alive,
    )


ADAPTER = Adapter(make)
