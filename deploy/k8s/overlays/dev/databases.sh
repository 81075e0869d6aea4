#!/bin/sh
# Run once by PostgreSQL's image: an owner and a database for each service; nobody else may connect to it.
set -eu
for service in ca acme signer-hsm signing; do
    psql --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
        --set=service="$service" --set=password="$(cat "${PASSWORDS:-/run/passwords}/$service")" <<'SQL'
create role :"service" login password :'password';
create database :"service" owner :"service";
revoke all on database :"service" from public;
SQL
done
