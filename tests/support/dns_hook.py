"""The hook of certbot and lego for dns-01: adds or removes the TXT record in the DNS simulator's records file.

Usage: dns_hook.py add|remove RECORDS.json, with CERTBOT_DOMAIN and CERTBOT_VALIDATION in the environment (certbot);
or dns_hook.py present|cleanup RECORDS.json NAME. VALUE (lego).
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Change the records file by replacing it."""
    action, file = sys.argv[1], Path(sys.argv[2])
    name, value = (given[0].rstrip("."), given[1]) if (given := sys.argv[3:]) else _by_certbot()
    records = json.loads(file.read_text())
    values = records.setdefault(name, {"TXT": []})["TXT"]
    if action in {"add", "present"}:
        values.append(value)
    else:
        values.remove(value)
    temporary = file.with_suffix(".hook")
    temporary.write_text(json.dumps(records))
    temporary.replace(file)


def _by_certbot() -> tuple[str, str]:
    return "_acme-challenge." + os.environ["CERTBOT_DOMAIN"], os.environ["CERTBOT_VALIDATION"]


if __name__ == "__main__":
    main()
