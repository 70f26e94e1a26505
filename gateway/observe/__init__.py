"""Records what happened: metrics and the access log, from the exchange's own records."""
