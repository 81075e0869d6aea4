"""The ceremony behind `ztca init`: roots, issuing CAs, responders, identities, first CRLs and staples, settings.

Everything is made in a directory beside the final one and renamed at the end, so a ceremony that is cut short leaves
nothing that could be taken for a PKI. Whatever it issues goes through the nine steps and the CA's own ledger. The
roots' keys are in memory for as long as the ceremony lasts and sealed below `offline/` afterwards.
"""

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.clock import Clock
from pkicore.ct import log_id
from pkicore.encoding import write_atomically, write_new
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.keys.file import FileKey, create_file_key
from pkicore.keys.passphrase import read_passphrase
from pkicore.x509.certificate import self_signed_root, to_pem
from pkicore.x509.profiles import load_profiles
from services.ca.app import MIGRATIONS
from services.ca.client.trust import ACTIVE
from services.ca.core import Core, CoreRules, build_core
from services.ca.credentials import IDENTITY_KEY, begin_checkpoints, issue_identity, staple_name, write_audit_key
from services.ca.deployment import CT_LOG, OPERATOR, Deployment, packaged_profiles, write_settings
from services.ca.errors import CeremonyError
from services.ca.hierarchy import Hierarchy, make_issuer, make_root_issuer
from services.ca.issuance import IssuingCa
from services.ca.layout import FAMILIES, PUBLIC_FAMILIES, SIGNER, Layout
from services.ca.remote_keys import RemoteKeyMaker
from services.ca.roots import CEREMONY, RootOffice, sign_root_crl
from services.ca.signer_settings import TENANT, backend_names, ceremony_key_policy, relocated
from services.ca.signing_ceremony import (
    artefact_certificate,
    certify_key,
    make_signing_keys,
    timestamp_certificate,
)
from services.ca.signing_settings import ARTEFACT_KEYS, TENANTS, TIMESTAMP_KEY
from services.ca.staging import remove_unfinished, staged
from services.ca.store import CaStore
from services.ca.temporary_signer import SignerState, remove_leftovers, temporary_signer
from services.ca.transport import LedgerLists, ledger_crls
from services.ca.wire import format_serial
from services.chassis.audit import audit_head
from services.chassis.database import AuditEvent, Database, Unit
from services.chassis.migrations import migrate

ROOT_KEYS: Final = {"ecdsa": "ecdsa-p384", "rsa": "rsa-4096", "mldsa": "ml-dsa-87"}
ISSUING_KEYS: Final = {"ecdsa": "ecdsa-p256", "rsa": "rsa-3072", "mldsa": "ml-dsa-65"}
CT_LOG_KEY: Final = "ecdsa-p256"
RESPONDER_KEYS: Final = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048", "mldsa": "ml-dsa-65"}
_CRL_LIFETIME: Final = timedelta(days=1)
_OCSP_LIFETIME: Final = timedelta(hours=12)
_STATUS_SECONDS: Final = 86_400

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CeremonyResult:
    """What was made: subjects of the roots with their SHA-256 fingerprints, and where things are."""

    directory: Path
    roots: Mapping[str, str]
    deployment: Deployment


@dataclass(frozen=True)
class _Root:
    certificate: x509.Certificate
    private_key: PrivateKey
    key: SigningKey


async def hold_ceremony(
    layout: Layout,
    deployment: Deployment,
    *,
    passphrase_file: Path | None,
    clock: Clock,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
) -> CeremonyResult:
    """Make a whole PKI in `layout.root`, which must not exist.

    Where the deployment names back ends, the issuing CAs' keys (and the responders', where it says so) are made
    through a signer-hsm that runs for as long as the ceremony; `environment` is that of its process.

    Raises:
        CeremonyError: the directory or the offline directory is there already, or cannot be made; or a key is left in
            a back end, which the sentence names.
        PkiError, CaServiceError, ChassisError: a part could not be made; nothing is left behind.
    """
    _refuse_existing(layout)
    for sentence in remove_unfinished(layout):
        progress(sentence)
    remove_leftovers(layout.root.parent)
    left: list[str] = []
    with staged(layout, left) as staging, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        ceremony = _Ceremony(staging, deployment, clock, progress, pool)
        ceremony.prepare(passphrase_file)
        async with ceremony.signer(layout, passphrase_file, environment or {}):
            roots = await ceremony.hold()
            write_settings(staging, layout, ceremony.deployment, passphrase_file)
            progress("settings, policy and profiles are written")
            ceremony.seal_roots(roots, layout)
        deployment = ceremony.deployment
        left += deployment.issuing_keys.values()
        left += deployment.responder_keys.values()
        left += [deployment.ct_log_key] if deployment.ct_log_key else []
        left += deployment.signing_kinds
    fingerprints = {f"root-{family}": _fingerprint(root.certificate) for family, root in roots.items()}
    return CeremonyResult(layout.root, fingerprints, deployment)


