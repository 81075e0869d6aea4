from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.gcp_kms.names import Names, labels_of
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import KeyNotFoundError

SETTINGS = GcpKmsSettings.model_validate(
    {"name": "gcp", "type": "gcp_kms", "project": "my.project", "location": "europe-west3"}
)
NAMES = Names(SETTINGS)
ID = re.compile(r"[a-zA-Z0-9_-]{1,63}")
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
LABELS = st.builds(
    KeyLabel,
    st.text("ab-1", max_size=31).map("t".__add__),
    st.text("ab-1", max_size=62).map("n".__add__),
    st.sampled_from([1, 2, 11, 2**31 - 1]),
)


def test_a_usual_name_can_be_read() -> None:
    """Ring, key and version show tenant, name and version to whoever looks at the console."""
    assert NAMES.version(KeyLabel("ca", "issuing-ecdsa", 3)) == (
        "projects/my.project/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/issuing-ecdsa_v3/cryptoKeyVersions/1"
    )


@PATIENT
@given(LABELS)
def test_every_label_makes_names_that_kms_takes_and_we_know_again(label: KeyLabel) -> None:
    """Ids are within KMS's rules, a handle of ours is known as ours, and so are the labels' values."""
    assert ID.fullmatch(NAMES.key_id(label))
    assert ID.fullmatch(Names(SETTINGS.model_copy(update={"key_ring_prefix": "p" * 30})).ring_id(label.tenant))
    assert NAMES.checked(NAMES.version(label)) == NAMES.version(label)
    for key, value in labels_of(label).items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
        assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)


@PATIENT
@given(LABELS, LABELS)
def test_two_labels_never_share_a_name(one: KeyLabel, other: KeyLabel) -> None:
    """Different labels are different crypto keys."""
    assert (NAMES.key(one) == NAMES.key(other)) == (one == other)


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    """Where a name has to be cut, a hash of all of it keeps it apart, from short ones too."""
    names = ["n" * 62 + "a", "n" * 62 + "b", "n" * 63, "n" * 60, "n" * 59]
    ids = [Names.key_id(KeyLabel("t", name, version)) for name in names for version in (1, 11, 2**31 - 1)]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) == 63


@pytest.mark.parametrize(
    "handle",
    [
        "projects/myxproject/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/k_v1/cryptoKeyVersions/1",
        "projects/my.project/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/k_v1/cryptoKeyVersions/2",
        "projects/my.project/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/k_v1/cryptoKeyVersions/1\n",
        "projects/my.project/locations/europe-west3/keyRings/other-ca/cryptoKeys/k_v1/cryptoKeyVersions/1",
        "projects/my.project/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/a/b/cryptoKeyVersions/1",
        "x/projects/my.project/locations/europe-west3/keyRings/pqcpki-ca/cryptoKeys/k_v1/cryptoKeyVersions/1",
    ],
)
def test_what_is_not_below_our_own_prefix_is_no_handle(handle: str) -> None:
    """A dot in the project is a dot, and nothing may stand before or after."""
    with pytest.raises(KeyNotFoundError):
        NAMES.checked(handle)
