"""The simulated AWS KMS refuses what AWS KMS refuses: each of its checks, once, from the wrong side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as SdkCredentials
from botocore.exceptions import ClientError

from tests.support.aws_iam import IamPolicy
from tests.support.aws_kms_simulator import CONTENT_TYPE, TARGET, AwsKmsSimulator
from tests.support.backend_aws_kms import simulator_session

Headers = dict[str, str]


@pytest.fixture
def simulator() -> Iterator[AwsKmsSimulator]:
    """AWS KMS, simulated; here a broken reply of its own may be the matter of a test."""
    with AwsKmsSimulator() as made:
        yield made


@pytest.fixture
def client(simulator: AwsKmsSimulator) -> Iterator[Any]:
    """The SDK's own client, repeating nothing and checking no parameters."""
    made = client_of(simulator_session(simulator), simulator)
    yield made
    made.close()


def client_of(session: boto3.Session, simulator: AwsKmsSimulator) -> Any:  # noqa: ANN401 - untyped SDK
    """A client at the simulator."""
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return session.client("kms", endpoint_url=simulator.url, config=config)


def code_of(act: Callable[..., object], **parameters: object) -> str:
    """The code of the refusal."""
    with pytest.raises(ClientError) as caught:
        act(**parameters)
    return str(caught.value.response["Error"]["Code"])


def signed_headers(
    simulator: AwsKmsSimulator, body: bytes, operation: str = "ListKeys", content_type: str = CONTENT_TYPE
) -> Headers:
    """The headers of a rightly signed request."""
    headers = {"X-Amz-Target": TARGET + operation, "Content-Type": content_type}
    request = AWSRequest("POST", simulator.url + "/", data=body, headers=headers)
    known = simulator.credentials
    SigV4Auth(SdkCredentials(known.key_id, known.secret), "kms", simulator.region).add_auth(request)
    return dict(request.headers.items())


def post(simulator: AwsKmsSimulator, body: bytes, headers: Headers) -> str:
    """The code of the answer, empty for a good one."""
    answer = httpx.post(simulator.url + "/", content=body, headers=headers, trust_env=False)
    return "" if answer.status_code == 200 else str(answer.json()["__type"])


