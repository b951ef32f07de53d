"""gigya-worker: domain events from Kafka become Gigya calls.

The journey of one event:

    kafka/source        a batch of Records of the partitions that have room
    pipeline/engine     for each Record, synchronously, in slices, then the loop breathes
    codecs/             bytes -> Event
    mapping/mapper      Event -> Calls (none: filtered, and most records end here)
    pipeline/lanes      each Call joins the lane of its (site, UID): one in flight per user
    delivery/sender     gates -> sign -> transport -> Verdict -> again, or an Outcome
    deadletters         what could not be done, written before the offset moves
    pipeline/offsets    the finished prefix of each partition
    kafka/source        commits it

The rooms, from the ground up: errors, clock, logs, metrics | model | gigya, codecs | mapping | delivery, kafka,
deadletters | pipeline | admin and the commands' engines | settings | app | cli. Imports go down only
(tests/test_floors.py). `sandbox/` is another company's servers and shares no code with the rest.
"""
