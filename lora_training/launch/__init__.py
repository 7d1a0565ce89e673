"""Pure: a configuration becomes the command, environment and folder of a child."""
