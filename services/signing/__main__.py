"""`python -m services.signing --config FILE` runs the signing service."""

from services.chassis.command import importing, service_command

with importing("signing", "signing"):
    from services.signing.app import MIGRATIONS, serve
    from services.signing.errors import SigningError
    from services.signing.policy import SigningPolicyError
    from services.signing.settings import SigningSettings

main = service_command("signing", SigningSettings, serve, SigningError, SigningPolicyError, migrations=MIGRATIONS)

if __name__ == "__main__":
    main()
