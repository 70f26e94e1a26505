"""Talks to clients: the HTTP/1.1 server and admission."""
