"""What rate-limit shaping comes to: the gateway's real admission, core and driver before providers with true token buckets.

`python -m tests.sim.shaping` prints the whole table; `tests/sim/test_shaping.py` asserts on its rows, most of them shortened. Every
figure is read from the providers' and the clients' side; what the gateway believes of a limit is never asked.
"""
