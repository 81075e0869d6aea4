"""Settings: one frozen object per service, from a TOML file and the environment; the environment wins.

It is the only module that reads the environment. Secrets never stand in settings: a field names the file that has one.
"""

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as _SourceError,
)

from services.chassis.database import parse_url
from services.chassis.errors import SettingsError
from services.chassis.paths import plain_path

_PREFIX = "PQCPKI_"
_FILE = "file:"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return plain_path(path)


def plain_key_uri(uri: str) -> str:
    """The URI of a key; that of a file has its plain path."""
    path = uri.removeprefix(_FILE)
    return f"{_FILE}{plain_path(Path(path))}" if uri.startswith(f"{_FILE}/") else uri


def plain_database_url(url: str) -> str:
    """The URL of a database; that of a SQLite file has its plain path.

    Raises:
        SettingsError: it is no such URL.
    """
    parsed = parse_url(url)
    if parsed.drivername != "sqlite" or ".." not in Path(str(parsed.database)).parts:
        return url
    return parsed.set(database=str(plain_path(Path(str(parsed.database))))).render_as_string(hide_password=False)


def _database(url: str) -> str:
    try:
        return plain_database_url(url)
    except SettingsError as error:
        raise ValueError(str(error)) from error


def base_url(url: str) -> str:
    """A URL of scheme, host and port, without the slash at its end.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be scheme://host[:port] without a path")
    return url.rstrip("/")


def collector_url(url: str) -> str:
    """The base URL of an OTLP collector: https, or plain http to this very machine.

    Raises:
        ValueError: another one.
    """
    if not url:
        return url
    checked = base_url(url)
    parts = urlsplit(checked)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("must be https; plain http goes to 127.0.0.1, [::1] or localhost only")
    return checked


Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 takes a free one."""
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list in TOML, comma-separated in the environment."""
PlainKeyUri = Annotated[str, AfterValidator(plain_key_uri)]
"""Where a key is: `file:/path`, or what else `pkicore.keys.open_key` opens."""
BaseUrl = Annotated[str, AfterValidator(base_url)]
CollectorUrl = Annotated[str, AfterValidator(collector_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]


class ProcessSettings(BaseSettings):
    """What every service can be told, one without a database too.

    Subclasses set `model_config = for_service("ca")` and add fields, durations as `*_seconds`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)

    host: str = Field("127.0.0.1", description="Address that the listeners bind.", min_length=1)
    ops_host: str = Field("127.0.0.1", description="Address of the ops listener: health and metrics, plain HTTP.")
    ops_port: Port = Field(0, description="Port of the ops listener; 0 takes a free one.")
    state_dir: AbsolutePath = Field(description="Directory that the service may write to.")
    trust_domain: str = Field(
        "pqcpki.internal",
        description="SPIFFE trust domain of this deployment.",
        pattern=r"^[a-z0-9._-]{1,255}$",
    )
    policy_file: AbsolutePath = Field(description="Who may call which endpoint (TOML).")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line written.")
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people.")
    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """The file that they were read from, None where the environment said everything."""
        return self._file

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the TOML file's values, and nothing else."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


class ServiceSettings(ProcessSettings):
    """What every service with a database can be told."""

    database_url: DatabaseUrl = Field(description="sqlite:////absolute/path or postgresql://user@host/name.")
    audit_archive_dir: AbsolutePath | None = Field(
        None, description="Directory of audit archives; none: audit-archive in the state directory."
    )
    audit_archive_after_days: int = Field(
        0, ge=0, le=36_500, description="Audit records older than this leave the database for an archive; 0: never."
    )
    audit_archive_above_records: int = Field(
        0, ge=0, description="With more audit records in the database, the older half is archived; 0: never."
    )
    audit_retain_days: int = Field(
        0, ge=0, le=36_500, description="Audit archives older than this are removed for good; 0: never."
    )
    tracing_endpoint: CollectorUrl = Field(
        "", description="Base URL of an OTLP/HTTP collector, https://host:4318; http on this machine. Empty: no traces."
    )
    tracing_ratio: float = Field(1.0, ge=0, le=1, description="Share of the traces begun here that is recorded.")
    tracing_ca_file: AbsolutePath | None = Field(
        None, description="PEM roots of the collector's certificate; none: those of the system."
    )


Settings = TypeVar("Settings", bound=ProcessSettings)


def for_service(name: str) -> SettingsConfigDict:
    """The model configuration of one service's settings: its environment prefix is `PQCPKI_<NAME>_`."""
    return SettingsConfigDict(
        env_prefix=f"{_PREFIX}{name.upper().replace('-', '_')}_", frozen=True, extra="forbid", validate_default=True
    )


def load_settings(cls: type[Settings], toml_path: Path | None) -> Settings:
    """Reads a service's settings once.

    Args:
        cls: The service's settings class.
        toml_path: Its file, or None where the environment says everything.

    Raises:
        SettingsError: one sentence that names each wrong field, where it stands and what is wrong.
    """
    values = _read_toml(toml_path) if toml_path else {}
    try:
        found = cls(**values)
    except _SourceError as error:
        raise SettingsError(f"{error}; lists are written a,b,c") from error
    except ValidationError as error:
        raise SettingsError(_sentence(cls, error, toml_path)) from error
    found._file = toml_path
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error


def read_text(path: Path) -> str:
    """The content of a file that a setting names.

    Raises:
        SettingsError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not a text in UTF-8") from error


def unknown_variables(cls: type[ProcessSettings]) -> list[str]:
    """A sentence for each variable of this service that has no effect: misspelt, or meant for another release."""
    prefix = cls.model_config.get("env_prefix", "")
    known = {(prefix + name).upper() for name in cls.model_fields}
    return [
        f"the environment sets {name}, which is no setting{_suggestion(name.upper(), known)}"
        for name in sorted(os.environ)
        if prefix and name.upper().startswith(prefix) and name.upper() not in known
    ]


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(cls: type[ProcessSettings], error: ValidationError, path: Path | None) -> str:
    return "; ".join(_fault(cls, dict(fault), path) for fault in error.errors())


def _fault(cls: type[ProcessSettings], fault: dict[str, Any], path: Path | None) -> str:
    reason = str(fault["msg"]).removeprefix("Value error, ")
    where = f"in {path} or as" if path else "as"
    if not fault["loc"]:
        return _misfit(cls, reason, where)
    field = ".".join(map(str, fault["loc"]))
    variable = _variable(cls, str(fault["loc"][0]))
    if fault["type"] == "missing":
        return f"{field} is missing: set it {where} {variable}"
    if fault["type"] == "extra_forbidden":
        return f"{field} is no setting{_suggestion(field, set(cls.model_fields))}"
    return f"{field} is wrong: {reason} (set {where} {variable})"


def _misfit(cls: type[ProcessSettings], reason: str, where: str) -> str:
    """A fault of several fields together; those that its sentence names can be set."""
    named = dict.fromkeys(word for word in re.findall(r"[a-z0-9_]+", reason) if word in cls.model_fields)
    variables = ", ".join(_variable(cls, field) for field in named)
    return f"the settings do not fit together: {reason}" + (f" (set {where} {variables})" if variables else "")


def _variable(cls: type[ProcessSettings], field: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()
