"""What signer-hsm counts and times. Labels come from settings and fixed words, never from requests."""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_PAGING: Final = ("bad-answer", "denied", "misconfigured")
BREAKER_STATES: Final = ("closed", "half-open", "open")
Result = Literal["success", "failure"]


class SignerMetrics:
    """All of them, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        backend = ("backend",)
        self._seconds = Histogram(
            "signer_backend_seconds",
            "Time that a back end took, queue and repetitions included.",
            (*backend, "operation"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "signer_backend_failures",
            "What a back end did not do, by class of error.",
            (*backend, "operation", "class"),
            registry=registry,
        )
        self._in_use = Gauge("signer_backend_in_use", "Operations under way.", backend, registry=registry)
        self._workers = Gauge("signer_backend_workers", "Operations that can be under way.", backend, registry=registry)
        self._stuck = Gauge(
            "signer_backend_stuck_workers", "Workers past their deadline, still busy.", backend, registry=registry
        )
        self._breaker = Gauge(
            "signer_breaker_state", "0 closed, 1 half-open, 2 open (no calls).", backend, registry=registry
        )
        self._signatures = Counter(
            "signer_signatures", "Signatures asked of a back end.", (*backend, "scheme", "result"), registry=registry
        )
        self._decisions = Counter(
            "signer_decisions", "Decisions of the key policy.", ("act", "result"), registry=registry
        )
        self._ready = Gauge(
            "signer_backend_ready", "1 while signing would work, as last asked.", backend, registry=registry
        )
        self._sealed = Gauge("vault_sealed", "1 while the Vault server is sealed.", backend, registry=registry)
        self._token_ttl = Gauge(
            "vault_token_ttl_seconds", "Seconds until our Vault token expires.", backend, registry=registry
        )
        self._rotations = Counter("signer_rotations", "Key rotations.", ("result",), registry=registry)
        for result in ("success", "failure"):
            self._rotations.labels(result)
        self._policy = Gauge(
            "signer_policy_in_force", "1 while the policy in its file is in force.", ("file",), registry=registry
        )
        self._observers: dict[tuple[str, str], Callable[[float], None]] = {}
        self._signature_counts: dict[tuple[str, str, Result], Callable[[float], None]] = {}
        self._decision_counts: dict[tuple[str, str], Callable[[], None]] = {}

    def observe(self, backend: str, operation: str, seconds: float) -> None:
        """An operation has ended, well or not."""
        observer = self._observers.get((backend, operation))
        if observer is None:
            observer = self._observers[backend, operation] = self._seconds.labels(backend, operation).observe
        observer(seconds)

    def expect(self, backend: str, operations: Iterable[str]) -> None:
        """Shows the failures that page somebody from now on as 0: Prometheus sees no increase of what appears as 1."""
        for operation, cause in product(operations, _PAGING):
            self._failures.labels(backend, operation, cause)

    def failure(self, backend: str, operation: str, cause: str) -> None:
        """An operation has failed; `cause` is `BackendError.cause`."""
        self._failures.labels(backend, operation, cause).inc()

    def pool(self, backend: str, *, workers: int, in_use: Callable[[], int], stuck: Callable[[], int]) -> None:
        """Makes a back end's pool readable from now on."""
        self._workers.labels(backend).set(workers)
        self._in_use.labels(backend).set_function(lambda: float(in_use()))
        self._stuck.labels(backend).set_function(lambda: float(stuck()))

    def breaker(self, backend: str, state: Callable[[], str]) -> None:
        """Makes a circuit breaker readable from now on; `state` says one of `BREAKER_STATES`."""
        self._breaker.labels(backend).set_function(lambda: float(BREAKER_STATES.index(state())))

    def health(self, backend: str, *, ready: bool, detail: Mapping[str, object]) -> None:
        """What a back end last said of itself; `sealed` and `token_ttl_seconds` in its detail are Vault's."""
        self._ready.labels(backend).set(float(ready))
        sealed, token_ttl = detail.get("sealed"), detail.get("token_ttl_seconds")
        if isinstance(sealed, bool):
            self._sealed.labels(backend).set(float(sealed))
        if isinstance(token_ttl, int | float):
            self._token_ttl.labels(backend).set(token_ttl)

    def signatures(self, backend: str, scheme: str, result: Result, count: int = 1) -> None:
        """Signatures were made, or not."""
        add = self._signature_counts.get((backend, scheme, result))
        if add is None:
            add = self._signatures.labels(backend, scheme, result).inc
            self._signature_counts[backend, scheme, result] = add
        add(count)

    def decision(self, act: str, result: str) -> None:
        """The key policy has decided; `result` is allowed, refused, rate-limited, or busy: allowed, then no place."""
        count = self._decision_counts.get((act, result))
        if count is None:
            count = self._decision_counts[act, result] = self._decisions.labels(act, result).inc
        count()

    def policy_file(self, file: Literal["keys", "callers"], *, in_force: bool) -> None:
        """The key policy, or the one that says who may call what, was taken from its file, or was not."""
        self._policy.labels(file).set(float(in_force))

    def rotation(self, result: Result) -> None:
        """A key was rotated, or not."""
        self._rotations.labels(result).inc()
