"""Talks to providers: connections, pool, the driver that carries out an exchange's actions, the relay into a `Sink`."""
