"""Incidents: what must be renewed now, and how far that has come."""
