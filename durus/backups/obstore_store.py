"""The object stores of Amazon, Google and Microsoft, and those that speak the protocol of one of them.

They are reached by the package obstore, which is in the extra `durus[cloud]`: importing this module fails without it.
Statements BACKUP-53 and BACKUP-54.
"""

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import IO, TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from durus.backups.objects import ReplacedError, Version
from durus.error import ObjectStoreError

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore, RetryConfig

_RETRIES: "RetryConfig" = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_PIECE_SIZE = 8 << 20
_MAX_PIECES = 9000
"""Amazon takes 10,000 pieces of one object."""
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and AWS_ENDPOINT for a store that is not Amazon's",
    "gs": "GOOGLE_SERVICE_ACCOUNT to the file with the key of a service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_STATUS = re.compile(r"status code: (\d{3})")
_REASON = re.compile(r"<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>")
_WITHOUT_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google|token request|Account must be specified")


class ObstoreStore:
    """The objects of a bucket whose names begin with a prefix and a slash; all of them if the prefix is empty.

    Args:
        url: The address of the prefix, without a slash at its end.
        store: Makes the store of obstore.
    """

    def __init__(self, url: str, store: "Callable[[], ObjectStore]") -> None:
        self.url = url
        self._variables = _VARIABLES.get(url.partition(":")[0], "them")
        with self._errors_as("use this address"):
            self._store = store()

    def get(self, name: str) -> tuple[bytes, Version] | None:
        with self._errors_as(f"read {name}"):
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), Version(found.meta["e_tag"], found.meta["version"])

    def size(self, name: str) -> int | None:
        with self._errors_as(f"look up {name}"):
            try:
                return obstore.head(self._store, name)["size"]
            except FileNotFoundError:
                return None

    def read_at(self, name: str, offset: int, size: int) -> bytes | None:
        with self._errors_as(f"read {name}"):
            try:
                return bytes(obstore.get_range(self._store, name, start=offset, length=size))
            except FileNotFoundError:
                return None

    def put(self, name: str, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        with self._errors_as(f"write {name}"):
            obstore.put(self._store, name, file, chunk_size=max(_PIECE_SIZE, size // _MAX_PIECES), max_concurrency=4)

    def replace(self, name: str, data: bytes, version: Version | None) -> Version:
        with self._errors_as(f"write {name}"):
            try:
                done = obstore.put(self._store, name, data, mode="create" if version is None else _mode(version))
            except (AlreadyExistsError, PreconditionError) as error:
                raise ReplacedError from error
            except NotImplementedError:  # by this store [BACKUP-53]
                done = obstore.put(self._store, name, data)
            return Version(done["e_tag"], done["version"])

    def names(self) -> list[str]:
        with self._errors_as("list the objects"):
            return [each["path"] for each in obstore.list_with_delimiter(self._store)["objects"]]

    def remove(self, names: list[str]) -> None:
        with self._errors_as("remove segments"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, names)

    @contextlib.contextmanager
    def _errors_as(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            advice = self._permanent_trouble(str(error))
            text = f"cannot {operation}" + (f", {advice}" if advice else _said(error))
            told = ObjectStoreError(errno.EIO, text, self.url)
            told.is_permanent = advice is not None
            raise told from error

    def _permanent_trouble(self, text: str) -> str | None:
        """Return what went wrong and what helps, None if trying again may help.

        The texts of obstore are long, and for people who write programs.
        """
        status = _STATUS.search(text)
        if status and status[1] in ("401", "403"):
            return f"the store refuses these credentials{_reason(text)}; set {self._variables}"
        if _WITHOUT_CREDENTIALS.search(text):
            return f"there are no credentials for this store; set {self._variables}"
        if status and status[1] == "404":
            return f"there is no such bucket{_reason(text)}; create it, or correct its name"
        return None


def _reason(text: str) -> str:
    """Return the reason that a store of Amazon's kind gives in the text of an error."""
    found = _REASON.search(text)
    return f": {found[1]}, {found[2]}" if found else ""


def _said(error: Exception) -> str:
    text = str(error)
    return _reason(text) or f": {text.partition(chr(10))[0]}"


def open_store(scheme: str, bucket: str, prefix: str) -> ObstoreStore:
    """Return a place in a store whose address and credentials are in the variables of the environment.

    Args:
        scheme: `s3`, `gs` or `az`.
        bucket: The bucket, or the container.
        prefix: Without slashes at its ends.

    Raises:
        ObjectStoreError: A variable has a wrong value, or is missing.
    """
    url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    return ObstoreStore(url, lambda: kind(bucket, prefix=prefix or None, retry_config=_RETRIES))


def _mode(version: Version) -> "UpdateVersion":
    """Return the version in the form of obstore, which accepts no None in it."""
    mode: UpdateVersion = {}
    if version.e_tag is not None:
        mode["e_tag"] = version.e_tag
    if version.number is not None:
        mode["version"] = version.number
    return mode
