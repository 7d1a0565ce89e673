"""The runtime patches, one module each; see `registry.RuntimePatch`."""
