from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, ValidationError, model_validator

from services.chassis.errors import SettingsError
from services.chassis.settings import (
    PlainKeyUri,
    Port,
    ServiceSettings,
    Texts,
    base_url,
    for_service,
    load_settings,
    read_text,
    unknown_variables,
)


class BakerySettings(ServiceSettings):
    """Settings of a service that exists for these tests."""

    model_config = for_service("bak-ery")

    port: Port = Field(0, description="Port of the counter.")
    oven_seconds: int = Field(30, ge=1, le=3600, description="Time in the oven.")
    breads: Texts = Field((), description="What is baked.")
    seal: PlainKeyUri = Field("", description="What loaves are sealed with.")


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A file with everything that has no default."""
    path = tmp_path / "bakery.toml"
    path.write_text(
        f'state_dir = "{tmp_path}"\n'
        f'database_url = "sqlite:///{tmp_path}/b.sqlite3"\n'
        f'policy_file = "{tmp_path}/policy.toml"\n'
        "port = 8080\n"
    )
    return path


def add(toml: Path, line: str) -> None:
    """One more line in the file."""
    toml.write_text(toml.read_text() + line + "\n")


def test_a_file_fills_the_fields_and_the_rest_are_defaults(toml: Path) -> None:
    """What the file says is taken, what it does not say has its default, and listeners stay on loopback."""
    settings = load_settings(BakerySettings, toml)
    assert (settings.port, settings.oven_seconds, settings.host, settings.ops_host) == (
        8080,
        30,
        "127.0.0.1",
        "127.0.0.1",
    )


def test_the_environment_wins_over_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable named after service and field replaces the file's value."""
    monkeypatch.setenv("PQCPKI_BAK_ERY_PORT", "9090")
    assert load_settings(BakerySettings, toml).port == 9090


def test_the_environment_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is needed."""
    monkeypatch.setenv("PQCPKI_BAK_ERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PQCPKI_BAK_ERY_DATABASE_URL", "postgresql://baker@db/bakery")
    monkeypatch.setenv("PQCPKI_BAK_ERY_POLICY_FILE", str(tmp_path / "p"))
    assert load_settings(BakerySettings, None).state_dir == tmp_path


def test_another_services_variables_mean_nothing(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only variables with this service's prefix are looked at."""
    monkeypatch.setenv("PQCPKI_MILL_PORT", "1")
    monkeypatch.setenv("PORT", "2")
    assert load_settings(BakerySettings, toml).port == 8080


