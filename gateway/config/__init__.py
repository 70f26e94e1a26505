"""Reads the YAML: schema, load (errors with file:line:column), compile into an immutable snapshot."""