def _refuse_existing(layout: Layout) -> None:
    if layout.root.exists():
        raise CeremonyError(
            f"{layout.root} exists; give another --dir, or remove it if that PKI is not needed any more"
        )
    taken = [layout.root_key(family) for family in FAMILIES if layout.root_key(family).exists()]
    if taken:
        raise CeremonyError(f"{taken[0]} exists; a root key is never overwritten: give another --offline directory")
    if not layout.root.parent.is_dir():
        raise CeremonyError(f"{layout.root.parent} is no directory; make it first")


async def _refuse_used(database: Database) -> None:
    if (await audit_head(database)).sequence:
        raise CeremonyError(
            "the CA's database holds another PKI, or what an init that was cut short left there: "
            "give an empty database, or drop this one and make it anew"
        )


class _Ceremony:
    def __init__(
        self, layout: Layout, deployment: Deployment, clock: Clock, progress: Progress, pool: Executor
    ) -> None:
        self.deployment = deployment
        self._layout = layout
        self._clock = clock
        self._progress = progress
        self._pool = pool
        self._profiles = load_profiles(packaged_profiles())
        self._passphrase = b""
        self._remote: RemoteKeyMaker | None = None

    def prepare(self, passphrase_file: Path | None) -> None:
        self._make_directories()
        self._passphrase = self._take_passphrase(passphrase_file)

    @asynccontextmanager
    async def signer(
        self, final: Layout, passphrase_file: Path | None, environment: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """Where the deployment has signer-hsm, one that makes its keys; if the block fails, they are destroyed."""
        if not self.deployment.backends:
            yield
            return
        backends = relocated(self.deployment.backends, final.root, self._layout.root)
        names, caller = backend_names(backends), self._spiffe("/operator/ceremony")
        state = SignerState(
            database_url=self._signer_url,
            backends=backends,
            passphrase_file=passphrase_file or self._layout.passphrase,
            key_policy=ceremony_key_policy(caller, names, (TENANT, *(TENANTS if self.deployment.signing else ()))),
        )
        async with temporary_signer(
            final.root.parent, state, caller, environment=environment, pool=self._pool
        ) as client:
            self._remote = RemoteKeyMaker(client, names, self._pool)
            self._progress(f"signer-hsm runs for the ceremony; its back ends: {', '.join(names)}")
            try:
                yield
            except BaseException as error:
                await self._remote.undo(error)
                raise

    async def hold(self) -> dict[str, _Root]:
        url = self.deployment.database_urls.get("ca", f"sqlite:///{self._layout.database}")
        await migrate(url, MIGRATIONS)
        database = await Database.open(url, clock=self._clock)
        try:
            await _refuse_used(database)
            roots = {family: await self._make_root(family) for family in self.deployment.families}
            await self._record_roots(database, roots)
            core = await self._make_issuing_cas(database, roots)
            await self._make_log_key()
            await core.start()
            self._progress("OCSP responders are certified, the first CRLs are signed")
            await self._make_identities(core)
            await self._make_signing_keys(core)
            await self._make_staples(core)
            await self._lay_out_crls(core)
        finally:
            await database.close()
        for service in self.deployment.services:
            write_audit_key(self._layout, service, self._passphrase)
        await self._begin_checkpoints("ca", url)
        if self.deployment.backends:
            await self._begin_checkpoints(SIGNER, self._signer_url)
        return roots

    async def _begin_checkpoints(self, service: str, url: str) -> None:
        await begin_checkpoints(self._layout, service, self._passphrase, url, clock=self._clock, pool=self._pool)

    @property
    def _signer_url(self) -> str:
        return self.deployment.database_urls.get(SIGNER, f"sqlite:///{self._layout.signer_database}")

    def seal_roots(self, roots: Mapping[str, _Root], final: Layout) -> None:
        """The last act: the roots' keys go offline."""
        target = final if final.offline_directory else self._layout
        target.offline.mkdir(parents=True, exist_ok=True, mode=0o700)
        for family, root in roots.items():
            create_file_key(target.root_key(family), ALGORITHMS[ROOT_KEYS[family]], self._passphrase, root.private_key)
        self._progress(f"root keys are sealed below {final.offline}; no service opens them")

    def _make_directories(self) -> None:
        layout = self._layout
        private = [layout.root / name for name in ("config", "secrets", "operator", "logs")]
        for service in self.deployment.services:
            private += [layout.state(service) / name for name in ("keys", "tls", "status")]
        if self.deployment.signing:
            private += [layout.signing_policies, layout.signing_trust]
        for directory in (*private, layout.issuers, layout.trust / "audit"):
            directory.mkdir(parents=True, mode=0o700)

    def _take_passphrase(self, file: Path | None) -> bytes:
        if file is not None:
            return read_passphrase(file)
        passphrase = base64.b64encode(secrets.token_bytes(32))
        write_new(self._layout.passphrase, passphrase + b"\n", 0o600)
        return passphrase

    async def _make_root(self, family: str) -> _Root:
        private_key = await asyncio.to_thread(generate_private_key, ALGORITHMS[ROOT_KEYS[family]])
        key = FileKey(f"ceremony:root-{family}", private_key, self._pool)
        name = f"{self.deployment.name} root {family}"
        certificate = await self_signed_root(self._profiles["root"], key, common_name=name, now=self._clock.now())
        write_atomically(self._layout.root_certificate(family), to_pem([certificate]), 0o644)
        self._progress(f"root {family}: {key.algorithm.name}, SHA-256 {_fingerprint(certificate)}")
        return _Root(certificate, private_key, key)

    async def _record_roots(self, database: Database, roots: Mapping[str, _Root]) -> None:
        bundle = to_pem([root.certificate for root in roots.values()])
        public = to_pem([root.certificate for family, root in roots.items() if family in PUBLIC_FAMILIES])
        write_atomically(self._layout.trust_bundle, bundle, 0o644)
        write_atomically(self._layout.tls_ca_bundle, public, 0o644)
        active = "".join(f"issuing-{family}\n" for family in roots)
        write_atomically(self._layout.issuers / ACTIVE, active.encode(), 0o644)
        events = [
            AuditEvent("root.made", CEREMONY, {"issuer": f"root-{family}", "sha256": _fingerprint(root.certificate)})
            for family, root in roots.items()
        ]
        await database.commit(Unit("roots", [], events))
        store = CaStore(database)
        for family, root in roots.items():
            crl, event = await sign_root_crl(f"root-{family}", root.certificate, root.key, None, [], self._clock)
            await store.store_crl(crl, event)

    async def _make_issuing_cas(self, database: Database, roots: Mapping[str, _Root]) -> Core:
        base = self.deployment.status_url
        cas, responder_keys = {}, {}
        above = {
            family: IssuingCa.of(make_root_issuer(f"root-{family}", family, root.certificate, base), root.key)
            for family, root in roots.items()
        }
        office = RootOffice.of(
            CaStore(database), above, self._profiles["issuing-ca"], self.deployment.trust_domain, self._clock
        )
        for family, root in roots.items():
            name = f"issuing-{family}"
            key = await self._issuing_key(name, self.deployment.issuing_algorithms.get(family, ISSUING_KEYS[family]))
            certificate = await office.certify(key, f"{self.deployment.name} issuing {family}")
            write_atomically(self._layout.issuer_certificate(family), to_pem([certificate]), 0o644)
            cas[name] = IssuingCa.of(make_issuer(name, family, certificate, root.certificate, base), key)
            responder_keys[name] = await self._responder_key(name, RESPONDER_KEYS[family])
            self._progress(
                f"issuing CA {family}: {key.algorithm.name}, serial {format_serial(certificate.serial_number)}"
            )
        certificates = {f"root-{family}": root.certificate for family, root in roots.items()}
        hierarchy = Hierarchy(cas, responder_keys, certificates)
        return build_core(database, hierarchy, self._rules(), self._clock)

    async def _make_log_key(self) -> None:
        """The key alone: the log begins with the CA's first start."""
        key: SigningKey
        if self._remote is None:
            key = self._new_key("ca", CT_LOG, CT_LOG_KEY)
        else:
            key = await self._remote.make(CT_LOG, CT_LOG_KEY)
            kinds = frozenset(self._remote.kinds)
            self.deployment = replace(self.deployment, ct_log_key=key.uri, payload_kinds=kinds)
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomically(self._layout.ct_log_public_key, pem, 0o644)
        self._progress(f"CT log: {CT_LOG_KEY}, log id {log_id(key.public_key).hex()}")

    def _rules(self) -> CoreRules:
        return CoreRules(
            trust_domain=self.deployment.trust_domain,
            profiles=self._profiles,
            responders_directory=self._layout.state("ca") / "responders",
            crl_lifetime=_CRL_LIFETIME,
            ocsp_lifetime=_OCSP_LIFETIME,
            ocsp_cache_entries=0,
        )

    async def _make_identities(self, core: Core) -> None:
        for service in self.deployment.services:
            directory = self._layout.identity(service)
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            identity = self._spiffe(f"/service/{service}")
            issued = await issue_identity(core.issuance, identity, "service", directory, self._pool)
            self._progress(f"identity {identity}: {IDENTITY_KEY}, serial {issued.serial}")
        operator = self._spiffe(f"/operator/{OPERATOR}")
        issued = await issue_identity(core.issuance, operator, "client", self._layout.operator, self._pool)
        self._progress(f"identity {operator}: {IDENTITY_KEY}, serial {issued.serial}")

    async def _make_signing_keys(self, core: Core) -> None:
        if self._remote is None or not self.deployment.signing:
            return
        keys = await make_signing_keys(self._remote, self._layout)
        kinds = {key_id: key.payload_kind for key_id, key in keys.items()}
        self.deployment = replace(self.deployment, signing_kinds=kinds)
        for key in keys.values():
            self._progress(f"key {key.uri}: {key.algorithm.name}, in the back end {self._remote.backend_of[key.uri]}")
        operator = self._spiffe(f"/operator/{OPERATOR}")
        wanted = timestamp_certificate(self.deployment.name, self._layout)
        issued = await certify_key(core.issuance, operator, wanted, keys[TIMESTAMP_KEY], self._layout)
        self._progress(f"time-stamping authority: serial {issued.serial}")
        for key_id in ARTEFACT_KEYS:
            wanted = artefact_certificate(key_id, self._layout)
            issued = await certify_key(core.issuance, operator, wanted, keys[key_id], self._layout)
            self._progress(f"certificate of {key_id}: serial {issued.serial}")

    async def _make_staples(self, core: Core) -> None:
        """Each service's first staple lies ready, so that none waits for another's listener."""
        for service in self.deployment.services:
            chain = (self._layout.identity(service) / "cert.pem").read_bytes()
            leaf, issuer, *_ = x509.load_pem_x509_certificates(chain)
            staple = await core.staple(leaf, issuer)
            write_atomically(self._layout.state(service) / "status" / staple_name(leaf), staple, 0o644)
        self._progress("the first OCSP staples are signed")

    async def _lay_out_crls(self, core: Core) -> None:
        """signer-hsm starts before the CA, so the first CRLs lie ready for it."""
        if self._remote is not None:
            status = self._layout.state(SIGNER) / "status"
            lists = LedgerLists(core.store)
            await ledger_crls(core.hierarchy.certificates, lists, status, self._clock, _STATUS_SECONDS).refresh()

    async def _issuing_key(self, name: str, algorithm: str) -> SigningKey:
        if self._remote is None:
            return self._new_key("ca", name, algorithm)
        key = await self._remote.make(name, algorithm)
        uris = {**self.deployment.issuing_keys, name: key.uri}
        self.deployment = replace(self.deployment, issuing_keys=uris, payload_kinds=frozenset(self._remote.kinds))
        self._progress(f"key {key.uri}: {algorithm}, in the back end {self._remote.backend_of[key.uri]}")
        return key

    async def _responder_key(self, issuer: str, algorithm: str) -> SigningKey:
        name = f"ocsp-{issuer}"
        if self._remote is None or not self.deployment.remote_responders:
            return self._new_key("ca", name, algorithm)
        key = await self._remote.make(name, algorithm)
        uris = {**self.deployment.responder_keys, issuer: key.uri}
        self.deployment = replace(self.deployment, responder_keys=uris, payload_kinds=frozenset(self._remote.kinds))
        return key

    def _new_key(self, service: str, name: str, algorithm: str) -> SigningKey:
        private_key = generate_private_key(ALGORITHMS[algorithm])
        path = self._layout.key(service, name)
        create_file_key(path, ALGORITHMS[algorithm], self._passphrase, private_key)
        return FileKey(f"file:{path}", private_key, self._pool)

    def _spiffe(self, path: str) -> SpiffeId:
        return SpiffeId(self.deployment.trust_domain, path)


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
