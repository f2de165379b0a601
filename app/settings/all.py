"""All settings: those of the server, and those of each of its parts."""

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.engine.job import MAX_PRIORITY, MAX_TIMEOUT
from app.http.origins import Access, is_loopback
from app.http.proxies import PREFIX
from app.settings.access import AccessSettings
from app.settings.fleet import FleetSettings
from app.settings.jobs import JobsSettings
from app.settings.lists import listed
from app.settings.telemetry import TelemetrySettings
from app.settings.webhooks import WebhookSettings
from models.bounds import brief
from models.hub import Repository
from models.library import locate, split
from models.sampling import Prediction

_List = Annotated[tuple[str, ...], NoDecode]
_PREFIX = "DARKROOM_"
# What Kubernetes tells every pod of services called "darkroom" and "darkroom-" and more;
# `DARKROOM_PORT` is one of these, and of a service "darkroom-gpu" `DARKROOM_GPU_PORT`.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
_PORT_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://.*")
_MOST_NAMED = 3  # variables that may have been meant


class Settings(JobsSettings, WebhookSettings, AccessSettings, TelemetrySettings, FleetSettings):
    """Everything a server can be told. A wrong value stops it before it starts."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # it may be a key
        populate_by_name=True,
    )

    models: _List = Field(
        ("digits",),
        description="Comma-separated: names of shipped models, paths of model folders and of "
        ".safetensors files, owner/name or owner/name@revision of the Hugging Face hub, name=path.",
    )
    host: str = Field(
        "localhost",
        description="Where to listen: a name or an address; `::` is every IPv4 and IPv6 address.",
    )
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("DARKROOM_PORT", "PORT"))
    device: str = "auto"
    dtype: Literal["tf32", "float32", "bfloat16", "float16"] = "float32"
    backend: Literal["auto", "openvino", "eager", "cuda-graphs"] = "auto"
    compile: bool = Field(False, description="torch.compile the UNet; slow to start.")
    slots: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Images of one client in flight at once, per model; by the device if absent.",
    )
    rows: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="At most this many rows of the network per tick; measured if absent.",
    )
    max_jobs: int = Field(
        512, ge=1, description="Requests of one client waiting or running, for all models."
    )
    max_work_seconds: float = Field(
        300,
        gt=0,
        allow_inf_nan=False,
        description="Work of one client waiting or running, for all models, in seconds of the "
        "device. A single larger request is taken if its deadline allows.",
    )
    max_priority: int = Field(
        0, ge=0, le=MAX_PRIORITY, description="The highest priority that a request may have."
    )
    timeout_seconds: float = Field(
        300,
        gt=0,
        le=MAX_TIMEOUT,
        allow_inf_nan=False,
        description="Deadline of requests without one.",
    )
    max_body_bytes: int = Field(1 << 16, ge=1024)
    max_header_bytes: int = Field(1 << 16, ge=4096, le=1 << 20)
    max_connections: int | None = Field(
        None,
        ge=16,
        le=1 << 20,
        description="Connections open at once; from the limit on descriptors if absent.",
    )
    header_seconds: float = Field(
        10, gt=0, le=3600, allow_inf_nan=False, description="Time for a request's head to arrive."
    )
    body_seconds: float = Field(
        30, gt=0, le=3600, allow_inf_nan=False, description="Time for a request's body to arrive."
    )
    answer_seconds: float = Field(
        60,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="How long a client may take no more of its answer.",
    )
    sizes: int = Field(
        4,
        ge=2,
        le=64,
        description="Image sizes of a model that are ready at once, its own among them.",
    )
    prediction: Prediction | None = Field(
        None,
        description="What the UNet of a `.safetensors` file predicts, where the file does not say. "
        "Told from the file if absent.",
    )
    marking: bool = Field(
        True, description="Write into files how they were made, and that a model made them."
    )
    cors_origins: _List = Field(
        (),
        description="Comma-separated origins whose pages may use the server, besides loopback ones "
        "and its own; `*` allows any, `none` only its own.",
    )
    allowed_hosts: _List = Field(
        (),
        description="Comma-separated host names that the server answers to, besides loopback; "
        "`*` allows any. If absent: any, unless `host` is a loopback address.",
    )
    trusted_proxies: _List = Field(
        (),
        description="Addresses and networks of proxies whose `X-Forwarded-` headers are believed.",
    )
    hang_seconds: float = Field(
        30,
        ge=1,
        allow_inf_nan=False,
        description="A worker that has work, or loads, is replaced if it is silent for longer, "
        "but not before twenty expected ticks are over.",
    )
    load_seconds: float = Field(
        600,
        ge=1,
        allow_inf_nan=False,
        description="Time for a model to load once it is here.",
    )
    require_all_models: bool = Field(
        False, description="Stop if a model does not load; otherwise the other models serve."
    )
    drain_seconds: int = Field(
        30, ge=1, description="After SIGTERM, time to finish running requests."
    )
    keep_alive_seconds: int = Field(
        5, ge=1, le=3600, description="How long an idle connection is kept open."
    )
    root_path: str = Field(
        "",
        description="Path of the server behind a proxy, as `/darkroom`; addresses begin with it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: Any) -> Any:
        """Refuse a variable that means nothing: it is a slip, and would go unnoticed."""
        known = [_PREFIX + name.upper() for name in cls.model_fields]
        for name, value in sorted((name.upper(), value) for name, value in os.environ.items()):
            own = name.removeprefix(_PREFIX)
            if own != name and name not in known and not _is_kubernetes(own, value):
                close = difflib.get_close_matches(name[:80], known, _MOST_NAMED, cutoff=0.5)
                meant = f"; nearest: {', '.join(close)}" if close else "; see docs/settings.md"
                raise ValueError(f"{name[:80]} is not a setting{meant}")
        return values

    @model_validator(mode="after")
    def _has_room(self) -> "Settings":
        stay = len(self.models)
        if self.max_loaded is not None and self.max_loaded < stay + bool(self.model_folders):
            more = ", and one of model_folders" if self.model_folders else ""
            raise ValueError(
                f"DARKROOM_MAX_LOADED is {self.max_loaded}; allowed: at least "
                f"{stay + bool(self.model_folders)}, for the {stay} of DARKROOM_MODELS{more}"
            )
        return self

    @field_validator("port", mode="before")
    @classmethod
    def _own_port(cls, value: object) -> object:
        if isinstance(value, str) and _PORT_OF_KUBERNETES.fullmatch(value):
            return os.environ.get("PORT") or 8000
        return value

    @field_validator("host")
    @classmethod
    def _bare_host(cls, host: str) -> str:
        return host.lower().removeprefix("[").removesuffix("]")  # [::1], as in a URL

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, path: str) -> str:
        if path and not PREFIX.fullmatch(path):
            raise ValueError(
                f"{path[:80]!r} is not a path; allowed: such as /darkroom, without a final slash"
            )
        return path

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        return split(value) if isinstance(value, str) else value

    @field_validator("cors_origins", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return listed(value)

    @field_validator("models")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("at least one model is needed")
        known = [locate(name).name for name in names]
        if len(set(known)) != len(known):
            raise ValueError(
                f"two models have the same name: {', '.join(sorted(known))}; rename one with "
                "name=path"
            )
        return names

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        kind, _, number = device.partition(":")
        numbered = kind == "cuda" and number.isascii() and number.isdecimal()
        if device not in ("auto", "cpu", "cuda") and not numbered:
            allowed = "auto, cpu, cuda, or a GPU by its number, as in cuda:0"
            raise ValueError(f"unknown device {brief(device)}; allowed: {allowed}")
        return device

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        Access.of("", origins, ())
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        Access.of("", (), hosts)
        return hosts

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:  # uvicorn would take what it cannot read for a name
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                allowed = "an address, or a network such as 10.0.0.0/8"
                raise ValueError(f"{brief(proxy)} ({error}); allowed: {allowed}") from error
        return proxies

    @property
    def local(self) -> bool:
        """Whether it listens on loopback alone, and nobody said that a proxy stands before it."""
        return is_loopback(self.host) and not self.trusted_proxies and not self.root_path

    @property
    def access(self) -> Access:
        """Which pages may use the server, and by which names it is called."""
        return Access.of(self.host, self.cors_origins, self.allowed_hosts)

    @property
    def folders(self) -> dict[str, Path | Repository]:
        """Name -> where every model is; see `locate`. The first is default. Nothing is fetched."""
        return dict(locate(name) for name in self.models)


def _is_kubernetes(own: str, value: str) -> bool:
    """Whether a variable is one that Kubernetes sets; `own` is its name without our prefix."""
    port = own.endswith("_PORT") and _PORT_OF_KUBERNETES.fullmatch(value)
    return bool(port or _OF_KUBERNETES.fullmatch(own))
