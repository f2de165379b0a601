"""Models of the Hugging Face Hub: their names, and fetching them into the hub's own cache.

Everything that is sent or stored goes through huggingface_hub, so HF_ENDPOINT, HF_HOME, HF_TOKEN
and HF_HUB_OFFLINE mean what they mean to it. It is imported only when something is fetched.
"""

import errno
import importlib.util
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from models.bounds import brief, size
from models.files import INDEX, CheckpointError, read_json
from models.hub_files import Wanted, named
from models.index import ModelIndex
from models.sheet_file import MAX_BYTES, SHEET
from models.weight_names import PICKLES, SAFETENSORS

log = logging.getLogger(__name__)

Tell = Callable[[str], object]
SCHEME = "hf://"
_FORM = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./+-]{1,128}))?", re.ASCII)
_PART = re.compile(r"\w(?:.*\w)?", re.ASCII)  # what an owner and a repository are called
_FILES = (SAFETENSORS, *PICKLES, ".git")  # no repository ends so
_BRANCH = "main"  # the default one, of every repository
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MISSING = "huggingface_hub, which is not installed: pip install huggingface_hub"
_LONGEST_REASON = 200  # characters of what a library says
_MOST = 8 << 20  # bytes of a file that is no weights; the largest is a tokenizer.json of 3.6 MB
_SPARE = 1 << 20  # bytes of a disk, for links and listings


@dataclass(frozen=True)
class Repository:
    """A model repository of the hub, and a revision of it: a branch, a tag or a commit."""

    id: str  # owner/name
    revision: str | None = None  # the default branch if absent

    @classmethod
    def parse(cls, text: str) -> "Repository | None":
        """Read `owner/name` or `owner/name@revision`, with or without `hf://` before it.

        None if the text is something else.

        Raises:
            CheckpointError: it begins with `hf://` and is something else.
        """
        match = _FORM.fullmatch(text.removeprefix(SCHEME))
        if match and _is_id(match[1]) and not _leaves(match[2] or ""):
            return cls(match[1], match[2])
        if text.startswith(SCHEME):
            raise CheckpointError(
                f"{brief(text)} is no name of the hub; allowed: hf://owner/name or "
                "hf://owner/name@revision"
            )
        return None

    @property
    def name(self) -> str:
        """What the model is called: the repository without its owner."""
        return self.id.partition("/")[2]

    def __str__(self) -> str:
        """As `parse` reads it, and as no path can be read."""
        return f"{SCHEME}{self.id}" + (f"@{self.revision}" if self.revision else "")


def why_not() -> str | None:
    """Why nothing can be fetched here; None if it can. Imports nothing."""
    return None if importlib.util.find_spec("huggingface_hub") else _MISSING


def fetch(repository: Repository, tell: Tell = log.warning) -> Path:
    """The folder of a model in the hub's cache, complete; what is not there is fetched first.

    If the hub cannot be asked, what was fetched before is taken, where that is complete. A commit
    that is complete is not asked for.

    Args:
        repository: the model.
        tell: is given lines for the user: how much will be fetched, and whether the hub could not
            be asked.

    Raises:
        CheckpointError: huggingface_hub is not installed, the hub cannot be reached or refuses, or
            this is no model of ours; or the disk is full. One line.
    """
    if reason := why_not():
        raise CheckpointError(f"{repository}: fetching it needs {reason}")
    import huggingface_hub

    hub = _Hub(huggingface_hub, repository)
    try:
        return hub.fetched(tell)
    except CheckpointError as error:
        raise CheckpointError(f"{repository}: {hub.within(str(error))}") from error
    except Exception as error:  # those of its HTTP client and of the system: no common class
        raise CheckpointError(f"{repository}: {hub.reason(error)}") from error


