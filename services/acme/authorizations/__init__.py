"""Authorizations and challenges (RFC 8555 §7.5), those of newAuthz (§7.4.1), and those that serve further orders."""
