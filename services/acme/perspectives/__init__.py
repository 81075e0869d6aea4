"""Validation from several places of the network, so that whoever deceives one of them does not get a certificate.

A remote perspective is the ACME server's own validation, run elsewhere (`python -m services.acme.perspective`), with
its own resolver and its own guard against reserved addresses, and reached over mutual TLS.

| module        | what                                                                                     |
|---------------|------------------------------------------------------------------------------------------|
| wire          | the question and the answer as JSON, read strictly on both sides                         |
| corroboration | the primary first, then all others at once; how many must agree                          |
| remote        | one perspective as the ACME server asks it; making them from the settings                |
| endpoint      | what a perspective answers                                                               |
| service       | a perspective put together                                                               |
| settings      | what both sides are told                                                                 |
"""