class _Hub:
    """One repository, through huggingface_hub."""

    def __init__(self, library: ModuleType, repository: Repository) -> None:
        self._library, self._repository = library, repository

    def fetched(self, tell: Tell) -> Path:
        """As `fetch`; errors may be the library's own."""
        revision = self._repository.revision or _BRANCH
        pinned = _COMMIT.fullmatch(revision) is not None
        if pinned and (folder := self._cached()):
            return folder
        try:
            info = self._library.HfApi().model_info(
                self._repository.id, revision=revision, files_metadata=True
            )
        except Exception as error:  # as in `fetch`
            if folder := self._cached():
                tell(f"{self._repository}: taken from the cache, because {self.reason(error)}")
                return folder
            if isinstance(error, self._library.errors.OfflineModeIsEnabled):
                raise CheckpointError(
                    f"it is not complete in the cache, and {self.reason(error)}"
                ) from error
            raise
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if sizes.get(SHEET, 0) > MAX_BYTES:
            del sizes[SHEET]  # it would not be shown
        folder = self._complete(str(info.sha), sizes, tell)
        if not pinned:  # only now does the cache know the branch by this commit
            self._get(INDEX, revision)
        return folder

    def reason(self, error: BaseException) -> str:
        """Why something was not fetched, by the first error of a chain that is known."""
        errors, where = self._library.errors, self._endpoint
        chain: BaseException | None = error
        while chain is not None:
            if isinstance(chain, errors.GatedRepoError):
                return (
                    f"the repository is gated; ask for access at {where}/{self._repository.id} and "
                    "set HF_TOKEN"
                )
            if isinstance(chain, errors.RepositoryNotFoundError):
                return (
                    f"no such repository at {where}, or a private one that HF_TOKEN does not open; "
                    "nor is there such a path here"
                )
            if isinstance(chain, errors.RevisionNotFoundError):
                return f"the repository has no such revision at {where}"
            if isinstance(chain, errors.OfflineModeIsEnabled):
                return "HF_HUB_OFFLINE is set"
            if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT):
                return "the disk of the cache is full; HF_HOME names another place"
            if isinstance(chain, errors.HfHubHTTPError):
                return f"{where} answers {chain.response.status_code}"
            error, chain = chain, chain.__cause__
        return f"fetching from {where} failed: {type(error).__name__}: {_first_line(error)}"

    def within(self, text: str) -> str:
        """A message with the names of files in the repository for their paths in the cache."""
        return re.sub(rf"{re.escape(str(self._cache))}/\S*?/snapshots/\w+/", "", text)

    def _cached(self) -> Path | None:
        """The folder of what was fetched before, if it is complete."""
        there = self._library.try_to_load_from_cache(
            self._repository.id, INDEX, revision=self._repository.revision or _BRANCH
        )
        if not isinstance(there, str):
            return None
        folder = Path(there).parent
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.exists()}
        try:
            _all_files(Wanted.of(ModelIndex.read(folder), names), names, folder.joinpath)
        except CheckpointError:
            return None
        return folder

    def _complete(self, commit: str, sizes: Mapping[str, int], tell: Tell) -> Path:
        """Fetch what is wanted of a commit and not there; first the small files, which say what."""
        if INDEX not in sizes:
            raise CheckpointError(_no_index(sizes))
        index = self._small(INDEX, commit, sizes)
        wanted = Wanted.of(ModelIndex.read(index.parent), sizes)
        names = _all_files(wanted, sizes, lambda name: self._small(name, commit, sizes))
        missing = [name for name in names if not self._has(name, commit)]
        if missing:
            need = sum(sizes[name] for name in missing)
            self._check_disk(need)
            tell(
                f"{self._repository}: fetching {len(missing)} files, {size(need)}, into "
                f"{self._cache}"
            )
        for name in missing:
            if name in wanted.small:
                self._small(name, commit, sizes)
            else:
                self._get(name, commit)
        return index.parent

    def _small(self, name: str, commit: str, sizes: Mapping[str, int]) -> Path:
        """A file that is read whole, of bounded size."""
        if sizes[name] > _MOST:
            raise CheckpointError(f"{name} has {sizes[name]:,} bytes; allowed: up to {_MOST:,}")
        return self._get(name, commit)

    def _get(self, name: str, revision: str) -> Path:
        path = self._library.hf_hub_download(self._repository.id, name, revision=revision)
        return Path(path)

    def _has(self, name: str, commit: str) -> bool:
        found = self._library.try_to_load_from_cache(self._repository.id, name, revision=commit)
        return isinstance(found, str)

    def _check_disk(self, need: int) -> None:
        there = next(path for path in (self._cache, *self._cache.parents) if path.exists())
        if (free := shutil.disk_usage(there).free) < need + _SPARE:
            raise CheckpointError(
                f"fetching it takes {size(need)}; {size(free)} are free on the disk of "
                "the cache; HF_HOME names another place"
            )

    @property
    def _cache(self) -> Path:
        return Path(self._library.constants.HF_HUB_CACHE).absolute()

    @property
    def _endpoint(self) -> str:
        """Where the hub is, without a password that may be part of the address."""
        parts = urlsplit(self._library.constants.ENDPOINT)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _all_files(
    wanted: Wanted, names: Mapping[str, Any] | set[str], at: Callable[[str], Path]
) -> tuple[str, ...]:
    """All names of files that are wanted; indices are read where `at` says."""
    shards = [
        name for index in wanted.indices for name in named(index, read_json(at(index)), names)
    ]
    return (*wanted.small, *wanted.weights, *shards)


def _no_index(sizes: Mapping[str, int]) -> str:
    single = sorted(name for name in sizes if name.endswith(".safetensors"))
    if not single:
        return f"{INDEX} is missing: it is no model in the layout of diffusers"
    return (
        f"{INDEX} is missing: it is no model in the layout of diffusers; a single file such as "
        f"{brief(single[0])} is served from a path: download it, and name that"
    )


def _is_id(text: str) -> bool:
    """Whether the hub could have a repository of this id; the rules are huggingface_hub's."""
    parts = all(_PART.fullmatch(part) for part in text.split("/"))
    return parts and len(text) <= 96 and not re.search(r"--|\.\.", text) and not _is_file(text)


def _is_file(text: str) -> bool:
    return text.lower().endswith(_FILES)


def _leaves(revision: str) -> bool:
    """Whether a revision, which names a file in the cache, would lie elsewhere."""
    return not {"", ".", ".."}.isdisjoint(revision.split("/")) if revision else False


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).splitlines()), "")[:_LONGEST_REASON]
    return "".join(c if c.isprintable() else "?" for c in line)
