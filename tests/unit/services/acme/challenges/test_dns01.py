from services.acme.challenges.dns01 import txt_value


def test_txt_value_is_the_digest_without_padding() -> None:
    """The TXT value is base64url(SHA-256(key authorization)); the example was computed with openssl."""
    assert txt_value("abc") == "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
