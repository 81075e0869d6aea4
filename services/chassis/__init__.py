"""What every service stands on: settings, database, audit, problems, the request frame, policy, logs, metrics, runner.

Knows no service. Everything here is constructed by a service's `app.py` and handed on as an argument.
"""
