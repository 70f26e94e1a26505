"""Shows and steers: metrics, health, reload, through the small `Control` protocol."""
