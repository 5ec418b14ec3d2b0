"""The hyper-parameters of SageMaker's image classification and object detection: names, ranges and relations.

After the algorithm pages of the SageMaker developer guide. The service itself only tells of a mistake when the
container has been started and paid for, so all that can be checked is checked when the file is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from image_sync.config.values import Range, nearest, show_value

_SHARE = Range(0, 1)
_RATE = Range(0, 1, open_low=True)
_OPEN = Range(0, 1, open_low=True, open_high=True)
_SHAPE = re.compile(r"([0-9]{1,5}) *, *([0-9]{1,5}) *, *([0-9]{1,5})")
_STEPS = re.compile(r"[0-9]{1,9}( *, *[0-9]{1,9})*")
CHANNELS = 3
"""Pictures are stored with three channels: the networks that were trained before know no others."""
PRETRAINED_SIDE = 224
DEEP_LAYERS = ("18", "34", "50", "101", "152", "200")
SMALL_LAYERS = ("20", "32", "44", "56", "110")
"""For pictures of about 28 pixels; none of them was trained before."""
BASE_NETWORKS = ("vgg-16", "resnet-50")
COMPUTED = ("num_classes", "num_training_samples")
"""What is counted at the start of each training, whatever the file says."""


Rule = Callable[[str], str]
"""What is wrong with a value as it is sent, and what to write instead; empty when nothing is."""


def _whole(low: int = 1, high: int = 10**9) -> Rule:
    allowed = Range(low, high)

    def wrong(text: str) -> str:
        if not re.fullmatch(r"-?[0-9]{1,15}", text):
            return f"is not a whole number; write {allowed}"
        return "" if allowed.holds(int(text)) else f"is out of range; write {allowed}"

    return wrong


def _real(allowed: Range) -> Rule:
    def wrong(text: str) -> str:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return f"is not a number; write {allowed}"
        return "" if allowed.holds(number) else f"is out of range; write {allowed}"

    return wrong


def _choice(*words: str) -> Rule:
    return lambda text: "" if text in words else f"is not one of the choices; write {_either(words)}"


def _form(pattern: re.Pattern[str], example: str) -> Rule:
    return lambda text: "" if pattern.fullmatch(text) else f"cannot be used; write {example}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


_SWITCH = _choice("0", "1")
_COMMON: dict[str, Rule] = {
    **dict.fromkeys(COMPUTED, _whole()),
    "use_pretrained_model": _SWITCH,
    "mini_batch_size": _whole(),
    "epochs": _whole(),
    "learning_rate": _real(_RATE),
    "lr_scheduler_step": _form(_STEPS, 'the epochs as a text, such as "10,20"'),
    "kv_store": _choice("dist_sync", "dist_async"),
    "early_stopping": _choice("True", "False"),
    "early_stopping_min_epochs": _whole(),
    "early_stopping_patience": _whole(),
    "early_stopping_tolerance": _real(_SHARE),
}
CLASSIFICATION: dict[str, Rule] = {
    **_COMMON,
    "num_layers": _choice(*DEEP_LAYERS, *SMALL_LAYERS),
    "image_shape": _form(_SHAPE, '"3,height,width", such as "3,224,224"'),
    "resize": _whole(),
    "lr_scheduler_factor": _real(_SHARE),
    "optimizer": _choice("sgd", "adam", "rmsprop", "nag"),
    "momentum": _real(_SHARE),
    "weight_decay": _real(_SHARE),
    "beta_1": _real(_SHARE),
    "beta_2": _real(_SHARE),
    "eps": _real(_SHARE),
    "gamma": _real(_SHARE),
    "augmentation_type": _choice("crop", "crop_color", "crop_color_transform"),
    "top_k": _whole(2),
    "multi_label": _SWITCH,
    "use_weighted_loss": _SWITCH,
    "precision_dtype": _choice("float32", "float16"),
    "checkpoint_frequency": _whole(),
}
DETECTION: dict[str, Rule] = {
    **_COMMON,
    "base_network": _choice(*BASE_NETWORKS),
    "image_shape": _whole(300, 10_000),
    "lr_scheduler_factor": _real(_OPEN),
    "optimizer": _choice("sgd", "adam", "rmsprop", "adadelta"),
    "momentum": _real(_RATE),
    "weight_decay": _real(_OPEN),
    "overlap_threshold": _real(_RATE),
    "nms_threshold": _real(_RATE),
    "label_width": _whole(),
    "freeze_layer_pattern": _form(re.compile(r".{1,2500}"), "a regular expression for the names of layers"),
}
NETWORKS = {
    **{f"resnet-{layers}": ("num_layers", layers) for layers in (*DEEP_LAYERS, *SMALL_LAYERS)},
    "ssd": ("base_network", ""),
    **{f"ssd-{base}": ("base_network", base) for base in BASE_NETWORKS},
}
"""What each ``nn_arch`` asks for: a parameter and its value, empty for the default."""
_ITERATIONS = _whole(1, 10**7)
_DROPPED = {
    "test_iter": "SageMaker validates once in each epoch, with all validation pictures",
    "test_interval": "SageMaker validates once in each epoch, with all validation pictures",
    "ratio": "the share of pictures that is trained on is sagemaker.split",
}
# What a parameter means nothing without: itself, the other one, and the values of that which give it a meaning.
_NEEDS = (
    ("early_stopping_min_epochs", "early_stopping", ("True",)),
    ("early_stopping_patience", "early_stopping", ("True",)),
    ("early_stopping_tolerance", "early_stopping", ("True",)),
    ("beta_1", "optimizer", ("adam",)),
    ("beta_2", "optimizer", ("adam",)),
    ("eps", "optimizer", ("adam", "rmsprop")),
    ("gamma", "optimizer", ("rmsprop",)),
    ("momentum", "optimizer", ("", "sgd", "nag")),
    ("weight_decay", "optimizer", ("", "sgd", "nag", "rmsprop")),
)


@dataclass(slots=True)
class Reading:
    """A ``model.strategy`` as SageMaker understands it.

    Attributes:
        values: SageMaker's names and the texts that are sent; what is computed is left out.
        max_iter: MVI's measure of length, where ``epochs`` is not given: becomes epochs when the pictures are counted.
        notes: what a person should know of one key although it can be used.
        mistakes: of one key, what is wrong and what to write instead.
    """

    values: dict[str, str] = field(default_factory=dict)
    max_iter: int | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)


def read(strategy: Mapping[str, object], *, detection: bool, nn_arch: str | None = None) -> Reading:
    """What the strategy means for this kind of training."""
    reading = Reading()
    rules = DETECTION if detection else CLASSIFICATION
    for key, value in strategy.items():
        text = _text(key, value)
        rule = _ITERATIONS if key == "max_iter" else rules.get(key)
        if key in _DROPPED:
            reading.notes.append((key, f"is not used: {_DROPPED[key]}"))
        elif rule is None:
            reading.mistakes.append((key, _unknown(key, rules, detection=detection)))
        elif wrong := rule(text):
            reading.mistakes.append((key, f"{show_value((), value)} {wrong}"))
        elif key == "max_iter":
            reading.max_iter = int(text)
            counted = "becomes epochs = max_iter x mini_batch_size / pictures trained on, counted at each start"
            reading.notes.append((key, counted))
        elif key in COMPUTED:
            reading.notes.append((key, "is counted when a training starts; the value here is not used"))
        else:
            reading.values[key] = "".join(text.split()) if key in {"image_shape", "lr_scheduler_step"} else text
    key, wanted = NETWORKS.get((nn_arch or "").lower(), ("", ""))
    if wanted and reading.values.setdefault(key, wanted) != wanted:
        given = reading.values[key]
        reading.mistakes.append((key, f'"{given}" contradicts model.nn_arch "{nn_arch}"; keep one of the two'))
    if reading.max_iter is not None and "epochs" in reading.values:
        reading.notes.append(("max_iter", "is not used, because epochs is given"))
        reading.max_iter = None
    reading.mistakes += _relations(reading.values)
    if not detection:
        reading.mistakes += _of_classifiers(reading.values)
    return reading


def epochs_of(max_iter: int, batch: int, samples: int) -> int:
    """How often all pictures must be seen until ``max_iter`` batches were.

    >>> epochs_of(1500, batch=32, samples=480)
    100
    """
    return max(1, math.ceil(max_iter * batch / samples))


def _text(key: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value) if key == "early_stopping" else str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 10**15 else f"{value:.12g}"
    text = str(value).strip()
    return text.capitalize() if key == "early_stopping" else text


def _relations(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, other, meanings in _NEEDS:
        if key in values and values.get(other, "") not in meanings:
            wanted = _either([word for word in meanings if word])
            yield key, f"means nothing unless {other} is {wanted}; remove it or set that"
    if "lr_scheduler_factor" in values and "lr_scheduler_step" not in values:
        yield "lr_scheduler_factor", "means nothing without lr_scheduler_step; add that"


def _of_classifiers(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if values.get("multi_label") == "1":
        yield "multi_label", "is not possible: each picture lies in one folder and has one category; remove it"
    if values.get("use_weighted_loss") == "1":
        yield "use_weighted_loss", "means nothing without multi_label; remove it"
    epochs = int(values.get("epochs", 30))
    if int(values.get("checkpoint_frequency", 0)) > epochs:
        yield "checkpoint_frequency", f"is more than the {epochs} epochs; write at most that"
    pretrained = values.get("use_pretrained_model", "1") == "1"
    if pretrained and values.get("num_layers") in SMALL_LAYERS:
        yield (
            "num_layers",
            f'has no pretrained network; write one of {_either(DEEP_LAYERS)}, or add "use_pretrained_model": 0',
        )
    channels, height, width = map(int, values.get("image_shape", "3,224,224").split(","))
    if channels != CHANNELS:
        yield "image_shape", f"has {channels} channels, but pictures are stored with {CHANNELS}; begin it with 3"
    if min(height, width) < 1:
        yield "image_shape", "has no size; write the height and width in pixels"
    elif pretrained and (height, width) != (PRETRAINED_SIDE, PRETRAINED_SIDE):
        wanted = f"3,{PRETRAINED_SIDE},{PRETRAINED_SIDE}"
        yield "image_shape", f'must be "{wanted}" for a pretrained network; or add "use_pretrained_model": 0'
    if "resize" in values and int(values["resize"]) < max(height, width):
        yield "resize", f"is less than the {max(height, width)} pixels of image_shape; write at least that"


def _unknown(key: str, rules: Mapping[str, Rule], *, detection: bool) -> str:
    kind = "object detection" if detection else "image classification"
    if meant := nearest(key, rules):
        return f'is not a hyper-parameter of {kind}; did you mean "{meant}"?'
    other = CLASSIFICATION if detection else DETECTION
    if key in other:
        return f"belongs to {'image classification' if detection else 'object detection'}; remove it, or see nn_arch"
    return f"is not a hyper-parameter of {kind}; known are {', '.join(sorted(rules))}"
