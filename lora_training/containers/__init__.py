"""Containers through the Docker SDK: Docker itself, or Podman, whose socket has the same interface.

The SDK is imported only where an engine is used, since the import takes a tenth of a second.
"""
