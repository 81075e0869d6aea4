"""`python -m services.acme --config FILE` runs the ACME server."""

from services.chassis.command import importing, service_command

with importing("acme", "acme"):
    from services.acme.app import MIGRATIONS, serve
    from services.acme.settings import AcmeSettings

main = service_command("acme", AcmeSettings, serve, migrations=MIGRATIONS)

if __name__ == "__main__":
    main()
