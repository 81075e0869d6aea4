"""Telling a tenant's receivers what happened: signed, repeated until taken, and never to where it must not go.

1 what happened and one row per receiver are one commit (`store.outbox`) · 2 the courier takes what is due, a few per
receiver at once, so that a slow one holds up no other · 3 the receiver's name is looked up, its addresses are checked,
and one of those is dialled (`chassis.outbound`); no redirect is followed · 4 the message is signed by Standard Webhooks
1.0 · 5 2xx settles it; anything else is tried again after a growing pause, then the delivery is dead, which the tenant
sees and can undo · 6 a process killed at any point leaves a row that comes up again: receivers get an event at least
once, always with the same id.
"""
