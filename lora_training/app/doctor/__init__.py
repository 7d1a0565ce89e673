"""The checks of `lora doctor`: is this machine ready for a training? No check changes anything."""
