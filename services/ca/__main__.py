"""`python -m services.ca --config FILE` runs the CA."""

from services.ca.app import MIGRATIONS, serve
from services.ca.errors import CaServiceError
from services.ca.settings import CaSettings
from services.chassis.command import service_command

main = service_command("ca", CaSettings, serve, CaServiceError, migrations=MIGRATIONS)

if __name__ == "__main__":
    main()
