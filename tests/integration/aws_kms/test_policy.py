"""The IAM policy of docs/operations/aws-kms.md lets the back end do all it does, and nothing with others' keys."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
from services.signer_hsm.errors import DeadlineError, DeniedError
from services.signer_hsm.schemes import SCHEMES
from tests.support.aws_iam import IamPolicy
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated
from tests.support.console import ROOT

P256 = ALGORITHMS["ecdsa-p256"]
LABEL = KeyLabel("ca", "issuing", 1)


def documented_policy() -> dict[str, Any]:
    """The policy as the page has it."""
    page = (ROOT / "docs/operations/aws-kms.md").read_text()
    found = re.search(r"```json\n(.*?)\n```", page, re.DOTALL)
    assert found
    policy: dict[str, Any] = json.loads(found[1])
    return policy


@pytest.fixture
def simulator(simulator: AwsKmsSimulator) -> AwsKmsSimulator:
    """AWS KMS, simulated, with the documented policy."""
    simulator.policy = IamPolicy(documented_policy())
    return simulator


@pytest.fixture
async def kms(simulator: AwsKmsSimulator) -> AsyncIterator[AwsKmsBackend]:
    """A back end under that policy."""
    backend = await open_simulated(simulator, SystemClock(), deadline_seconds=2.0, timeout_seconds=2.0)
    yield backend
    await backend.aclose()


async def test_the_policy_suffices_for_everything(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """A key's whole life, the finding of a nameless one, and health."""
    assert (await kms.health()).ready
    key = await kms.create(LABEL, P256)
    assert (await kms.health()).detail["probe"] == "Sign DryRun"
    await kms.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    await kms.set_enabled(key.handle, enabled=False)
    await kms.set_enabled(key.handle, enabled=True)
    await kms.attest(key.handle)
    simulator.account.aliases.clear()
    found = await kms.find(LABEL)
    assert found is not None
    assert found.handle == key.handle
    assert simulator.account.aliases
    assert not (await kms.destroy(key.handle)).final


async def test_no_statement_is_superfluous(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> None:
    """Without any one of the actions, something of the above is denied."""
    policy = documented_policy()
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            fewer = [*(other for other in policy["Statement"] if other is not statement)]
            fewer.append(statement | {"Action": [other for other in actions if other != action]})
            simulator.policy = IamPolicy({"Statement": fewer})
            simulator.account.aliases.clear()
            simulator.account.keys.clear()
            assert await denied_somewhere(simulator, kms), action


async def denied_somewhere(simulator: AwsKmsSimulator, kms: AwsKmsBackend) -> bool:
    """Whether a key's life meets a denial."""
    try:
        key = await kms.create(LABEL, P256)
        await kms.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
        await kms.set_enabled(key.handle, enabled=False)
        await kms.set_enabled(key.handle, enabled=True)
        simulator.account.aliases.clear()
        if await kms.find(LABEL) is None:
            return True  # tags that may not be read are those of nobody
        await kms.destroy(key.handle)
    except (DeniedError, DeadlineError) as error:
        return isinstance(error, DeniedError) or isinstance(error.__cause__, DeniedError)
    return False


@pytest.mark.parametrize(("tag", "value"), [("tenant", "payroll"), ("managed-by", "another"), ("tenant", None)])
async def test_keys_of_others_are_refused_by_aws(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend, tag: str, value: str | None
) -> None:
    """Even a service that is told another's ARN can do nothing with it."""
    account = simulator.account
    tags = {"managed-by": "pqcpki", "tenant": "ca", "name": "issuing", "version": "1"} | ({tag: value} if value else {})
    rows = [{"TagKey": key, "TagValue": text} for key, text in tags.items() if value or key != tag]
    made = account.create_key({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "Tags": rows})
    arn = made["KeyMetadata"]["Arn"]
    acts = (
        kms.sign(arn, SCHEMES["ES256"], "digest", [bytes(32)]),
        kms.load(arn),
        kms.set_enabled(arn, enabled=False),
        kms.destroy(arn),
        kms.attest(arn),
    )
    for act in acts:
        with pytest.raises(DeniedError):
            await act
    assert account.key(arn).state == "Enabled"
    assert account.key(arn).signatures == 0


async def test_a_tenant_that_the_policy_does_not_name_gets_no_key(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """The tags of the request decide, so nothing is made."""
    with pytest.raises(DeniedError):
        await kms.create(KeyLabel("payroll", "issuing", 1), P256)
    assert simulator.account.keys == {}


async def test_a_key_whose_own_policy_shuts_the_service_out_is_not_ours(
    simulator: AwsKmsSimulator, kms: AwsKmsBackend
) -> None:
    """Its tags cannot be read, and the search goes on."""
    simulator.account.create_key({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})
    simulator.fail("AccessDeniedException", operation="ListResourceTags")
    assert await kms.find(LABEL) is None
