"""What signer-hsm is told: its settings, the key policy, and who may call it. Written once, then the operator's."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pkicore.identity import SpiffeId
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER
from services.ca.toml_text import lines, table
from services.chassis.paths import plain_path

TENANT: Final = "ca"
LIFE_CYCLE: Final = ("create", "import", "rotate", "disable", "enable", "destroy")
_LOOK: Final = ("list", "show", "pubkey", "attestation")
_MAX_BACKENDS: Final = 32
_MAX_BACKENDS_FILE: Final = 256 * 1024
_CA_ENDPOINTS: Final = (
    "GET /v1/keys/{id}",
    "GET /v1/keys/{id}/pubkey",
    "POST /v1/keys/{id}/sign",
    "GET /pubkey",
    "POST /sign",
    "GET /health",
)
_OPERATOR_ENDPOINTS: Final = (
    "GET /v1/keys",
    "POST /v1/keys",
    "GET /v1/keys/{id}",
    "GET /v1/keys/{id}/pubkey",
    "GET /v1/keys/{id}/attestation",
    "POST /v1/keys/{id}/attestation",
    "POST /v1/keys/{id}/rotate",
    "POST /v1/keys/{id}/disable",
    "POST /v1/keys/{id}/enable",
    "POST /v1/keys/{id}/destroy",
    "GET /v1/policy",
    "GET /v1/approvals",
    "POST /v1/approvals",
    "GET /v1/openapi.json",
    "GET /pubkey",
    "GET /health",
)
_SIGNER_AT_THE_CA: Final = ("POST /v1/certificates", "GET /v1/revocations")


def callers(trust_domain: str, service: str, endpoints: Mapping[str, Sequence[str]]) -> str:
    """The entries of the caller policy for one service, by the callers' SPIFFE paths."""
    return "".join(
        table("allow", {"caller": f"spiffe://{trust_domain}{path}", "service": service, "endpoints": list(allowed)})
        for path, allowed in endpoints.items()
    )


def signer_callers(trust_domain: str) -> str:
    """Who may call signer-hsm, and what signer-hsm itself asks of the CA: its own certificate, and the news."""
    own = callers(trust_domain, "ca", {f"/service/{SIGNER}": _SIGNER_AT_THE_CA})
    return own + callers(trust_domain, SIGNER, {"/service/ca": _CA_ENDPOINTS, "/operator/*": _OPERATOR_ENDPOINTS})


def file_backend(directory: Path, passphrase_file: Path) -> dict[str, Any]:
    """The back end of a deployment that names none: sealed files, for development and small installations."""
    return {"name": "file", "type": "file", "directory": str(directory), "passphrase_file": str(passphrase_file)}


