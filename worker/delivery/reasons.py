"""The reasons that delivery gives by itself, beside those that an answer gives (`gigya.replies.REASONS`). Data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from worker.gigya.reasons import ReasonRow, VerdictKind

STALE = "stale"
ACCEPTED_UNDECIDED = "accepted_undecided"
SUSPECT = "suspect"
ASKING_THE_LOG = "asking_the_log"
FOUND_IN_LOG = "found_in_log"
REMEMBERED = "remembered"
UNDECIDED = "undecided"
CLOCK_REFUSED = "clock_refused"
OUTAGE = "outage"
STOPPED = "stopped"
DRY_RUN = "dry_run"
KEY_ROTATED = "key_rotated"

_ROWS = (
    ReasonRow(
        STALE,
        VerdictKind.REJECTED,
        "The event is older than its rule's max_age: the API has no event time, so it would count as done today.",
        "Nothing to do; on_stale: dead_letter keeps such records. Raise max_age if they should still be sent.",
    ),
    ReasonRow(
        ACCEPTED_UNDECIDED,
        VerdictKind.AMBIGUOUS,
        "An attempt got no answer, nothing can tell, and `delivery.ambiguous: accept` takes it for delivered.",
        "Compare with gm.getActionsLog if it matters; `ambiguous: resend` prefers a duplicate to a loss.",
    ),
    ReasonRow(
        SUSPECT,
        VerdictKind.AMBIGUOUS,
        "An earlier process may have made this call before it ended.",
        "Look into gm.getActionsLog for the user; then replay or discard.",
    ),
    ReasonRow(
        ASKING_THE_LOG,
        VerdictKind.AMBIGUOUS,
        "The call may have been executed; Gigya's action log (gm.getActionsLog) is asked once it has settled.",
        "Nothing to do. If it lasts, Gigya does not answer for the log; after some attempts the policy decides.",
    ),
    ReasonRow(
        FOUND_IN_LOG,
        VerdictKind.OK,
        "Gigya's action log shows the call: it was executed, though its answer got lost.",
        "Nothing to do.",
    ),
    ReasonRow(
        REMEMBERED,
        VerdictKind.OK,
        "This process has made the call itself, and heard so, before it lost the partition; no commit told of it.",
        "Nothing to do.",
    ),
    ReasonRow(
        UNDECIDED,
        VerdictKind.STOP,
        "Calls are refused with 403003 or 403005, and for too long nothing could tell whether it is them or us: the "
        "site answers neither our question (gm.getActionConfig) nor another user's call with a success.",
        "Check user key and secret, and give the key's permission group gm.getActionConfig (Console > Admin > "
        "Applications). Calls wait; nothing is lost.",
    ),
    ReasonRow(
        CLOCK_REFUSED,
        VerdictKind.STOP,
        "Gigya refuses our timestamps (403002), and its own Date header did not help to correct them.",
        "Set this machine's clock (NTP), and look for a proxy that changes the Date header. Calls wait.",
    ),
    ReasonRow(
        OUTAGE,
        VerdictKind.RETRY,
        "Nobody gets an answer from the site's host. Calls wait and use none of their budgets.",
        "Look at the network between worker and Gigya, and at Gigya's status. The worker goes on by itself.",
    ),
    ReasonRow(
        STOPPED,
        VerdictKind.STOP,
        "The site is stopped: it refuses us until somebody acts. Calls wait; nothing is lost.",
        "See the site's reason and remedy in /readyz.",
    ),
    ReasonRow(
        KEY_ROTATED,
        VerdictKind.RESIGN,
        "Gigya refused a request that was under way while the site's key was rotated: it carried the old one.",
        "Nothing to do: it is sent again at once, with the new key.",
    ),
    ReasonRow(
        DRY_RUN,
        VerdictKind.OK,
        "The call would have been made; `run --dry-run` sends nothing.",
        "Start without --dry-run to make the calls.",
    ),
)

DELIVERY_REASONS: Mapping[str, ReasonRow] = MappingProxyType({row.reason: row for row in _ROWS})
