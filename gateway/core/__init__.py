"""The part that decides. Pure: no I/O, no asyncio, no clock, no logging; `now` is an argument, the RNG is injected."""
