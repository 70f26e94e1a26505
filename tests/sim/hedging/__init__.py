"""What hedging gains and costs, on virtual time: the gateway's real admission, core and driver before providers with long tails.

The law here: a provider's time to first content is drawn by dice of the client and the provider alone, so that runs which differ in
their policy meet the same luck, request by request, and a difference between them is the policy's. Apart from the storms, which ask
whether promises are kept, and not how fast: `python -m tests.sim.hedging` draws the curve.
"""
