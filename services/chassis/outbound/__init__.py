"""Requests to hosts that somebody else has named: addresses are checked, dialled as checked, and answers are bounded.

1 the name is looked up once (`resolver`) · 2 addresses that are not public are left out unless the operator allows them
(`addresses`) · 3 one of those that remain is dialled, never the name (`exchange`) · 4 no proxy, no cookie, no redirect
that the caller does not take himself through 1 to 3 again · 5 the answer is read as far as the caller needs, under a
bound; the time for all of it is the caller's to bound.
"""
