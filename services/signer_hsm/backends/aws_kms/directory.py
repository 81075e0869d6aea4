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

PAGE: Final = 1000
MAX_PAGES: Final = 20
TAGS_PAGE: Final = 50
MAX_UNNAMED: Final = 100


async def arns_by_alias(client: KmsClient) -> Mapping[str, str]:
    """The key ARN behind every alias of the account and region.

    Raises:
        BackendError: it could not be asked, or there are too many.
    """
    return {
        text(row, "AliasName"): key_arn_beside(text(row, "AliasArn"), text(row, "TargetKeyId"))
        for row in await _listed(client, "ListAliases", "Aliases")
        if "TargetKeyId" in row
    }


async def unnamed_arns(client: KmsClient, prefix: str, label: KeyLabel, named: frozenset[str]) -> list[str]:
    """Keys that carry the label's tags and have no alias at all: what a lost CreateAlias leaves.

    Args:
        client: asks.
        prefix: of the tags' `managed-by`.
        label: whose key.
        named: ARNs that some alias points to.

    Raises:
        NotOfferedError: too many keys without alias to ask them all.
        BackendError: it could not be asked.
    """
    arns = [text(row, "KeyArn") for row in await _listed(client, "ListKeys", "Keys")]
    candidates = [arn for arn in arns if arn not in named]
    if len(candidates) > MAX_UNNAMED:
        raise NotOfferedError(
            f"{len(candidates)} keys of this account have no alias, and the tags of {MAX_UNNAMED} are looked at;"
            f" give the service an account of its own, or the keys aliases"
        )
    wanted = tags_of(prefix, label)
    return [arn for arn in candidates if has_tags(await _tags(client, arn), wanted)]


async def _tags(client: KmsClient, arn: str) -> list[dict[str, str]]:
    try:
        answer = await client.call("ListResourceTags", KeyId=arn, Limit=TAGS_PAGE)
    except KeyNotFoundError:  # it ceased to be between the two calls
        return []
    except DeniedError as error:
        if code_of(error) != "AccessDeniedException":
            raise
        return []  # the key's own policy shuts us out, so it is not ours: ours have the default one
    return [
        {field: text(row, field) for field in ("TagKey", "TagValue") if row.get(field)} for row in rows(answer, "Tags")
    ]


async def _listed(client: KmsClient, operation: str, field: str) -> list[Mapping[str, object]]:
    found: list[Mapping[str, object]] = []
    page = await client.call(operation, Limit=PAGE)
    for _ in range(MAX_PAGES):
        found += rows(page, field)
        if not page.get("Truncated"):
            return found
        page = await client.call(operation, Limit=PAGE, Marker=text(page, "NextMarker"))
    raise NotOfferedError(f"{operation} has more than {MAX_PAGES * PAGE} rows; give the service an account of its own")
