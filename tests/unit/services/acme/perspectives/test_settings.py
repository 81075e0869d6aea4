from pathlib import Path

import pytest
from pydantic import ValidationError

from services.acme.perspectives.settings import CorroborationSettings, RemotePerspective, usual_quorum
from services.acme.validation_settings import ValidationSettings
from services.chassis.settings import for_service, load_settings
from tests.support.validation_settings import validation_settings

OSLO = '[perspectives.oslo]\nurl = "https://oslo.example:4100"\n'
HONG_KONG = '[perspectives.hong-kong]\nurl = "https://hk.example:4100"\nspiffe_id = "spiffe://pki.example/service/hk"\n'


class Settings(CorroborationSettings):
    """What the ACME server is told of its perspectives."""

    model_config = for_service("corroborated")


def told(tmp_path: Path, toml: str) -> Settings:
    """The settings of a file."""
    file = tmp_path / "acme.toml"
    file.write_text(f'state_dir = "{tmp_path}"\npolicy_file = "{tmp_path}/policy.toml"\n{toml}')
    return load_settings(Settings, file)


@pytest.mark.parametrize(
    ("perspectives", "quorum"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (20, 18)]
)
def test_the_usual_quorum_is_that_of_public_cas(perspectives: int, quorum: int) -> None:
    """Of two to five one may disagree, of more two; the only one may not."""
    assert usual_quorum(perspectives) == quorum


def test_perspectives_are_tables_of_the_settings(tmp_path: Path) -> None:
    """Each has a URL and, unless it is said otherwise, the identity that its name implies."""
    found = told(tmp_path, OSLO + HONG_KONG)
    identities = [str(each.identity(name, "pki.example")) for name, each in found.perspectives.items()]
    assert identities == ["spiffe://pki.example/service/perspective-oslo", "spiffe://pki.example/service/hk"]
    assert found.quorum == 1
    assert told(tmp_path, "perspective_quorum = 2\n" + OSLO + HONG_KONG).quorum == 2
    assert told(tmp_path, "").quorum == 0


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("perspective_quorum = 2\n" + OSLO, "more than there are"),
        ("perspective_quorum = 1\n", "more than there are"),
        ("perspective_quorum = 0\n" + OSLO, "greater than or equal to 1"),
        ('[perspectives.oslo]\nurl = "http://oslo.example:4100"\n', "https://"),
        ('[perspectives.oslo]\nurl = "https://oslo.example:4100/v1"\n', "without a path"),
        ('[perspectives.oslo]\nurl = "https://o.example"\nspiffe_id = "oslo"\n', "SPIFFE"),
        ('[perspectives.oslo]\nurl = "https://o.example"\nweight = 2\n', r"perspectives\.oslo\.weight is no setting"),
        ('[perspectives."O slo"]\nurl = "https://o.example"\n', "pattern"),
    ],
)
def test_perspectives_that_make_no_sense_stop_the_start(tmp_path: Path, toml: str, reason: str) -> None:
    """A quorum that cannot be, a channel in the clear, a name that is none: the sentence says what is wrong."""
    with pytest.raises(Exception, match=reason):
        told(tmp_path, toml)


def test_identities_and_zones_are_lower_case(tmp_path: Path) -> None:
    """DNS has no case; the records and names they are compared with are lower case."""
    found: ValidationSettings = validation_settings(
        tmp_path, caa_identities="CA.Example", resolvers={"Corp.Example.": "10.0.0.53:53"}
    )
    assert found.caa_identities == ("ca.example",)
    assert found.resolvers == {"corp.example": "10.0.0.53:53"}


@pytest.mark.parametrize(
    "changed",
    [
        {"caa_identities": "https://ca.example"},
        {"caa_identities": ("ca.example.",)},
        {"resolvers": {"corp.example": "ns.corp.example:53"}},
        {"resolver": "nowhere"},
    ],
)
def test_names_that_no_record_has_are_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    """An identity that breaks the grammar of RFC 8659 could never match, and a resolver has an address."""
    with pytest.raises(ValidationError):
        validation_settings(tmp_path, **changed)


def test_a_perspective_is_known_by_its_name() -> None:
    """Without a SPIFFE ID of its own it has that of `ztca perspective create`."""
    told = RemotePerspective.model_validate({"url": "https://o.example"})
    assert str(told.identity("o", "pki.example")) == "spiffe://pki.example/service/perspective-o"
