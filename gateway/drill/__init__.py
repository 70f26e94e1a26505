"""Rehearses failure: simulated providers, fault scripts, the demo."""
