"""Requests to S3 and what speaks its protocol, through s3fs: see `objects.Bucket`.

A put is conditional by `If-None-Match: *`, and so is the end of an upload in parts. s3fs repeats what failed on the
way; addresses and credentials are found the usual ways (`AWS_*`, ~/.aws, fsspec's configuration).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import Buffer
from isoloss.store.objects import Found, Taken, Unclear, Upload, parts

PART = 1 << 25
AT_ONCE = 4
LARGEST_COPY = 5 << 30
"""Bytes that one request may copy."""
WRITER = "isoloss-writer"
_REFUSED = ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403")
_MISSING = ("NoSuchKey", "NotFound", "404")


class S3Bucket:
    """A bucket that is there already. Raises StoreError where s3fs is missing or too old."""

    def __init__(self, bucket: str) -> None:
        self.name = bucket
        self._process = 0
        self._opened: Any = None
        with self._told(""):
            client = self._files.s3
        for operation in ("PutObject", "CompleteMultipartUpload"):
            # s3fs leaves out what botocore does not know, and the put would silently overwrite.
            if "IfNoneMatch" not in client.meta.service_model.operation_model(operation).input_shape.members:
                raise StoreError("S3 needs a newer botocore, which can put on condition: pip install -U 'isoloss[s3]'")
        self.address = f"s3://{bucket} at {client.meta.endpoint_url}"

    @property
    def _files(self) -> Any:
        # Its loop lives in a thread, which a forked child does not have.
        if self._process != os.getpid():
            try:
                import fsspec
                import s3fs  # noqa: F401
            except ImportError as error:
                raise StoreError(f"s3:// needs s3fs ({error}): pip install 'isoloss[s3]'") from None
            self._opened = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
            self._process = os.getpid()
        return self._opened

    def _told(self, key: str) -> contextlib.AbstractContextManager[None]:
        return _told(f"s3://{self.name}/{key}", self.name)

    def _call(self, method: str, key: str, **options: Any) -> dict[str, Any]:
        with self._told(key):
            return self._files.call_s3(method, Bucket=self.name, **options)

    def create(self, key: str, chunks: Sequence[Buffer], writer: str) -> None:
        metadata = {WRITER: writer}
        if sum(len(chunk) for chunk in chunks) <= PART:
            body = b"".join(chunks)
            self._call("put_object", key, Key=key, Body=body, Metadata=metadata, IfNoneMatch="*")
            return
        begun = self._call("create_multipart_upload", key, Key=key, Metadata=metadata)
        at = {"Key": key, "UploadId": begun["UploadId"]}
        try:
            tags = self._send(key, at, chunks)
            listed: dict[str, Any] = {"Parts": [{"PartNumber": i, "ETag": tag} for i, tag in enumerate(tags, 1)]}
            self._call("complete_multipart_upload", key, **at, MultipartUpload=listed, IfNoneMatch="*")
        except BaseException:
            self._forget(key, at)
            raise

    def _send(self, key: str, at: dict[str, str], chunks: Sequence[Buffer]) -> list[str]:
        def send(number: int, body: bytes) -> str:
            try:
                return self._call("upload_part", key, **at, PartNumber=number, Body=body)["ETag"]
            except FileNotFoundError as error:
                raise Unclear(f"the upload of s3://{self.name}/{key} was aborted while it ran") from error

        tags: list[Future[str]] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number, body in enumerate(parts(chunks, PART), 1):
                tags.append(pool.submit(send, number, body))
                if number > AT_ONCE:
                    # No more than a few parts are in memory.
                    tags[number - AT_ONCE - 1].result()
            return [tag.result() for tag in tags]

    def _forget(self, key: str, at: dict[str, str]) -> None:
        # Otherwise `gc` finds it.
        with contextlib.suppress(StoreError, FileNotFoundError):
            self._call("abort_multipart_upload", key, **at)

    def get(self, key: str) -> bytes:
        with self._told(key):
            # In one request, unless it is large: then in parts side by side.
            several = None if key.endswith(".safetensors") else 1
            return self._files.cat_file(f"{self.name}/{key}", max_concurrency=several)

    def head(self, key: str) -> Found | None:
        try:
            reply = self._call("head_object", key, Key=key)
        except FileNotFoundError:
            return None
        return Found(
            reply["ContentLength"], reply["LastModified"].timestamp(), _date(reply), reply["Metadata"].get(WRITER)
        )

    def list(self, prefix: str, deep: bool) -> Iterator[str]:
        options: dict[str, Any] = {"Prefix": prefix} | ({} if deep else {"Delimiter": "/"})
        more = True
        while more:
            page = self._call("list_objects_v2", prefix, **options)
            yield from (found["Key"] for found in page.get("Contents", ()))
            yield from (found["Prefix"] for found in page.get("CommonPrefixes", ()))
            more = page.get("IsTruncated", False)
            options["ContinuationToken"] = page.get("NextContinuationToken")

    def delete(self, key: str) -> None:
        self._call("delete_object", key, Key=key)

    def copy(self, key: str, target: str) -> None:
        found = self.head(key)
        if found is None:
            raise FileNotFoundError(key)
        self._copy(key, target, found)

    def freshen(self, key: str, found: Found) -> None:
        self._copy(key, key, found)

    def _copy(self, key: str, target: str, found: Found) -> None:
        source = {"Bucket": self.name, "Key": key}
        metadata = {WRITER: found.writer} if found.writer else {}
        if found.size <= LARGEST_COPY:
            # "REPLACE" is what allows a copy onto itself.
            options = {"Metadata": metadata, "MetadataDirective": "REPLACE"}
            self._call("copy_object", key, Key=target, CopySource=source, **options)
            return
        begun = self._call("create_multipart_upload", target, Key=target, Metadata=metadata)
        at = {"Key": target, "UploadId": begun["UploadId"]}
        try:
            copied = []
            for number, start in enumerate(range(0, found.size, LARGEST_COPY), 1):
                span = f"bytes={start}-{min(start + LARGEST_COPY, found.size) - 1}"
                part = {"PartNumber": number, "CopySource": source, "CopySourceRange": span}
                reply = self._call("upload_part_copy", key, **at, **part)
                copied.append({"PartNumber": number, "ETag": reply["CopyPartResult"]["ETag"]})
            self._call("complete_multipart_upload", target, **at, MultipartUpload={"Parts": copied})
        except BaseException:
            self._forget(target, at)
            raise

    def now(self) -> float:
        return _date(self._call("list_objects_v2", "", MaxKeys=1))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        options: dict[str, Any] = {"Prefix": prefix}
        more = True
        while more:
            page = self._call("list_multipart_uploads", prefix, **options)
            for found in page.get("Uploads", ()):
                yield Upload(found["Key"], found["UploadId"], found["Initiated"].timestamp())
            more = page.get("IsTruncated", False)
            options |= {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}

    def abort(self, upload: Upload) -> None:
        with contextlib.suppress(FileNotFoundError, Unclear):  # finished or aborted meanwhile
            self._call("abort_multipart_upload", upload.key, Key=upload.key, UploadId=upload.id)


def _date(reply: dict[str, Any]) -> float:
    return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()


@contextlib.contextmanager
def _told(where: str, bucket: str) -> Iterator[None]:
    """Turn what s3fs and botocore raise into one message that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        response = _response(error)
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = " ".join(str(error).split()) or type(error).__name__
        if code == "NoSuchBucket":
            raise StoreError(f"there is no bucket {bucket!r}: make it first, or name another") from error
        if code in _MISSING or (isinstance(error, FileNotFoundError) and code != "NoSuchUpload"):
            raise FileNotFoundError(where) from error
        if code == "PreconditionFailed" or status == 412:
            raise Taken from error
        if code in _REFUSED or isinstance(error, PermissionError):
            raise StoreError(f"no permission for {where}: {said}; check credentials and the bucket's policy") from error
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            raise StoreError(f"{where}: {said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws") from error
        if type(error).__name__ in ("ParamValidationError", "ProfileNotFound", "InvalidConfigError") or (
            400 <= status < 500 and status not in (404, 408, 409, 429)
        ):
            raise StoreError(f"{where} was refused: {said}") from error
        raise Unclear(
            f"{where} failed: {said}; nothing stored was harmed: check the network and AWS_ENDPOINT_URL, and run again"
        ) from error


def _response(error: BaseException | None) -> dict[str, Any]:
    """The service's answer, which s3fs keeps behind the error it makes of it."""
    while error is not None:
        found = getattr(error, "response", None)
        if isinstance(found, dict):
            return found
        error = error.__cause__
    return {}
