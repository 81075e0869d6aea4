"""How control of an identifier is proven (RFC 8555 §8): a module per challenge type.

Everything fetched here is named by the applicant, so it is hostile: addresses are checked and dialled as checked
(`services.chassis.outbound`), every answer is bounded in bytes and time, and nothing fetched is repeated.
"""