def read_backends(file: Path) -> tuple[Mapping[str, Any], ...]:
    """The `[[backends]]` of a TOML file; signer-hsm itself checks what is in them.

    Raises:
        CeremonyError: the file cannot be read, or holds something else.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_BACKENDS_FILE).decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise CeremonyError(f"the back ends' file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CeremonyError(f"the back ends' file {file} is not TOML: {error}") from error
    found = document.pop("backends", None)
    if document or not isinstance(found, list) or not 0 < len(found) <= _MAX_BACKENDS:
        raise CeremonyError(f"{file} must hold 1 to {_MAX_BACKENDS} [[backends]] tables, and nothing else")
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in found):
        raise CeremonyError(f"each of the [[backends]] in {file} needs a name and a type")
    return tuple({name: _plain(value) for name, value in item.items()} for item in found)


def _plain(value: object) -> object:
    return str(plain_path(Path(value))) if isinstance(value, str) and value.startswith("/") else value


def require_files(backends: Iterable[Mapping[str, Any]], root: Path, passphrase: Path, *, is_made: bool) -> None:
    """Every file that back ends name is there before a ceremony begins, which opens them first.

    Args:
        backends: as `read_backends` gives them.
        root: the directory that the ceremony makes.
        passphrase: of the key files.
        is_made: whether the ceremony makes that one.

    Raises:
        CeremonyError: one is not; the sentence says what to name instead.
    """
    for backend in backends:
        for member, value in backend.items():
            path = Path(str(value))
            if not member.endswith("_file") or path.exists() or (is_made and path == passphrase):
                continue
            said = f"{member} of the back end {backend['name']} names {path}, which is not there"
            raise CeremonyError(f"{said}: {_remedy(member, path.is_relative_to(root), root, passphrase, is_made)}")


def _remedy(member: str, is_below: bool, root: Path, passphrase: Path, is_made: bool) -> str:  # noqa: FBT001 - facts, not switches
    if member == "passphrase_file" and is_below and not is_made:
        return f"with --passphrase-file none is made there: name {passphrase} here, or leave the option out"
    remedy = f"keep it outside {root}, which is made anew" if is_below else "make it first, with mode 0600"
    if member != "passphrase_file":
        return remedy
    return f"{remedy}; or name {passphrase}, " + ("which is made" if is_made else "that of --passphrase-file")


def backend_names(backends: Iterable[Mapping[str, Any]]) -> list[str]:
    """Their names, in their order."""
    return [str(item["name"]) for item in backends]


def relocated(backends: Iterable[Mapping[str, Any]], old: Path, new: Path) -> tuple[Mapping[str, Any], ...]:
    """The same back ends with every path below `old` below `new`: those that lie in the deployment move with it."""

    def moved(value: object) -> object:
        if isinstance(value, str) and value.startswith(f"{old}/"):
            return f"{new}{value.removeprefix(str(old))}"
        return value

    return tuple({name: moved(value) for name, value in item.items()} for item in backends)


def signer_toml(values: Mapping[str, object], backends: Iterable[Mapping[str, Any]]) -> str:
    """The settings file of signer-hsm."""
    heading = "# signer-hsm's settings. The environment (PQCPKI_SIGNER_HSM_<FIELD>) wins.\n"
    return heading + lines(values) + "".join(table("backends", item) for item in backends)


def key_policy(
    trust_domain: str, backends: Sequence[str], kinds: Iterable[str], more: Iterable[Mapping[str, object]] = ()
) -> str:
    """The key policy of a new deployment: the CA signs with its keys, operators look after them.

    `more` are rules beside those, of other tenants too.
    """
    heading = (
        "# Who may do what with which key of signer-hsm. What no rule allows is refused. Count `version` up with each\n"
        "# change. To have life-cycle acts approved by others, add `approvals = 1` (or more) to their rule.\n"
    )
    ca = str(SpiffeId.service(trust_domain, "ca"))
    signs = rule("ca-signs", [ca], ["sign", "show", "pubkey"], kinds=sorted(kinds))
    return heading + policy_text(2, backends, (signs, *operator_rules(trust_domain), *more))


def operator_rules(trust_domain: str, tenant: str = TENANT) -> tuple[dict[str, object], ...]:
    """Operators look after every key of a tenant; they sign with none."""
    operators = f"spiffe://{trust_domain}/operator/*"
    end = "" if tenant == TENANT else f"-{tenant}"
    return (
        rule(f"operators-look{end}", [operators], [*_LOOK, "approve"], tenant=tenant),
        rule(f"operators-life-cycle{end}", [operators], LIFE_CYCLE, tenant=tenant),
    )


def ceremony_key_policy(caller: SpiffeId, backends: Sequence[str], tenants: Sequence[str] = (TENANT,)) -> str:
    """The key policy while a ceremony lasts: one caller, who may do everything with the keys that it makes."""
    acts = (*LIFE_CYCLE, *_LOOK, "sign")
    rules = [
        rule(f"ceremony-{tenant}", [str(caller)], acts, kinds=("digest", "mu", "message"), tenant=tenant)
        for tenant in tenants
    ]
    return policy_text(1, backends, rules)


def rule(
    name: str,
    who: Sequence[str],
    acts: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    tenant: str = TENANT,
    keys: Sequence[str] = ("*",),
) -> dict[str, object]:
    """One rule about keys of one tenant: every key of the CA's where nothing else is said."""
    found: dict[str, object] = {"id": name, "tenant": tenant, "callers": who, "acts": list(acts), "keys": list(keys)}
    return found | {"kinds": list(kinds)} if kinds else found


def policy_text(version: int, backends: Sequence[str], rules: Sequence[Mapping[str, object]]) -> str:
    """A key policy with the tenants that the rules are about."""
    limits = {
        "backends": list(backends)[:16],
        "max_keys": 100,
        "rate_per_second": 5000.0,
        "burst": 10_000,
        "max_in_flight": 512,
    }
    tenants = dict.fromkeys(item["tenant"] for item in rules)
    head = lines({"version": version}) + "".join(table("tenants", {"id": tenant, **limits}) for tenant in tenants)
    return head + "".join(table("rules", item) for item in rules)
