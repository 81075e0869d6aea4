"""`python -m services.signer_hsm --config FILE` runs signer-hsm."""

from services.chassis.command import service_command
from services.signer_hsm.app import MIGRATIONS, serve
from services.signer_hsm.errors import SignerError
from services.signer_hsm.settings import SignerSettings

main = service_command("signer-hsm", SignerSettings, serve, SignerError, migrations=MIGRATIONS)

if __name__ == "__main__":
    main()