def test_lists_are_toml_lists_or_comma_separated(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both spellings of a list give the same tuple."""
    add(toml, 'breads = ["rye", "wheat"]')
    assert load_settings(BakerySettings, toml).breads == ("rye", "wheat")
    monkeypatch.setenv("PQCPKI_BAK_ERY_BREADS", "spelt, oat,")
    assert load_settings(BakerySettings, toml).breads == ("spelt", "oat")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "65536", "port is wrong: .*65535"),
        ("PORT", "-1", "port is wrong"),
        ("PORT", "http", "port is wrong"),
        ("OVEN_SECONDS", "0", "oven_seconds is wrong"),
        ("OVEN_SECONDS", "1.5", "oven_seconds is wrong"),
        ("LOG_LEVEL", "loud", "log_level is wrong: .*'debug'"),
        ("STATE_DIR", "relative/dir", "state_dir is wrong: must be an absolute path"),
        ("TRUST_DOMAIN", "Upper Case", "trust_domain is wrong"),
        ("DATABASE_URL", "mysql://x/y", "database_url is wrong: .*must be sqlite"),
        ("DATABASE_URL", "sqlite://", "database_url is wrong: .*must be sqlite"),
        ("DATABASE_URL", "nonsense", "database_url is wrong: .*is not a URL"),
        ("HOST", "", "host is wrong"),
    ],
)
def test_nonsense_is_refused_with_the_fields_name(
    toml: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    """The error is one line that names the field, the reason and the variable that sets it."""
    monkeypatch.setenv(f"PQCPKI_BAK_ERY_{name}", value)
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_settings(BakerySettings, toml)
    assert f"PQCPKI_BAK_ERY_{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


class PairSettings(BakerySettings):
    """Settings of which two must fit together."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.port == 8080:
            raise ValueError("port is less than oven_seconds times a hundred, so that bread and port are one")
        if self.port == 8081:
            raise ValueError("nothing fits")
        return self


def test_fields_that_do_not_fit_together_are_named(toml: Path) -> None:
    """Each that the reason names, with its variable, once; no variable that does not exist."""
    with pytest.raises(SettingsError) as caught:
        load_settings(PairSettings, toml)
    assert str(caught.value) == (
        "the settings do not fit together: port is less than oven_seconds times a hundred, so that bread and port are "
        f"one (set in {toml} or as PQCPKI_BAK_ERY_PORT, PQCPKI_BAK_ERY_OVEN_SECONDS)"
    )
    toml.write_text(toml.read_text().replace("8080", "8081"))
    with pytest.raises(SettingsError, match=r"^the settings do not fit together: nothing fits$"):
        load_settings(PairSettings, toml)


def test_a_missing_field_says_where_to_set_it(tmp_path: Path) -> None:
    """The sentence names file and variable."""
    path = tmp_path / "empty.toml"
    path.write_text("")
    with pytest.raises(
        SettingsError, match=r"state_dir is missing: set it in .*empty\.toml or as PQCPKI_BAK_ERY_STATE_DIR"
    ):
        load_settings(BakerySettings, path)


def test_an_unknown_key_is_refused_with_a_guess(toml: Path) -> None:
    """A misspelt key in the file is not ignored."""
    add(toml, "oven_second = 3")
    with pytest.raises(SettingsError, match=r"oven_second is no setting; did you mean oven_seconds\?"):
        load_settings(BakerySettings, toml)


def test_an_unknown_variable_is_told_of_with_a_guess(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable has no effect, and a sentence says so; those of other programs are not our business."""
    monkeypatch.setenv("PQCPKI_BAK_ERY_PROT", "1")
    monkeypatch.setenv("PQCPKI_SMITHY_PORT", "1")
    load_settings(BakerySettings, toml)
    (sentence,) = unknown_variables(BakerySettings)
    assert sentence.endswith("PQCPKI_BAK_ERY_PROT, which is no setting; did you mean PQCPKI_BAK_ERY_PORT?")


def test_a_file_that_cannot_be_read_or_parsed_is_named(tmp_path: Path) -> None:
    """Missing files, broken TOML and foreign bytes are told apart."""
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none\.toml: No such file"):
        load_settings(BakerySettings, tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    for content in (b"port = ", b"\xff\xfe"):
        broken.write_bytes(content)
        with pytest.raises(SettingsError, match=r"broken\.toml is not TOML"):
            load_settings(BakerySettings, broken)


def test_a_password_in_the_database_url_is_not_shown(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors about a URL hide its password."""
    monkeypatch.setenv("PQCPKI_BAK_ERY_DATABASE_URL", "mysql://baker:hunter2@db/bakery")
    with pytest.raises(SettingsError) as caught:
        load_settings(BakerySettings, toml)
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change_after_the_start(toml: Path) -> None:
    """The object is frozen."""
    settings = load_settings(BakerySettings, toml)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_settings_name_plain_paths(toml: Path, tmp_path: Path) -> None:
    """However a path, a key's URI or a SQLite database was written, errors and logs name it without detours."""
    text = toml.read_text().replace(str(tmp_path), f"{tmp_path}/x/..")
    toml.write_text(f'{text}seal = "file:{tmp_path}/x/../seal.key"\n')
    settings = load_settings(BakerySettings, toml)
    assert settings.state_dir == tmp_path
    assert settings.policy_file == tmp_path / "policy.toml"
    assert settings.database_url == f"sqlite:///{tmp_path}/b.sqlite3"
    assert settings.seal == f"file:{tmp_path}/seal.key"


@pytest.mark.parametrize("uri", ["signer-hsm:ca.issuing-ecdsa/1", "file:relative/../key"])
def test_other_key_uris_stay_as_they_are(toml: Path, uri: str) -> None:
    """Whoever opens the key says what is wrong with them."""
    add(toml, f'seal = "{uri}"')
    assert load_settings(BakerySettings, toml).seal == uri


def test_a_plain_database_url_is_left_alone(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords and options in it reach the driver as they were written."""
    url = "postgresql://baker:s%2Fcret@db/bakery?ssl=require"
    monkeypatch.setenv("PQCPKI_BAK_ERY_DATABASE_URL", url)
    assert load_settings(BakerySettings, toml).database_url == url


def test_a_file_that_a_setting_names(tmp_path: Path) -> None:
    """Its text, or a sentence that names it."""
    path = tmp_path / "policy.toml"
    with pytest.raises(SettingsError, match=r"policy\.toml cannot be read: No such file"):
        read_text(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"policy\.toml is not a text in UTF-8"):
        read_text(path)
    path.write_text("brötchen", encoding="utf-8")
    assert read_text(path) == "brötchen"


@pytest.mark.parametrize("url", ["", "ca", "ftp://ca", "https://", "https://ca/api", "https://ca?x=1", "https:/ca"])
def test_what_is_no_base_url(url: str) -> None:
    """A base URL is http or https, a host, perhaps a port, and nothing else."""
    with pytest.raises(ValueError, match="without a path"):
        base_url(url)


def test_a_base_url_has_no_slash_at_its_end() -> None:
    """Paths are appended to it."""
    assert base_url("https://ca:5000/") == base_url("https://ca:5000") == "https://ca:5000"
