"""What Alembic runs for every service: the versions, on the connection and in the transaction that `migrate` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
