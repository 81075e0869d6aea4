"""Finding a key version in an AWS account by its label: by alias, and by tags where the alias was never made.

AWS has no search by tag in KMS itself, so the keys without any alias, of which there are few, are asked for their
tags. The bounds are there because an account may hold 100 000 keys of others; beyond them the answer is an error, never
"none".
"""

from collections.abc import Mapping
from typing import Final

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms.answers import rows, text
from services.signer_hsm.backends.aws_kms.client import KmsClient
from services.signer_hsm.backends.aws_kms.failures import code_of
from services.signer_hsm.backends.aws_kms.names import has_tags, key_arn_beside, tags_of
from services.signer_hsm.errors import DeniedError, KeyNotFoundError, NotOfferedError

PAGES: Final[Mapping[str, int]] = {"ListAliases": 100, "ListKeys": 1000, "ListResourceTags": 50}
"""Rows of a page at most, as the API reference has it; the service model allows more."""
MAX_PAGES: Final = 50
MAX_UNNAMED: Final = 100
ACCESS_DENIED: Final = "AccessDeniedException"


async def arn_behind(client: KmsClient, alias: str) -> str | None:
    """The ARN of the key that an alias leads to, None if it leads nowhere.

    Raises:
        BackendError: it could not be asked.
    """
    try:
        answer = await client.call("DescribeKey", KeyId=alias)
    except KeyNotFoundError:
        return None
    except DeniedError as error:
        if code_of(error) != ACCESS_DENIED:
            raise
        return (await _arns_by_alias(client)).get(alias)  # policies by tags deny what leads nowhere
    metadata = answer.get("KeyMetadata")
    return text(metadata if isinstance(metadata, Mapping) else {}, "Arn")


async def unnamed(client: KmsClient, prefix: str, label: KeyLabel) -> list[str]:
    """The ARNs of keys that carry the label's tags and have no alias at all: what a lost CreateAlias leaves.

    Args:
        client: asks.
        prefix: of the tags' `managed-by`.
        label: whose key.

    Raises:
        NotOfferedError: too many keys without alias to ask them all.
        BackendError: it could not be asked.
    """
    named = set((await _arns_by_alias(client)).values())
    arns = [text(row, "KeyArn") for row in await _listed(client, "ListKeys", "Keys")]
    candidates = [arn for arn in arns if arn not in named]
    if len(candidates) > MAX_UNNAMED:
        raise NotOfferedError(
            f"{len(candidates)} keys of this account have no alias, and the tags of {MAX_UNNAMED} are looked at;"
            f" give the service an account of its own, or the keys aliases"
        )
    wanted = tags_of(prefix, label)
    return [arn for arn in candidates if has_tags(await _tags(client, arn), wanted)]


async def _arns_by_alias(client: KmsClient) -> Mapping[str, str]:
    return {
        text(row, "AliasName"): key_arn_beside(text(row, "AliasArn"), text(row, "TargetKeyId"))
        for row in await _listed(client, "ListAliases", "Aliases")
        if "TargetKeyId" in row
    }


async def _tags(client: KmsClient, arn: str) -> list[dict[str, str]]:
    try:
        tags = await _listed(client, "ListResourceTags", "Tags", KeyId=arn)
    except KeyNotFoundError:  # it ceased to be between the two calls
        return []
    except DeniedError as error:
        if code_of(error) != ACCESS_DENIED:
            raise
        return []  # the key's own policy shuts us out, so it is not ours: ours have the default one
    return [{field: text(tag, field) for field in ("TagKey", "TagValue") if tag.get(field)} for tag in tags]


async def _listed(client: KmsClient, operation: str, field: str, **about: str) -> list[Mapping[str, object]]:
    """All rows: AWS may put fewer into a page than it was asked for."""
    found: list[Mapping[str, object]] = []
    marker: dict[str, str] = {}
    for _ in range(MAX_PAGES):
        page = await client.call(operation, Limit=PAGES[operation], **about, **marker)
        found += rows(page, field)
        if not page.get("Truncated"):
            return found
        marker = {"Marker": text(page, "NextMarker")}
    raise NotOfferedError(f"{operation} has more than {MAX_PAGES} pages; give the service an account of its own")
