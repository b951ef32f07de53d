"""Would a run go well? Asks Kafka and each site before anything is consumed, and changes nothing.

lines (what is told) <- judging, actions (pure: answers -> lines) <- asking, network (requests) <- examination (all).
"""
