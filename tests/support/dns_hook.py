"""certbot's manual hook for dns-01: adds or removes the TXT record in the DNS simulator's records file.

Usage: dns_hook.py add|remove RECORDS.json, with CERTBOT_DOMAIN and CERTBOT_VALIDATION in the environment.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Change the records file by replacing it."""
    action, file = sys.argv[1], Path(sys.argv[2])
    name = "_acme-challenge." + os.environ["CERTBOT_DOMAIN"]
    records = json.loads(file.read_text())
    values = records.setdefault(name, {"TXT": []})["TXT"]
    if action == "add":
        values.append(os.environ["CERTBOT_VALIDATION"])
    else:
        values.remove(os.environ["CERTBOT_VALIDATION"])
    temporary = file.with_suffix(".hook")
    temporary.write_text(json.dumps(records))
    temporary.replace(file)


if __name__ == "__main__":
    main()
