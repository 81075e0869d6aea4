"""The signing service: artefact signatures with SBOM, provenance and policy decision on record."""