def make(client: Any, spec: str = "ECC_NIST_P256", **more: object) -> str:  # noqa: ANN401 - untyped SDK
    """The ARN of a new key."""
    return str(client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY", **more)["KeyMetadata"]["Arn"])


# the signature of a request


def test_a_rightly_signed_request_passes(simulator: AwsKmsSimulator) -> None:
    """The simulator's own reading of SigV4 agrees with the SDK's signer, spaces in headers and all."""
    assert post(simulator, b"{}", signed_headers(simulator, b"{}")) == ""


HEADER_ATTACKS: dict[str, tuple[Callable[[Headers], Headers], str]] = {
    "no signature": (
        lambda headers: {key: value for key, value in headers.items() if key != "Authorization"},
        "MissingAuthenticationTokenException",
    ),
    "half a signature": (
        lambda headers: headers | {"Authorization": "AWS4-HMAC-SHA256"},
        "IncompleteSignatureException",
    ),
    "no date": (
        lambda headers: {key: value for key, value in headers.items() if key != "X-Amz-Date"},
        "IncompleteSignatureException",
    ),
    "another target than was signed": (
        lambda headers: headers | {"X-Amz-Target": TARGET + "ListAliases"},
        "InvalidSignatureException",
    ),
    "target not signed": (
        lambda headers: headers | {"Authorization": headers["Authorization"].replace(";x-amz-target", "")},
        "InvalidSignatureException",
    ),
    "host not signed": (
        lambda headers: headers | {"Authorization": headers["Authorization"].replace("host;", "")},
        "InvalidSignatureException",
    ),
    "another date than was signed": (
        lambda headers: (
            headers
            | {
                "X-Amz-Date": headers["X-Amz-Date"][:-3] + "00Z"
                if headers["X-Amz-Date"][-3:] != "00Z"
                else headers["X-Amz-Date"][:-3] + "01Z"
            }
        ),
        "InvalidSignatureException",
    ),
    "a day that is not the scope's": (
        lambda headers: headers | {"X-Amz-Date": "20200101T000000Z"},
        "InvalidSignatureException",
    ),
    "another region": (
        lambda headers: headers | {"Authorization": headers["Authorization"].replace("eu-central-1", "us-east-1")},
        "InvalidSignatureException",
    ),
    "another service": (
        lambda headers: headers | {"Authorization": headers["Authorization"].replace("/kms/", "/sts/")},
        "InvalidSignatureException",
    ),
    "a token that does not belong there": (
        lambda headers: headers | {"X-Amz-Security-Token": "token"},
        "UnrecognizedClientException",
    ),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS.values(), ids=HEADER_ATTACKS)
def test_a_signature_that_does_not_cover_the_request_is_refused(
    simulator: AwsKmsSimulator, attack: tuple[Callable[[Headers], Headers], str]
) -> None:
    """Whatever is changed after signing, the request is not served."""
    change, code = attack
    assert post(simulator, b"{}", change(signed_headers(simulator, b"{}"))) == code
    assert not simulator.calls


def test_another_body_than_was_signed_is_refused(simulator: AwsKmsSimulator) -> None:
    """The body's hash is part of what is signed."""
    assert post(simulator, b'{"Limit":1}', signed_headers(simulator, b"{}")) == "InvalidSignatureException"


def test_wrong_principals_are_refused(simulator: AwsKmsSimulator) -> None:
    """A wrong secret, an unknown key id, a missing token and an expired one each have their own answer."""
    wrong = client_of(simulator_session(simulator, secret="another"), simulator)
    assert code_of(wrong.list_keys) == "InvalidSignatureException"
    unknown = boto3.Session(aws_access_key_id="AKIDNOBODY", aws_secret_access_key="x", region_name=simulator.region)
    stranger = client_of(unknown, simulator)
    assert code_of(stranger.list_keys) == "UnrecognizedClientException"
    key_id = simulator.credentials.key_id
    simulator.principals[key_id] = replace(simulator.credentials, token="session-token")
    without = client_of(simulator_session(simulator), simulator)
    assert code_of(without.list_keys) == "UnrecognizedClientException"
    with_token = client_of(simulator_session(simulator, token="session-token"), simulator)
    assert with_token.list_keys()["Keys"] == []
    simulator.principals[key_id] = replace(simulator.principals[key_id], expired=True)
    assert code_of(with_token.list_keys) == "ExpiredTokenException"
    for made in (wrong, stranger, without, with_token):
        made.close()


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off_is_refused(simulator: AwsKmsSimulator, client: Any, minutes: int) -> None:  # noqa: ANN401 - untyped SDK
    """Five minutes either way."""
    simulator.skew = timedelta(minutes=minutes)
    assert code_of(client.list_keys) == "InvalidSignatureException"


# the protocol and the service model


def test_the_protocol_is_kept(simulator: AwsKmsSimulator) -> None:
    """Another content type, no JSON, and operations that are not there."""
    headers = signed_headers(simulator, b"{}")
    other = signed_headers(simulator, b"{}", content_type="application/json")
    assert post(simulator, b"{}", other) == "SerializationException"
    assert post(simulator, b"{", signed_headers(simulator, b"{")) == "SerializationException"
    assert post(simulator, b"{}", signed_headers(simulator, b"{}", "Encrypt")) == "UnknownOperationException"
    assert post(simulator, b"{}", headers | {"X-Amz-Target": "ListKeys"}) == "UnknownOperationException"
    long = bytes(256 * 1024 + 1)
    assert httpx.post(simulator.url, content=long, trust_env=False).status_code == 413


MODEL_ATTACKS: dict[str, tuple[str, dict[str, object]]] = {
    "a missing field": ("DescribeKey", {}),
    "an unknown field": ("ListKeys", {"Colour": "red"}),
    "a number for a text": ("DescribeKey", {"KeyId": 7}),
    "a text for a number": ("ListKeys", {"Limit": "7"}),
    "true for a number": ("ListKeys", {"Limit": True}),
    "a number out of bounds": ("ListKeys", {"Limit": 1001}),
    "an empty text": ("DescribeKey", {"KeyId": ""}),
    "a word that is not of the model": ("CreateKey", {"KeySpec": "ECC_NIST_P257"}),
    "a pattern that does not fit": ("CreateAlias", {"AliasName": "alias/a b", "TargetKeyId": "x"}),
    "no base64": ("Sign", {"KeyId": "x", "Message": "%", "SigningAlgorithm": "ECDSA_SHA_256"}),
    "an octet too many": ("Sign", {"KeyId": "x", "Message": "A" * 5464, "SigningAlgorithm": "ECDSA_SHA_256"}),
    "a list that is none": ("CreateKey", {"Tags": {}}),
    "a structure that is none": ("CreateKey", {"Tags": ["tag"]}),
}


@pytest.mark.parametrize("attack", MODEL_ATTACKS.values(), ids=MODEL_ATTACKS)
def test_requests_that_the_service_model_does_not_allow(
    simulator: AwsKmsSimulator, attack: tuple[str, dict[str, object]]
) -> None:
    """The model is the one that the SDK ships."""
    operation, asked = attack
    body = json.dumps(asked).encode()
    assert post(simulator, body, signed_headers(simulator, body, operation)) == "ValidationException"


def test_replies_of_its_own_are_held_against_the_model_too(simulator: AwsKmsSimulator, client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """A simulator that answers what AWS cannot answer tells on itself."""
    arn = make(client)
    simulator.account.key(arn).state = "Sleeping"
    assert code_of(client.describe_key, KeyId=arn) == "InternalFailure"
    assert simulator.broken_replies == ["DescribeKey: reply.KeyMetadata.KeyState: not one of the words of the model"]


# keys


def test_keys_that_cannot_be_made(client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """Specs and origins that are not simulated, usages that do not fit, tags that are not allowed."""
    tag = {"TagKey": "tenant", "TagValue": "ca"}
    usage = {"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"}
    assert code_of(client.create_key) == "UnsupportedOperationException"
    assert code_of(client.create_key, Origin="EXTERNAL", **usage) == "UnsupportedOperationException"
    assert code_of(client.create_key, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT") == "ValidationException"
    assert code_of(client.create_key, Tags=[tag, tag], **usage) == "TagException"
    assert code_of(client.create_key, Tags=[{"TagKey": "aws:x", "TagValue": ""}], **usage) == "TagException"
    many = [{"TagKey": f"tag-{number}", "TagValue": ""} for number in range(51)]
    assert code_of(client.create_key, Tags=many, **usage) == "TagException"


SIGN_REFUSALS: dict[str, tuple[str, int, str, str, str]] = {
    "a short digest": ("ECC_NIST_P256", 31, "DIGEST", "ECDSA_SHA_256", "ValidationException"),
    "a long digest": ("ECC_NIST_P384", 64, "DIGEST", "ECDSA_SHA_384", "ValidationException"),
    "a short digest for RSA": ("RSA_2048", 20, "DIGEST", "RSASSA_PSS_SHA_256", "ValidationException"),
    "another curve's algorithm": ("ECC_NIST_P256", 48, "DIGEST", "ECDSA_SHA_384", "InvalidKeyUsageException"),
    "another family's algorithm": ("ML_DSA_44", 64, "EXTERNAL_MU", "ECDSA_SHA_256", "InvalidKeyUsageException"),
    "mu for a curve": ("ECC_NIST_P256", 64, "EXTERNAL_MU", "ECDSA_SHA_256", "ValidationException"),
    "a short mu": ("ML_DSA_44", 63, "EXTERNAL_MU", "ML_DSA_SHAKE_256", "ValidationException"),
    "a digest for ML-DSA": ("ML_DSA_65", 32, "DIGEST", "ML_DSA_SHAKE_256", "ValidationException"),
    "a digest for Ed25519": ("ECC_NIST_EDWARDS25519", 64, "DIGEST", "ED25519_SHA_512", "ValidationException"),
    "Ed25519ph": ("ECC_NIST_EDWARDS25519", 64, "DIGEST", "ED25519_PH_SHA_512", "UnsupportedOperationException"),
}


@pytest.mark.parametrize("refusal", SIGN_REFUSALS.values(), ids=SIGN_REFUSALS)
def test_what_a_key_does_not_sign(client: Any, refusal: tuple[str, int, str, str, str]) -> None:  # noqa: ANN401 - untyped SDK
    """The answer is the same whether the signature is only rehearsed."""
    spec, octets, message_type, algorithm, code = refusal
    asked = {"KeyId": make(client, spec), "Message": bytes(octets), "MessageType": message_type}
    assert code_of(client.sign, SigningAlgorithm=algorithm, **asked) == code
    assert code_of(client.sign, SigningAlgorithm=algorithm, DryRun=True, **asked) == code


def test_a_rehearsal_makes_no_signature(simulator: AwsKmsSimulator, client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """DryRun answers an error that means success."""
    arn = make(client)
    asked = {"KeyId": arn, "Message": bytes(32), "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
    assert code_of(client.sign, DryRun=True, **asked) == "DryRunOperationException"
    assert simulator.account.key(arn).signatures == 0
    client.sign(**asked)
    assert simulator.account.key(arn).signatures == 1


STATES: dict[str, dict[str, str]] = {
    "Disabled": {"sign": "DisabledException", "get_public_key": "DisabledException"},
    "PendingDeletion": {
        "sign": "KMSInvalidStateException",
        "get_public_key": "KMSInvalidStateException",
        "enable_key": "KMSInvalidStateException",
        "disable_key": "KMSInvalidStateException",
        "schedule_key_deletion": "KMSInvalidStateException",
        "create_alias": "KMSInvalidStateException",
    },
    "PendingImport": {"sign": "KMSInvalidStateException", "enable_key": "KMSInvalidStateException"},
    "Unavailable": {"sign": "KeyUnavailableException"},
    "Enabled": {"cancel_key_deletion": "KMSInvalidStateException"},
}


@pytest.mark.parametrize("state", STATES)
def test_key_states_forbid_operations(simulator: AwsKmsSimulator, client: Any, state: str) -> None:  # noqa: ANN401 - untyped SDK
    """As the developer guide's table of key states has it."""
    arn = make(client)
    simulator.account.key(arn).state = state
    more: dict[str, dict[str, object]] = {
        "sign": {"Message": bytes(32), "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"},
        "create_alias": {"AliasName": "alias/x"},
    }
    for operation, code in STATES[state].items():
        named = "TargetKeyId" if operation == "create_alias" else "KeyId"
        assert code_of(getattr(client, operation), **{named: arn}, **more.get(operation, {})) == code
    assert client.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == state


def test_deletion_windows_and_ends(simulator: AwsKmsSimulator, client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """Seven to thirty days; a cancelled key is disabled, a deleted one is unknown with its aliases."""
    arn = make(client)
    client.create_alias(AliasName="alias/x", TargetKeyId=arn)
    for days in (6, 31):
        assert code_of(client.schedule_key_deletion, KeyId=arn, PendingWindowInDays=days) == "ValidationException"
    client.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    client.cancel_key_deletion(KeyId=arn)
    assert client.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "Disabled"
    client.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    simulator.account.key(arn).deletion_date = datetime.now(UTC) - timedelta(days=1)
    assert code_of(client.describe_key, KeyId="alias/x") == "NotFoundException"
    assert simulator.account.aliases == {}


def test_names_that_lead_nowhere(client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """Unknown ids, aliases, other regions, and keys that are too new."""
    for key_id in ("x", "alias/x", "arn:aws:kms:us-east-1:111122223333:key/x"):
        assert code_of(client.describe_key, KeyId=key_id) == "NotFoundException"


def test_a_new_key_is_not_known_everywhere_at_once(simulator: AwsKmsSimulator, client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """As many calls as it is told to lag."""
    simulator.account.lag = 2
    arn = make(client)
    assert client.list_keys()["Keys"] == []
    assert [code_of(client.describe_key, KeyId=arn) for _ in range(2)] == ["NotFoundException"] * 2
    assert client.describe_key(KeyId=arn)["KeyMetadata"]["Arn"] == arn


# aliases and listings


def test_aliases_that_are_refused(client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """Names, targets, doubles, and too many of them."""
    arn = make(client)
    for name, target, code in (
        ("x", arn, "InvalidAliasNameException"),
        ("alias/", arn, "InvalidAliasNameException"),
        ("alias/aws/mine", arn, "NotAuthorizedException"),
        ("alias/x", "alias/y", "ValidationException"),
        ("alias/x", "nobody", "NotFoundException"),
    ):
        assert code_of(client.create_alias, AliasName=name, TargetKeyId=target) == code
    for number in range(50):
        client.create_alias(AliasName=f"alias/{number}", TargetKeyId=arn)
    assert code_of(client.create_alias, AliasName="alias/0", TargetKeyId=arn) == "AlreadyExistsException"
    assert code_of(client.create_alias, AliasName="alias/x", TargetKeyId=arn) == "LimitExceededException"


def test_listings_come_in_pages(client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """A marker leads to the next page; another one is refused."""
    arns = [make(client, Tags=[{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": "2"}]) for _ in range(3)]
    first = client.list_keys(Limit=2)
    assert first["Truncated"]
    second = client.list_keys(Limit=2, Marker=first["NextMarker"])
    assert not second["Truncated"]
    assert [row["KeyArn"] for row in first["Keys"] + second["Keys"]] == arns
    assert client.list_resource_tags(KeyId=arns[0], Limit=1)["Truncated"]
    for operation, limit in ((client.list_aliases, 101), (client.list_keys, 1001)):
        assert code_of(operation, Limit=limit) == "ValidationException"
    assert code_of(client.list_resource_tags, KeyId=arns[0], Limit=51) == "ValidationException"
    for marker in ("x", "99"):
        assert code_of(client.list_keys, Marker=marker) == "InvalidMarkerException"


# who may


def test_a_policy_denies_by_default(simulator: AwsKmsSimulator, client: Any) -> None:  # noqa: ANN401 - untyped SDK
    """Action, resource and tags all have to agree, and a denial wins."""
    mine, other = (make(client, Tags=[{"TagKey": "tenant", "TagValue": name}]) for name in ("mine", "other"))
    condition = {"StringEquals": {"aws:ResourceTag/tenant": "mine"}}
    allow = {"Effect": "Allow", "Action": "kms:Describe*", "Resource": "arn:aws:kms:*:*:key/*", "Condition": condition}
    simulator.policy = IamPolicy({"Statement": [allow]})
    assert client.describe_key(KeyId=mine)
    assert code_of(client.describe_key, KeyId=other) == "AccessDeniedException"
    assert code_of(client.get_public_key, KeyId=mine) == "AccessDeniedException"
    assert code_of(client.describe_key, KeyId="nobody") == "AccessDeniedException"
    deny = {"Effect": "Deny", "Action": ["kms:*"], "Resource": mine}
    simulator.policy = IamPolicy({"Statement": [allow, deny]})
    assert code_of(client.describe_key, KeyId=mine) == "AccessDeniedException"


@pytest.mark.parametrize(
    "statement",
    [
        {"NotAction": "kms:Sign"},
        {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
        {"Condition": {"StringEquals": {"kms:KeySpec": "RSA_2048"}}},
        {"Effect": "Perhaps"},
    ],
)
def test_a_policy_that_is_not_understood_is_refused(statement: dict[str, object]) -> None:
    """Else a test would pass by a rule that nobody applied."""
    with pytest.raises(ValueError, match="not simulated"):
        IamPolicy({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"} | statement]})
