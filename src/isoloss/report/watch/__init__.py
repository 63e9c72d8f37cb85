"""A local page that shows a study while it is trained; it only reads the store.

``reading``: what a store gained since the last look. ``plan``: the runs and stretches that are looked for.
``leases``: who is at work. ``expected``: where running runs are likely to end. ``watch``: the records that the page is
sent, each with the version at which it last changed. ``server``: the thread that looks, and the HTTP server.
"""
