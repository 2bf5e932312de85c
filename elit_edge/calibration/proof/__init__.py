"""The paired test of a precision against float32: what it measures, and the rules that judge it."""
