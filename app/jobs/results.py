"""Where the files of results are: in the store, or in a folder or bucket by fsspec."""

import asyncio
import contextlib
import functools
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.errors import ResultExpired, StoreUnavailable, UnknownJob
from app.jobs.claims import Claim, Kept
from app.jobs.job import Job, Picture
from app.jobs.rows import owned
from app.jobs.store import JobStore
from app.jobs.tables import JOBS, RESULTS

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 4
_SIGNED_SECONDS = 3600  # that a signed address is good for
_LONGEST = 200  # characters of a reason


class Results:
    """The files of one store's results. `place` is a folder or bucket, None for the store."""

    def __init__(self, store: JobStore, place: str | None, *, signed: bool = False) -> None:
        self._store, self._place, self._signed = store, place, signed
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="results")
        self._system: Any = None  # fsspec's, which has no types
        self._down = False

    async def keep(self, claim: Claim, media_type: str, files: Sequence[bytes]) -> list[Kept]:
        """The files as the store is to note them; in a folder or bucket they are whole by then.

        Raises:
            StoreUnavailable: the folder or bucket cannot be written now.
        """
        kept = []
        for index, content in enumerate(files):
            digest = hashlib.sha256(content).hexdigest()
            picture = Picture(index, media_type, len(content), digest)
            if self._place is None:
                kept.append(Kept(picture, content))
            else:
                path = f"{_folder(claim)}/{index}.{media_type.partition('/')[2]}"
                await self._do(functools.partial(self._write, path, content, media_type))
                kept.append(Kept(picture, path=path))
        return kept

    async def read(self, owner: str, job_id: str, index: int) -> tuple[Picture, bytes | str]:
        """A file, or the signed address that it is read from.

        Raises:
            UnknownJob: no such job of this owner, or no such file in its result.
            ResultExpired: it is no longer kept, or somebody else removed it.
        """

        def found(connection: Connection) -> "sql.Row[Any] | None":
            table = RESULTS.c
            job = sql.select(JOBS.c.number, JOBS.c.expired).where(owned(owner, job_id))
            known = connection.execute(job).one_or_none()
            if known is None:
                raise UnknownJob(f"there is no job {job_id[:40]!r} of yours")
            if known.expired:
                raise _expired(job_id)
            row = sql.select(RESULTS).where(table.job == known.number, table.image == index)
            return connection.execute(row).one_or_none()

        row = await self._store.database.run(found)
        if row is None:
            raise UnknownJob(f"job {job_id[:40]!r} has no image {index} in its result")
        picture = Picture(row.image, row.media_type, row.size, row.sha256)
        if row.path is None:
            return picture, row.content
        try:
            return picture, await self._do(lambda: self._open(row.path))
        except FileNotFoundError as error:
            raise _expired(job_id) from error

    async def discard(self, claim: Claim) -> None:
        """Remove what a claim wrote that was lost."""
        await self.remove([_folder(claim)])

    async def remove(self, jobs: Iterable[str]) -> None:
        """Remove all files of jobs from the folder or bucket, whichever servers wrote them.

        Raises:
            StoreUnavailable: the folder or bucket cannot be reached now.
        """
        if self._place is None:  # it is not known any more where they are
            return
        for job_id in jobs:
            await self._do(functools.partial(self._remove, job_id))

    async def close(self) -> None:
        """End its threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[], T]) -> T:
        """Do something with the folder or bucket, in a thread."""
        if self._place is None:
            raise StoreUnavailable("the result is elsewhere, and DARKROOM_RESULTS names no place")
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError:
            raise
        except Exception as error:  # fsspec's own, botocore's and others have no common base
            if not self._down:
                told = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
                log.error("files of results cannot be reached (%s): %s", self._place, told)
            self._down = True
            raise StoreUnavailable("the files of results cannot be reached now") from error
        if self._down:
            self._down = False
            log.info("files of results can be reached again: %s", self._place)
        return done

    def _of(self, path: str) -> tuple[Any, str]:
        """The file system, and a path in it."""
        from fsspec.core import url_to_fs  # takes a tenth of a second, and S3 more

        if self._system is None:
            fresh = {"use_listings_cache": False, "skip_instance_cache": True}
            self._system = url_to_fs(self._place, **fresh)  # others write there as well
        system, root = self._system
        return system, f"{root}/{path}"

    def _write(self, path: str, content: bytes, media_type: str) -> None:
        """Write a file that is seen whole or not at all."""
        system, full = self._of(path)
        if "file" not in system.protocol:
            # One request: an object is there when it is whole.
            system.pipe_file(full, content, ContentType=media_type)
            return
        system.makedirs(system._parent(full), exist_ok=True)
        part = f"{full}.{secrets.token_hex(4)}.part"
        system.pipe_file(part, content)
        system.mv(part, full)

    def _open(self, path: str) -> bytes | str:
        system, full = self._of(path)
        if self._signed and "file" not in system.protocol:
            system.info(full)  # raises FileNotFoundError
            address: str = system.sign(full, expiration=_SIGNED_SECONDS)
            return address
        content: bytes = system.cat_file(full)
        return content

    def _remove(self, folder: str) -> None:
        system, full = self._of(folder)
        with contextlib.suppress(FileNotFoundError):
            system.rm(full, recursive=True)


def _folder(claim: Claim) -> str:
    """Where the files of one claim are; another claim of the same job has another folder."""
    return f"{claim.job.id}/{claim.fence}"


def stored(connection: Connection, job: Job, most: int) -> list[bytes] | None:
    """The files of a result that are in the store, as part of a transaction.

    None if they are elsewhere, or have more than `most` bytes together.
    """
    if sum(picture.size for picture in job.results) > most:
        return None
    table = RESULTS.c
    statement = sql.select(table.content).where(table.job == job.number).order_by(table.image)
    files = connection.execute(statement).scalars().all()
    return None if None in files else list(files)


def _expired(job_id: str) -> ResultExpired:
    return ResultExpired(f"the result of job {job_id[:40]!r} is no longer kept")
