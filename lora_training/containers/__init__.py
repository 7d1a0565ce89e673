"""A container engine, by the Docker SDK: Docker's own, or Podman, whose socket speaks the same.

The SDK is imported when an engine is wanted, and nowhere else: it takes a tenth of a second.
"""
