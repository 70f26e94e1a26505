"""Runs it: process life, signals, reload, drain."""
