"""The hyper-parameters of one training: the configuration's, the counted ones, and defaults for the rest."""

from __future__ import annotations

from image_sync.config.hyperparameters import epochs_of
from image_sync.config.sagemaker import gpus_of
from image_sync.errors import Refused
from image_sync.platforms.sagemaker.markings import width_of
from image_sync.platforms.sagemaker.snapshot import Snapshot

_CLASSIFICATION = {
    "num_layers": "50",
    "image_shape": "3,224,224",
    "resize": "256",
    "epochs": "30",
    "learning_rate": "0.01",
}
"""AWS's own learning rate, 0.1, is for training from nothing."""
_DETECTION = {"base_network": "resnet-50", "image_shape": "300", "epochs": "30", "learning_rate": "0.001"}
_BATCH = 32
_SMALL = 128
"""Pixels: so small a picture need not be made larger than its shape first."""


def network_of(snapshot: Snapshot) -> dict[str, str]:
    """What must be the same in a model that a training continues from."""
    defaults = _DETECTION if snapshot.detection else _CLASSIFICATION
    names = ("base_network", "image_shape") if snapshot.detection else ("num_layers", "image_shape")
    return {name: snapshot.values.get(name, defaults[name]) for name in names}


def hyperparameters(snapshot: Snapshot, instance_type: str, instance_count: int) -> dict[str, str]:
    """Everything that is sent, all as texts.

    Raises:
        Refused: there are too few pictures for these machines, or a figure contradicts the pictures.
    """
    values = dict(snapshot.values)
    batch = _batch(snapshot, gpus_of(instance_type))
    if snapshot.max_iter is not None:
        values.setdefault("epochs", str(epochs_of(snapshot.max_iter, batch * instance_count, snapshot.samples)))
    if snapshot.base_uri:
        values.pop("use_pretrained_model", None)  # it would be ignored beside a model of ours
    else:
        values.setdefault("use_pretrained_model", "1")
    if snapshot.detection:
        values["label_width"] = str(max(int(values.get("label_width", 0)), width_of(snapshot.objects)))
    else:
        _resize(values)
    if int(values.get("top_k", 0)) > len(snapshot.classes):
        raise Refused(
            f"top_k is {values['top_k']}, but the training has only {len(snapshot.classes)} classes",
            hint="Lower it in model.strategy, or remove it",
        )
    if instance_count == 1:
        values.pop("kv_store", None)
    return {
        **(_DETECTION if snapshot.detection else _CLASSIFICATION),
        **values,
        "mini_batch_size": str(batch),
        "num_classes": str(len(snapshot.classes)),
        "num_training_samples": str(snapshot.samples),
    }


def _batch(snapshot: Snapshot, gpus: int) -> int:
    """At most what is configured, and no more than there are pictures on either side; each GPU gets the same share."""
    most = min(int(snapshot.values.get("mini_batch_size", _BATCH)), snapshot.samples, snapshot.validating)
    batch = most - most % gpus
    if batch < 1:
        raise Refused(
            f"{snapshot.samples} pictures to train on and {snapshot.validating} to validate with are too few for a "
            f"machine with {gpus} GPUs",
            hint="Add pictures, or name a smaller machine in sagemaker.instance_types",
        )
    return batch


def _resize(values: dict[str, str]) -> None:
    if "resize" not in values and "image_shape" in values:
        longest = max(int(side) for side in values["image_shape"].split(",")[1:])
        values["resize"] = str(longest if longest <= _SMALL else max(longest, int(_CLASSIFICATION["resize"])))
