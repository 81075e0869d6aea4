"""JSON Web Keys and Signatures as ACME uses them, and OIDC tokens: RFC 7515, 7517, 7519, 7638, 8037 and 9964."""
