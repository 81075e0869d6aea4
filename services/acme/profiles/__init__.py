"""Profiles that orders may name (draft-ietf-acme-profiles), and the settings that make them."""
