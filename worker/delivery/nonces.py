"""The nonce of a signed call: a hash of what the call is, so that a copy of it can be recognised. Pure.

Every process that makes the same call for the same reason derives the same nonce: after a crash, after a rebalance, and
when an attempt is repeated because its answer got lost. A server that remembers nonces then refuses the later copy
(403004). That proves that a request with this nonce *arrived*, never that it was executed: some servers burn a nonce
before they refuse. So whatever follows an answer carries the next nonce.
"""

from __future__ import annotations

from hashlib import blake2b

from worker.gigya.calls import Call

_BYTES = 16  # 128 bits


def nonce_of(
    run: str, group: str, topic: str, partition: int, offset: int, timestamp_ms: int, call: Call, refusals: int
) -> str:
    """Return 32 hex digits.

    `run` is empty for the live worker; a backfill and a replay make their calls anew on purpose, and have names of
    their own. `call.params` are those that are sent. `refusals` counts the answers so far that decided an attempt.
    """
    event, rule, item = call.name
    parts = [run, group, topic, rule]
    for pair in sorted(call.params.items()):
        parts += pair
    # Each text with its length, so that ("a", "bc") and ("ab", "c") differ; numbers cannot run into each other.
    texts = "".join([f"{len(part)}:{part}" for part in parts])
    whole = f"{partition},{offset},{timestamp_ms},{event},{item},{refusals},{texts}"
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=_BYTES).hexdigest()
