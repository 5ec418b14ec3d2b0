"""S3 in its own words: one method for each operation that we use, all in the one bucket unless a URI says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from image_sync.errors import NotFound, PlatformError
from image_sync.platforms.sagemaker import wire
from image_sync.platforms.sagemaker.calls import Calls
from image_sync.platforms.sagemaker.outcomes import Said, error_of, sanitize

_PIECE = 1 << 20
_CHECKSUM = "CRC32"


class Objects(Calls):
    """The operations on objects."""

    def bucket_region(self) -> str:
        """``HeadBucket``: the region that the bucket lies in."""
        answer = self._call("s3", "head_bucket", f"Looking at the bucket {self.bucket}", Bucket=self.bucket)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or "")

    def put(
        self, key: str, body: bytes | IO[bytes], *, unless_there: bool = False, match: str = "", **more: Any
    ) -> str:
        """``PutObject``: its ETag.

        Raises:
            Taken: with ``unless_there``, the key is there already; with ``match``, it no longer has that ETag.
        """
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if unless_there else {"IfMatch": match} if match else {}
        what = f"Storing {sanitize(key)}"
        answer = self._call("s3", "put_object", what, **self._at(key), Body=body, **condition, **self._sealed(), **more)
        return str(answer["ETag"])

    def put_large(self, key: str, body: IO[bytes], piece: int, **more: Any) -> None:
        """``CreateMultipartUpload`` and what follows; a half one is given up.

        Raises:
            Taken: the key is there already.
        """
        what, at = f"Storing {sanitize(key)}", self._at(key)
        # Without the algorithm's name at the beginning, S3 may refuse parts that come with a checksum at the end.
        sealed: dict[str, Any] = {**self._sealed(), "ChecksumAlgorithm": _CHECKSUM}
        begun = self._call("s3", "create_multipart_upload", what, **at, **sealed, **more)
        upload: dict[str, Any] = {**at, "UploadId": begun["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while chunk := body.read(piece):
                number = len(parts) + 1
                part: dict[str, Any] = {"PartNumber": number, "ChecksumAlgorithm": _CHECKSUM}
                told = self._call("s3", "upload_part", what, **upload, **part, Body=chunk)
                sums = {name: told[name] for name in ("ETag", f"Checksum{_CHECKSUM}") if name in told}
                parts.append({**sums, "PartNumber": number})
            finish: dict[str, Any] = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            self._call("s3", "complete_multipart_upload", what, **upload, **finish)
        except BaseException:
            self._give_up(upload)
            raise

    def _give_up(self, upload: dict[str, Any]) -> None:
        try:
            self._call("s3", "abort_multipart_upload", "Giving up a half upload", **upload)
        except PlatformError:
            return  # the bucket's life cycle rules remove what is left of it

    def get(self, key: str) -> tuple[bytes, str]:
        """``GetObject``: the whole of a small object, and its ETag. Raises NotFound."""
        what = f"Reading {sanitize(key)}"
        answer = self._call("s3", "get_object", what, **self._at(key))
        return self._body(what, answer), str(answer["ETag"])

    def fetch(self, uri: str, sink: Callable[[bytes], object]) -> None:
        """``GetObject`` of any size into ``sink``. Raises NotFound."""
        what = f"Reading {sanitize(uri)}"
        body = self._call("s3", "get_object", what, **_parts(uri))["Body"]
        while chunk := self._guarded(what, lambda: body.read(_PIECE)):
            sink(chunk)

    def copy(self, source: str, target: str) -> None:
        """``CopyObject`` from one S3 URI to another; at most 5 GB. Raises NotFound."""
        what = f"Copying {sanitize(source)} to {sanitize(target)}"
        self._call("s3", "copy_object", what, **_parts(target), CopySource=_parts(source))

    def put_at(self, uri: str, body: bytes) -> None:
        """``PutObject`` to any S3 URI."""
        self._call("s3", "put_object", f"Storing {sanitize(uri)}", **_parts(uri), Body=body)

    def head(self, key: str) -> wire.Object:
        """``HeadObject``. Raises NotFound."""
        answer = self._call("s3", "head_object", f"Looking at {sanitize(key)}", **self._at(key))
        modified = answer["LastModified"].timestamp()
        return wire.Object(key, int(answer["ContentLength"]), modified, answer.get("Metadata", {}))

    def objects(self, prefix: str) -> Iterator[wire.Object]:
        """``ListObjectsV2``: every object whose key begins so, page by page, in the order of their keys."""
        for page in self._pages("s3", "list_objects_v2", f"Listing {sanitize(prefix)}", self._under(prefix)):
            for entry in page.get("Contents", ()):
                yield wire.Object(entry["Key"], int(entry["Size"]), entry["LastModified"].timestamp(), {})

    def some(self, prefix: str, most: int) -> list[wire.Object]:
        """``ListObjectsV2``: the first few objects whose keys begin so."""
        page = self._call(
            "s3", "list_objects_v2", f"Looking for {sanitize(prefix)}", **self._under(prefix), MaxKeys=most
        )
        entries = page.get("Contents", ())
        return [wire.Object(one["Key"], int(one["Size"]), one["LastModified"].timestamp(), {}) for one in entries]

    def folders(self, prefix: str) -> Iterator[str]:
        """``ListObjectsV2`` with a delimiter: the names of what looks like folders below the prefix."""
        arguments = {**self._under(prefix), "Delimiter": "/"}
        for page in self._pages("s3", "list_objects_v2", f"Listing {sanitize(prefix)}", arguments):
            for entry in page.get("CommonPrefixes", ()):
                yield str(entry["Prefix"])[len(prefix) :].rstrip("/")

    def delete(self, *keys: str) -> None:
        """``DeleteObjects``; those that are not there are no error."""
        for start in range(0, len(keys), 1000):
            batch = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}
            what = f"Deleting {sanitize(keys[start])}"
            answer = self._call("s3", "delete_objects", what, Bucket=self.bucket, Delete=batch)
            for fault in answer.get("Errors", ()):
                said = Said(fault.get("Code", ""), fault.get("Message", ""), 0)
                raise error_of(f"Deleting {sanitize(fault.get('Key', ''))}", said, repeatable=True)

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": key}

    def _under(self, prefix: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Prefix": prefix}

    def _sealed(self) -> dict[str, Any]:
        key = self._setup.kms_key
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}


def _parts(uri: str) -> dict[str, Any]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise NotFound(f"{sanitize(uri)} is not a place in S3")
    return {"Bucket": bucket, "Key": key}
