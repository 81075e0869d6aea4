"""A signer-hsm of its own for as long as a ceremony, a renewal or a migration lasts, over a throw-away PKI.

Its keys and its database are those of the deployment; its identity, trust, policy and port are not. It listens on
loopback, lets in the one caller whose key lies in this process's memory, and is stopped by its process number. The
kernel stops it when this process dies.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import Clock, SystemClock
from pkicore.encoding import write_atomically
from pkicore.identity import SpiffeId
from pkicore.keys.file import create_file_key
from pkicore.keys.passphrase import read_passphrase
from pkicore.mtls import INTERNAL, TlsClient
from services.ca.bootstrap import NOWHERE, BootstrapPki, make_bootstrap_pki
from services.ca.child import Child, start_child
from services.ca.deployment import packaged_profiles
from services.ca.layout import SIGNER, Layout
from services.ca.own_policy import is_json
from services.ca.signer_settings import callers, signer_toml
from services.ca.staging import held_directory, remove_abandoned
from services.signer_hsm.client import SignerClient

_PREFIX: Final = "bootstrap-"
_ENVIRONMENT: Final = "PQCPKI_SIGNER_HSM_"
_EVERYTHING: Final = (
    "GET /v1/keys",
    "POST /v1/keys",
    "GET /v1/keys/{id}",
    "GET /v1/keys/{id}/pubkey",
    "POST /v1/keys/{id}/sign",
    "POST /v1/keys/{id}/destroy",
    "GET /health",
)


@dataclass(frozen=True)
class SignerState:
    """What a temporary signer-hsm shares with the real one.

    Attributes:
        database_url: the catalogue of its keys.
        backends: where the keys are.
        passphrase_file: of its audit key.
        key_policy: the text of the key policy, TOML or JSON.
    """

    database_url: str
    backends: Sequence[Mapping[str, Any]]
    passphrase_file: Path
    key_policy: str


@asynccontextmanager
async def temporary_signer(
    beside: Path,
    state: SignerState,
    caller: SpiffeId,
    *,
    environment: Mapping[str, str],
    pool: Executor,
) -> AsyncIterator[SignerClient]:
    """A running signer-hsm, called as `caller`; it is stopped and its traces are deleted at the end of the block.

    Args:
        beside: the directory below which its files lie while it runs.
        state: its keys.
        caller: who calls it; the key policy must let it.
        environment: of the process; settings of the real signer-hsm in it are left out.
        pool: where slow keys are made and used.

    Raises:
        CeremonyError: it did not start; the sentence says why.
        PkiError: the throw-away PKI could not be made.
    """
    clock = SystemClock()  # the other process has no other, whatever clock the certificates are made by
    pki = await make_bootstrap_pki(caller, clock, pool, packaged_profiles())
    with held_directory(_PREFIX, beside) as directory:
        layout = Layout(directory)
        await _prepare(layout, pki, state, caller, clock)
        inherited = {name: value for name, value in environment.items() if not name.upper().startswith(_ENVIRONMENT)}
        child = Child(SIGNER, layout, inherited)
        try:
            await start_child(child, asyncio.Event())
            async with _client(pki, caller, child.urls["internal"], clock) as client:
                yield client
        finally:
            await child.stop()


def remove_leftovers(directory: Path) -> None:
    """Delete what a process that was killed in such a block left behind."""
    remove_abandoned(_PREFIX, directory)


async def _prepare(layout: Layout, pki: BootstrapPki, state: SignerState, caller: SpiffeId, clock: Clock) -> None:
    for directory in (layout.config, layout.issuers, layout.identity(SIGNER), layout.state(SIGNER) / "status"):
        directory.mkdir(parents=True, mode=0o700)
    await pki.write(layout, clock)
    write_atomically(layout.policy, callers(caller.trust_domain, SIGNER, {caller.path: _EVERYTHING}).encode(), 0o600)
    key_policy = layout.key_policy.with_suffix(".json" if is_json(state.key_policy) else ".toml")
    write_atomically(key_policy, state.key_policy.encode(), 0o600)
    audit_key = layout.key(SIGNER, "audit")
    audit_key.parent.mkdir(mode=0o700)
    algorithm = ALGORITHMS["ed25519"]
    create_file_key(audit_key, algorithm, read_passphrase(state.passphrase_file), generate_private_key(algorithm))
    identity = layout.identity(SIGNER)
    settings = {
        "trust_domain": caller.trust_domain,
        "host": "127.0.0.1",
        "port": 0,
        "ops_port": 0,
        "state_dir": layout.state(SIGNER),
        "database_url": state.database_url,
        "policy_file": layout.policy,
        "keys_policy_file": key_policy,
        "keys_policy_may_go_back": True,
        "ca_url": NOWHERE.replace("http:", "https:"),
        "ca_status_url": NOWHERE,
        "trust_bundle": layout.trust_bundle,
        "issuers_directory": layout.issuers,
        "tls_certificate": identity / "cert.pem",
        "tls_key": identity / "key.pem",
        "audit_key": f"file:{audit_key}",
        "passphrase_file": state.passphrase_file,
    }
    write_atomically(layout.settings(SIGNER), signer_toml(settings, state.backends).encode(), 0o600)


@asynccontextmanager
async def _client(pki: BootstrapPki, caller: SpiffeId, url: str, clock: Clock) -> AsyncIterator[SignerClient]:
    crls = pki.crl_cache(None, clock)
    await crls.refresh()
    tls = TlsClient(
        credentials=pki.caller, rules=INTERNAL, trust=(pki.root,), crls=crls, clock=clock, require_staple=True
    )
    async with tls.http1(SpiffeId.service(caller.trust_domain, SIGNER), url) as http:
        yield SignerClient(http)
