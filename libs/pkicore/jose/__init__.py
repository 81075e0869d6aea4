"""JSON Web Keys and Signatures as ACME uses them: RFC 7515, 7517, 7638, 8037 and 9964."""
