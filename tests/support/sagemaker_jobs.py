"""Training jobs and endpoints that behave as SageMaker's do, where moto's do not: they take time, learn, and fail."""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageStat

from image_sync.config.hyperparameters import CLASSIFICATION, DETECTION

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
STEPS = ("Starting", "Downloading", "Training", "Uploading")
ACCOUNT = "123456789012"


class Fault(Exception):  # noqa: N818 - it is an answer
    """An answer that is no success."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Failed(Exception):  # noqa: N818 - it is a way to end
    """A training ends like this."""


@dataclass
class Store:
    """The bucket, seen from inside."""

    read: Callable[[str], bytes | None]
    """URI -> content."""
    write: Callable[[str, bytes], None]
    keys: Callable[[str], list[str]]
    """URI prefix -> URIs that begin so."""


@dataclass
class Job:
    """One training job."""

    body: dict[str, Any]
    created: float
    looks: int = 0
    status: str = "InProgress"
    secondary: str = "Starting"
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    ended: float | None = None


@dataclass
class Served:
    """One endpoint."""

    config: str
    status: str = "Creating"
    pending: str = ""
    looks: int = 0
    reason: str = ""


class Control:
    """SageMaker's control plane and runtime for one account and region. Calls come one at a time.

    Attributes:
        failing: reasons with which the next jobs end instead of being trained.
        quotas: instance type -> how many jobs it may train; without an entry any number.
        held: names of jobs that do not move.
        unseen: how often an endpoint's configuration, just made, is not seen yet.
        logs: job -> the lines that it writes.
        requests: operation and body of every call, in order.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = threading.RLock()
        self.jobs: dict[str, Job] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, Served] = {}
        self.failing: list[str] = []
        self.failing_endpoints: list[str] = []
        self.quotas: dict[str, int] = {}
        self.held: set[str] = set()
        self.unseen = 0
        self.logs: dict[str, list[str]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operation of the control plane. Raises Fault."""
        method = getattr(self, f"_{re.sub(r'(?<!^)(?=[A-Z])', '_', operation).lower()}", None)
        if method is None:
            raise Fault("UnknownOperationException", operation, 404)
        with self.lock:
            self.requests.append((operation, body))
            found: dict[str, Any] = method(body)
            return found

    def made(self, operation: str = "CreateTrainingJob") -> list[dict[str, Any]]:
        """The bodies of these calls."""
        return [body for name, body in self.requests if name == operation]

    # trainings

    def _create_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["TrainingJobName"]
        if not NAME.fullmatch(name) or len(name) > 63:
            raise Fault("ValidationException", "Member must satisfy regular expression pattern")
        if name in self.jobs:
            raise Fault("ResourceInUse", f"{name}: a training job with this name already exists")
        if not all(isinstance(value, str) for value in body["HyperParameters"].values()):
            raise Fault("SerializationException", "not a string")
        stopping, spot = body["StoppingCondition"], body.get("EnableManagedSpotTraining", False)
        if spot and stopping.get("MaxWaitTimeInSeconds", 0) < stopping["MaxRuntimeInSeconds"]:
            raise Fault("ValidationException", "MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds")
        machine = body["ResourceConfig"]["InstanceType"]
        if self.quotas.get(machine, 1) < 1:
            raise Fault("ResourceLimitExceeded", f"The account-level service limit '{machine} for training job' is 0")
        for channel in body["InputDataConfig"]:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not self.store.keys(uri):
                raise Fault("ValidationException", f"No S3 objects found under S3 URL {uri} given in input data source")
        self.jobs[name] = Job(body, time.time())
        return {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name}"}

    def _describe_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self._job(body)
        if job.status in {"InProgress", "Stopping"} and body["TrainingJobName"] not in self.held:
            self._move(job)
        output = job.body["OutputDataConfig"]["S3OutputPath"]
        found = {
            **{key: value for key, value in job.body.items() if key != "Tags"},
            "TrainingJobStatus": job.status,
            "SecondaryStatus": job.secondary,
            "CreationTime": job.created,
            **({"BillableTimeInSeconds": 556} if job.ended is not None else {}),
            "LastModifiedTime": job.ended or job.created,
            "FinalMetricDataList": [
                {"MetricName": key, "Value": value, "Timestamp": job.created} for key, value in job.metrics.items()
            ],
        }
        if job.reason:
            found["FailureReason"] = job.reason
        if job.ended is not None:
            found["TrainingEndTime"] = job.ended
        if job.status == "Completed":
            artifact = f"{output.rstrip('/')}/{body['TrainingJobName']}/output/model.tar.gz"
            found["ModelArtifacts"] = {"S3ModelArtifacts": artifact}
        return found

    def _list_training_jobs(self, body: dict[str, Any]) -> dict[str, Any]:
        names = [
            name
            for name, job in self.jobs.items()
            if body.get("NameContains", "") in name and body.get("StatusEquals", job.status) == job.status
        ]
        start, most = int(body.get("NextToken", 0)), body.get("MaxResults", 10)
        page = names[start : start + most]
        rows = [
            {
                "TrainingJobName": name,
                "TrainingJobArn": f"arn:{name}",
                "CreationTime": self.jobs[name].created,
                "TrainingJobStatus": self.jobs[name].status,
            }
            for name in page
        ]
        more = {"NextToken": str(start + most)} if start + most < len(names) else {}
        return {"TrainingJobSummaries": rows, **more}

    def _stop_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self._job(body)
        if job.status != "InProgress":
            raise Fault("ValidationException", f"The training job is in status {job.status}.")
        job.status = job.secondary = "Stopping"
        return {}

    def _filter_log_events(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.jobs:
            raise Fault("ResourceNotFoundException", "The specified log group does not exist.")
        lines = self.logs.get(body["logStreamNamePrefix"].partition("/")[0], [])
        at = int(body.get("nextToken", 0))
        more = {"nextToken": str(at + 2)} if at + 2 < len(lines) else {}
        return {"events": [{"message": f"{line}\n"} for line in lines[at : at + 2]], **more}

    def _delete_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._job(body).status in {"InProgress", "Stopping"}:
            raise Fault("ValidationException", "The training job is not in a terminal status.")
        del self.jobs[body["TrainingJobName"]]
        return {}

    def _job(self, body: dict[str, Any]) -> Job:
        if body["TrainingJobName"] not in self.jobs:
            raise Fault("ValidationException", "Requested resource not found.")
        return self.jobs[body["TrainingJobName"]]

    def _move(self, job: Job) -> None:
        job.looks += 1
        if job.status == "Stopping":
            job.status = job.secondary = "Stopped"
        elif job.looks < len(STEPS):
            job.secondary = STEPS[job.looks]
            return
        else:
            try:
                job.reason = self.failing.pop(0) if self.failing else ""
                job.metrics = {} if job.reason else train(job.body, self.store)
            except Failed as error:
                job.reason = str(error)
            job.status = job.secondary = "Failed" if job.reason else "Completed"
        job.ended = time.time()

    # models and endpoints

    def _create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        self._new(self.models, body["ModelName"], "model")
        if self.store.read(body["PrimaryContainer"]["ModelDataUrl"]) is None:
            raise Fault("ValidationException", "Could not find model data")
        self.models[body["ModelName"]] = body
        return {"ModelArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:model/{body['ModelName']}"}

    def _delete_model(self, body: dict[str, Any]) -> dict[str, Any]:
        self._there(self.models, body["ModelName"], "model")
        del self.models[body["ModelName"]]
        return {}

    def _create_endpoint_config(self, body: dict[str, Any]) -> dict[str, Any]:
        self._new(self.configs, body["EndpointConfigName"], "endpoint configuration")
        for variant in body["ProductionVariants"]:
            self._there(self.models, variant["ModelName"], "model")
        self.configs[body["EndpointConfigName"]] = body
        return {"EndpointConfigArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint-config/{body}"[:90]}

    def _list_endpoint_configs(self, body: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in self.configs if body.get("NameContains", "") in name]
        rows = [{"EndpointConfigName": name, "EndpointConfigArn": f"arn:{name}", "CreationTime": 0} for name in names]
        return {"EndpointConfigs": rows}

    def _delete_endpoint_config(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointConfigName"]
        self._there(self.configs, name, "endpoint configuration")
        if any(name in {served.config, served.pending} for served in self.endpoints.values()):
            raise Fault("ValidationException", f"Endpoint configuration {name} is in use")
        del self.configs[name]
        return {}

    def _create_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        self._new(self.endpoints, body["EndpointName"], "endpoint")
        if self.unseen:
            self.unseen -= 1
            raise Fault("ValidationException", 'Could not find endpoint configuration "x".')
        self._there(self.configs, body["EndpointConfigName"], "endpoint configuration")
        self.endpoints[body["EndpointName"]] = Served(body["EndpointConfigName"])
        return {"EndpointArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/{body['EndpointName']}"}

    def _update_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        served = self._there(self.endpoints, body["EndpointName"], "endpoint")
        self._there(self.configs, body["EndpointConfigName"], "endpoint configuration")
        if served.status != "InService":
            raise Fault("ValidationException", "Cannot update in-progress endpoint")
        served.status, served.pending, served.looks = "Updating", body["EndpointConfigName"], 0
        return {"EndpointArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/{body['EndpointName']}"}

    def _describe_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointName"]
        served = self._there(self.endpoints, name, "endpoint")
        served.looks += 1
        if served.looks > 1:
            self._serve(name, served)
        self._there(self.endpoints, name, "endpoint")
        return {
            "EndpointName": name,
            "EndpointArn": f"arn:{name}",
            "EndpointConfigName": served.config,
            "EndpointStatus": served.status,
            "CreationTime": 0,
            "LastModifiedTime": 0,
            **({"FailureReason": served.reason} if served.reason else {}),
        }

    def _serve(self, name: str, served: Served) -> None:
        if served.status == "Deleting":
            del self.endpoints[name]
        elif served.status in {"Creating", "Updating"} and self.failing_endpoints:
            served.reason, served.pending = self.failing_endpoints.pop(0), ""
            served.status = "Failed" if served.status == "Creating" else "InService"
        elif served.status in {"Creating", "Updating"}:
            served.config, served.pending = served.pending or served.config, ""
            served.status = "InService"

    def _delete_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        served = self._there(self.endpoints, body["EndpointName"], "endpoint")
        if served.status in {"Creating", "Updating"}:
            raise Fault("ValidationException", "Cannot delete in-progress endpoint")
        served.status, served.looks = "Deleting", 0
        return {}

    def invoke(self, name: str, picture: bytes) -> bytes:
        """What the endpoint's model says of a picture. Raises Fault."""
        with self.lock:
            served = self.endpoints.get(name)
            if served is None or served.status not in {"InService", "Updating"}:
                raise Fault("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
            model = self.configs[served.config]["ProductionVariants"][0]["ModelName"]
            archive = self.store.read(self.models[model]["PrimaryContainer"]["ModelDataUrl"])
        assert archive is not None
        with tarfile.open(fileobj=io.BytesIO(archive)) as file:
            learned = json.loads(file.extractfile("model_algo_1-symbol.json").read())  # type: ignore[union-attr]
        try:
            return json.dumps(_answer(learned, picture)).encode()
        except OSError as error:
            raise Fault("ModelError", f"Unable to decode image: {error}", 400) from None

    @staticmethod
    def _new(kept: dict[str, Any], name: str, noun: str) -> None:
        if not NAME.fullmatch(name) or len(name) > 63:
            raise Fault("ValidationException", "Member must satisfy regular expression pattern")
        if name in kept:
            raise Fault("ValidationException", f'Cannot create already existing {noun} "arn:aws:sagemaker:{name}".')

    @staticmethod
    def _there(kept: dict[str, Any], name: str, noun: str) -> Any:
        if name not in kept:
            raise Fault("ValidationException", f'Could not find {noun} "{name}".')
        return kept[name]


def train(body: dict[str, Any], store: Store) -> dict[str, float]:
    """Read the channels as the algorithms would, learn, store the model. Returns its metrics. Raises Failed."""
    values = body["HyperParameters"]
    detection = "object-detection" in body["AlgorithmSpecification"]["TrainingImage"]
    unknown = values.keys() - (DETECTION if detection else CLASSIFICATION)
    if unknown:
        raise Failed(f"ClientError: Additional properties are not allowed ({unknown} was unexpected)")
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"] for one in body["InputDataConfig"]}
    learned, metrics = (_detect if detection else _classify)(channels, values, store)
    learned["values"] = values
    if "model" in channels:
        _same_network(store.read(channels["model"]["S3Uri"]), values, detection=detection)
    target = f"{body['OutputDataConfig']['S3OutputPath']}/{body['TrainingJobName']}/output/model.tar.gz"
    store.write(target, _archive(learned))
    return metrics


def _classify(
    channels: dict[str, Any], values: dict[str, str], store: Store
) -> tuple[dict[str, Any], dict[str, float]]:
    rows = {side: list(_listed(channels, side, store)) for side in ("train", "validation")}
    if len(rows["train"]) != int(values["num_training_samples"]):
        raise Failed("ClientError: num_training_samples is not the number of lines")
    if int(values["mini_batch_size"]) > min(map(len, rows.values())):
        raise Failed("ClientError: The number of input images must be bigger or equal to the mini_batch_size.")
    classes = range(int(values["num_classes"]))
    if {number for number, _ in rows["train"]} != set(classes):
        raise Failed("ClientError: class numbers do not run from 0 to num_classes - 1")
    means = []
    for number in classes:
        colours = [colour for one, colour in rows["train"] if one == number]
        means.append([sum(channel) / len(colours) for channel in zip(*colours, strict=True)])
    right = [number == _nearest(means, colour) for number, colour in rows["validation"]]
    return {"means": means}, {"train:accuracy": 1.0, "validation:accuracy": sum(right) / len(right)}


def _listed(channels: dict[str, Any], side: str, store: Store) -> Iterator[tuple[int, list[float]]]:
    (uri,) = [one for one in store.keys(channels[f"{side}_lst"]["S3Uri"]) if one.endswith(".lst")]
    text = (store.read(uri) or b"").decode()
    root, allowed = _source(channels[side], store)
    seen = set()
    for line in text.splitlines():
        number, label, path = line.split("\t")
        seen.add(number)
        content = store.read(root + path)
        if content is None or (allowed is not None and path not in allowed) or not path.endswith((".jpg", ".png")):
            raise Failed(f"ClientError: there is no picture {path}")
        yield int(label), _colour(content)
    if len(seen) != len(text.splitlines()):
        raise Failed("ClientError: numbers of lines are not unique")


def _source(channel: dict[str, Any], store: Store) -> tuple[str, set[str] | None]:
    """What the channel's paths lie below, and which of them it holds; None: all."""
    if channel["S3DataType"] != "ManifestFile":
        return channel["S3Uri"], None
    head, *paths = json.loads(store.read(channel["S3Uri"]) or b"")
    return head["prefix"], set(paths)


def _detect(channels: dict[str, Any], values: dict[str, str], store: Store) -> tuple[dict[str, Any], dict[str, float]]:
    rows = {side: list(_annotated(channels, side, store)) for side in ("train", "validation")}
    if len(rows["train"]) != int(values["num_training_samples"]):
        raise Failed("ClientError: num_training_samples is not the number of annotations")
    widest = max(len(boxes) for side in rows.values() for boxes in side)
    if int(values["label_width"]) < 5 * widest + 2:
        raise Failed("ClientError: Invalid parameter value 'label_width'")
    numbers = {int(box[0]) for boxes in rows["train"] for box in boxes}
    colours = _colours_of_objects(channels, store)
    if numbers != set(range(int(values["num_classes"]))):
        raise Failed("ClientError: class ids do not run from 0 to num_classes - 1")
    boxes = []
    for number in sorted(numbers):
        mine = [box[1:] for boxes_ in rows["train"] for box in boxes_ if box[0] == number]
        boxes.append([number, *(sum(side) / len(mine) for side in zip(*mine, strict=True))])
    return {"boxes": boxes, "colours": colours}, {"train:cross_entropy": 0.5, "validation:mAP": 0.75}


def _colours_of_objects(channels: dict[str, Any], store: Store) -> dict[str, list[list[float]]]:
    """Class number -> the colour inside its boxes, and that of whole pictures, from the first pictures."""
    inside: dict[str, list[list[float]]] = {}
    source, _ = _source(channels["train"], store)
    for uri in store.keys(channels["train_annotation"]["S3Uri"])[:20]:
        document = json.loads(store.read(uri) or b"")
        content = store.read(source + document["file"])
        if content is None:
            continue
        image = Image.open(io.BytesIO(content))
        for one in document["annotations"]:
            x, y = one["left"] + one["width"] // 2, one["top"] + one["height"] // 2
            middle = image.crop((x - 2, y - 2, x + 3, y + 3))
            inside[str(one["class_id"])] = [list(ImageStat.Stat(middle).mean), list(ImageStat.Stat(image).mean)]
    return inside


def _seen(picture: bytes, colours: list[list[float]] | None, usual: list[float]) -> list[float]:
    """Where the pixels are that look like the object; the usual place if nothing sets it apart."""
    if colours is None or math.dist(*colours) < 60:
        return usual
    image = Image.open(io.BytesIO(picture))
    like = [math.dist(pixel, colours[0]) < math.dist(pixel, colours[1]) for pixel in _pixels(image)]
    mask = Image.new("L", image.size)
    mask.putdata([255 * one for one in like])
    left, top, right, bottom = mask.getbbox() or (0, 0, *image.size)
    return [left / image.width, top / image.height, right / image.width, bottom / image.height]


def _pixels(image: Image.Image) -> Iterator[tuple[int, ...]]:
    raw = image.tobytes()
    return (tuple(raw[at : at + 3]) for at in range(0, len(raw), 3))


def _annotated(channels: dict[str, Any], side: str, store: Store) -> Iterator[list[list[float]]]:
    root, allowed = _source(channels[side], store)
    documents = [json.loads(store.read(uri) or b"") for uri in store.keys(channels[f"{side}_annotation"]["S3Uri"])]
    files = {document["file"] for document in documents}
    if files != (allowed or {uri.removeprefix(root) for uri in store.keys(root)}):
        raise Failed("ClientError: pictures and annotations do not match")
    for document in documents:
        content = store.read(root + document["file"])
        size = document["image_size"][0]
        if content is None or Image.open(io.BytesIO(content)).size != (size["width"], size["height"]):
            raise Failed(f"ClientError: {document['file']} is not as large as said")
        yield [
            [
                one["class_id"],
                one["left"] / size["width"],
                one["top"] / size["height"],
                (one["left"] + one["width"]) / size["width"],
                (one["top"] + one["height"]) / size["height"],
            ]
            for one in document["annotations"]
        ]


def _same_network(archive: bytes | None, values: dict[str, str], *, detection: bool) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive or b"")) as file:
        before = json.loads(file.extractfile("model_algo_1-symbol.json").read())["values"]  # type: ignore[union-attr]
    for key in ("num_classes", "base_network" if detection else "num_layers", "image_shape"):
        if before[key] != values[key]:
            raise Failed(f"ClientError: {key} is not that of the model")


def _colour(picture: bytes) -> list[float]:
    image = Image.open(io.BytesIO(picture))
    if image.mode != "RGB":
        raise Failed(f"ClientError: the picture has the mode {image.mode}")
    return list(ImageStat.Stat(image).mean)


def _nearest(means: list[list[float]], colour: list[float]) -> int:
    return min(range(len(means)), key=lambda number: math.dist(means[number], colour))


def _answer(learned: dict[str, Any], picture: bytes) -> object:
    if "boxes" in learned:
        rows = [
            [float(number), 0.9 - 0.1 * number, *_seen(picture, learned["colours"].get(str(number)), box)]
            for number, *box in learned["boxes"]
        ]
        return {"prediction": [*rows, [0.0, 0.01, 0.0, 0.0, 1.0, 1.0]]}
    near = [math.exp(-math.dist(mean, _colour(picture)) / 20) for mean in learned["means"]]
    return [one / sum(near) for one in near]


def _archive(learned: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    content = json.dumps(learned).encode()
    with tarfile.open(fileobj=target, mode="w:gz") as file:
        entry = tarfile.TarInfo("model_algo_1-symbol.json")
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    return target.getvalue()
