"""Statements of devices about their keys, verified offline against roots that the operator supplies."""
