"""`python -m services.acme --config FILE` runs the ACME server."""

from services.acme.app import MIGRATIONS, serve
from services.acme.settings import AcmeSettings
from services.chassis.command import service_command

main = service_command("acme", AcmeSettings, serve, migrations=MIGRATIONS)

if __name__ == "__main__":
    main()
