"""What each provider's wire looks like: addresses, credentials, error tables, rate-limit headers, streams. Pure."""
