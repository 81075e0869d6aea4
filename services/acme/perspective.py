"""`python -m services.acme.perspective --config FILE` runs a remote perspective of the ACME server."""

from services.chassis.command import importing, service_command

with importing("perspective", "acme"):
    from services.acme.perspectives.service import serve
    from services.acme.perspectives.settings import SERVICE, PerspectiveSettings

main = service_command(SERVICE, PerspectiveSettings, serve)

if __name__ == "__main__":
    main()
