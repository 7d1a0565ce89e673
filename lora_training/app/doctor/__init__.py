"""Whether this machine is in order for a training: each check gives findings, and none of them changes anything."""
