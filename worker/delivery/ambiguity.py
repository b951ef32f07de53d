"""What becomes of a call when an attempt may have been executed and no answer says so? Pure.

The ladder has three steps: ask the action log, send again with the same nonce, and then this one, the policy of the
settings. A step that can tell decides before it comes to the policy; until those are built, every doubt comes here.
"""

from __future__ import annotations

from enum import StrEnum

from worker.delivery.schedule import AmbiguousPolicy


class Ruling(StrEnum):
    SEND_AGAIN = "send_again"  # a duplicate is possible: counted and logged before it is written
    ACCEPT = "accept"  # taken for delivered: a loss is possible
    FAIL = "fail"  # dead-lettered: somebody decides later


_BY_POLICY = {"resend": Ruling.SEND_AGAIN, "accept": Ruling.ACCEPT, "dead_letter": Ruling.FAIL}


def rule(policy: AmbiguousPolicy) -> Ruling:
    """Decide by policy what nothing else could decide."""
    return _BY_POLICY[policy]


def needs_harmless_probes(policy: AmbiguousPolicy) -> bool:
    """Say whether an outage must be probed with questions: under this policy a call without an answer would end."""
    return policy != "resend"
