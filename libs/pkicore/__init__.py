"""The PKI core: keys, certificates, CRLs, OCSP, JWS, audit chain and the mutual-TLS transport; knows no service."""
