"""The settings about annotations: boxes drawn in pictures, as files beside them."""

from __future__ import annotations

from typing import Literal

from image_sync.config.model import Model

Mode = Literal["required", "optional", "none"]
Form = Literal["auto", "voc", "coco", "yolo", "sagemaker"]

MODE = (
    "Whether a picture's annotation (the file that says which objects are where in it) is sent with it. `required`: a "
    "picture waits until its annotation is there; `optional`: it goes without if there is none; `none`: annotations "
    "are not looked for. Left out: `required` for a detection `nn_arch`, else `none`."
)
FORM = (
    "Which files are taken for annotations: `voc` (Pascal VOC, XML), `coco` and `sagemaker` (JSON), `yolo` (text), or "
    "`auto` for all of them."
)


def mode_or_default(value: object, model: Model | None) -> object:
    """What is configured; else what is trained decides."""
    if value is not None:
        return value
    return "required" if model is not None and model.is_detection else "none"
