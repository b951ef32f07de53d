"""One site of the local Gigya: who may call, how often, and what it remembers of its users.

Pure: time is an argument. `elapsed_s` never goes back; `now_s` is the server's own, shiftable Unix time. Used from one
event loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from worker.sandbox.gigya_answers import Refusal
from worker.sandbox.gigya_config import Action, Json, Nonces, ProviderResult, Quota, Site, decode_secret, patched

_DAY_S = 86_400.0
_OPEN_ACTION = Action()


@dataclass(slots=True)
class QuotaMeter:
    """Counts requests against a Quota."""

    quota: Quota
    recent: deque[float] = field(default_factory=deque)
    second: int = -1
    in_second: int = 0
    today: deque[float] = field(default_factory=deque)

    def take(self, elapsed_s: float) -> bool:
        """Return whether one more request is within the quota, and count it."""
        within_day = self._within_day(elapsed_s)
        within_second = self._within_second(elapsed_s)
        accepted = within_day and within_second
        if accepted or self.quota.counts_refused:
            self._count(elapsed_s)
        return accepted

    def _within_second(self, elapsed_s: float) -> bool:
        if self.quota.per_s is None:
            return True
        if self.quota.window == "second":
            return int(elapsed_s) != self.second or self.in_second + 1 <= self.quota.per_s
        while self.recent and self.recent[0] <= elapsed_s - self._span_s():
            self.recent.popleft()
        return len(self.recent) + 1 <= max(1.0, self.quota.per_s)

    def _span_s(self) -> float:
        """One second; for a quota below one request a second, the time one request takes."""
        return max(1.0, 1.0 / (self.quota.per_s or 1.0))

    def _within_day(self, elapsed_s: float) -> bool:
        if self.quota.per_day is None:
            return True
        while self.today and self.today[0] <= elapsed_s - _DAY_S:
            self.today.popleft()
        return len(self.today) < self.quota.per_day

    def _count(self, elapsed_s: float) -> None:
        if self.quota.per_day is not None:
            self.today.append(elapsed_s)
        if self.quota.per_s is None:
            return
        if self.quota.window == "second":
            if int(elapsed_s) != self.second:
                self.second, self.in_second = int(elapsed_s), 0
            self.in_second += 1
        else:
            self.recent.append(elapsed_s)


class NonceMemory:
    """Remembers nonces as long as the settings say; which of them is the caller's scope."""

    def __init__(self) -> None:
        self._burnt_s: dict[tuple[str, str], float] = {}  # in order of burning, so that the oldest is first

    def knows(self, scope: str, nonce: str, settings: Nonces, elapsed_s: float) -> bool:
        self._forget(settings, elapsed_s)
        return (scope, nonce) in self._burnt_s

    def burn(self, scope: str, nonce: str, settings: Nonces, elapsed_s: float) -> None:
        if settings.retention_s != 0:
            self._burnt_s[scope, nonce] = elapsed_s

    def clear(self) -> None:
        self._burnt_s.clear()

    def _forget(self, settings: Nonces, elapsed_s: float) -> None:
        if settings.retention_s is None:
            return
        while self._burnt_s:
            oldest = next(iter(self._burnt_s))
            if self._burnt_s[oldest] > elapsed_s - settings.retention_s:
                return
            del self._burnt_s[oldest]


class LogEntry(NamedTuple):
    """One line of a user's actions log."""

    now_s: float  # the server's Unix time
    visible_s: float  # elapsed time from which it shows
    action: str
    points: int
    challenge: str
    ip: str

    def shown(self) -> dict[str, Json]:
        return {
            "time": int(self.now_s),
            "actionID": self.action,
            "points": self.points,
            "challengeID": self.challenge,
            "ip": self.ip,
        }


class SiteState:
    """A site's settings, and what has happened to them since the start."""

    def __init__(self, name: str, settings: Site) -> None:
        self.name = name
        self.processing: Counter[str] = Counter()  # requests of a UID that are being worked on
        self._executions: dict[tuple[str, str], deque[float]] = {}
        self._log: dict[str, deque[LogEntry]] = {}
        self._seen_actions: dict[str, None] = {}
        self._apply(settings)

    def configure(self, patch: Mapping[str, Json]) -> None:
        """Change settings by a JSON merge patch. Raises ValueError and changes nothing when it is wrong."""
        self._apply(patched(self.settings, patch))

    def clear(self) -> None:
        """Forget what users did: caps, actions log, quota."""
        self._executions.clear()
        self._log.clear()
        self._apply(self.settings)

    def _apply(self, settings: Site) -> None:
        earlier = getattr(self, "settings", None)
        self.settings = settings
        self.secret_keys = {
            user_key: tuple(decode_secret(secret) for secret in key.secrets) for user_key, key in settings.keys.items()
        }
        if earlier is None or earlier is settings or earlier.quota != settings.quota:
            self.meter = QuotaMeter(settings.quota)
        if earlier is None or earlier is settings or earlier.providers != settings.providers:
            self._results_used: Counter[int] = Counter()

    # who may call

    def accepted_secrets(self, user_key: str) -> tuple[bytes, ...]:
        """Return the HMAC keys of a user key, newest first. Raises Refusal for one that is unknown or revoked."""
        key = self.settings.keys.get(user_key)
        if key is None:
            raise Refusal(403005, "Unauthorized user : unknown userKey")
        return self.secret_keys[user_key]

    def revoked_with(self, user_key: str) -> int | None:
        """Return the code that a revoked key is refused with."""
        key = self.settings.keys.get(user_key)
        return key.refused_with if key else None

    def check_user(self, uid: str) -> None:
        """Raise Refusal for a UID that is no user of the site."""
        known = self.settings.known_users
        if uid in self.settings.unknown_users or (known is not None and uid not in known):
            raise Refusal(self.settings.unknown_user_code, "Unauthorized user : the UID is not a user of this site")

    def enter(self, uid: str) -> None:
        """Start work for a UID; `leave` ends it. Raises Refusal when too much is going on for that UID."""
        limit = self.settings.in_flight_per_uid
        if uid and limit is not None and self.processing[uid] >= limit:
            raise Refusal(409030, f"More than {limit} concurrent requests for the same UID")
        self.processing[uid] += 1

    def leave(self, uid: str) -> None:
        if self.processing[uid] > 1:
            self.processing[uid] -= 1
        else:
            del self.processing[uid]

    # actions

    def action(self, action_id: str) -> Action:
        """Return an action that may be notified. Raises Refusal for an unknown or disabled one."""
        action = self.settings.actions.get(action_id)
        if action is None and not self.settings.accept_any_action and action_id != "_points":
            raise Refusal(400126, "Invalid action : unknown actionID")
        if action is None:
            return _OPEN_ACTION
        if not action.enabled:
            raise Refusal(400126, "Invalid action : the action is disabled")
        return action

    def check_caps(self, uid: str, action_id: str, action: Action, elapsed_s: float) -> None:
        """Raise Refusal when this user may not have this action counted now."""
        if action.daily_cap == 0:
            raise Refusal(400124, "DailyCap exceeded")
        done = self._executions.get((uid, action_id))
        if not done:
            return
        if action.freq_cap_s is not None and done[-1] > elapsed_s - action.freq_cap_s:
            raise Refusal(400124, "FreqCap exceeded")
        while done and done[0] <= elapsed_s - _DAY_S:
            done.popleft()
        if action.daily_cap is not None and len(done) >= action.daily_cap:
            raise Refusal(400124, "DailyCap exceeded")

    def count(self, uid: str, action_id: str, action: Action, elapsed_s: float) -> None:
        """Count an execution against the caps."""
        if action.daily_cap is not None or action.freq_cap_s is not None:
            self._executions.setdefault((uid, action_id), deque()).append(elapsed_s)
        if action_id not in self.settings.actions and len(self._seen_actions) < 1000:
            self._seen_actions[action_id] = None

    def shown_actions(self, asked_for: Iterable[str] = ()) -> dict[str, Action]:
        """Return the actions of the Console: those configured, then those accepted so far without being so.

        Where any action is accepted, one that is asked for by name is there, too.
        """
        named = [name for name in asked_for if name != "*"] if self.settings.accept_any_action else []
        seen = {name: _OPEN_ACTION for name in (*self._seen_actions, *named) if name not in self.settings.actions}
        return {**self.settings.actions, **seen}

    # the actions log

    def remember(self, uid: str, entries: Iterable[LogEntry], kept: int | None) -> None:
        """Write entries to a user's actions log."""
        if kept == 0:
            return
        log = self._log.get(uid)
        if log is None:
            log = self._log[uid] = deque(maxlen=kept)
        log.extend(entries)

    def actions_log(self, uid: str, start_s: float, end_s: float, elapsed_s: float) -> list[Json]:
        """Return a user's visible entries of a time range, both ends included, oldest first."""
        return [
            entry.shown()
            for entry in self._log.get(uid, ())
            if entry.visible_s <= elapsed_s and start_s <= int(entry.now_s) <= end_s
        ]

    # networks

    def connected(self, uid: str) -> tuple[str, ...]:
        """Return the networks a user is connected to."""
        providers = self.settings.providers
        return providers.connected_by_uid.get(uid, providers.connected)

    def post_to(self, provider: str, uid: str) -> ProviderResult:
        """Return how a post to a network goes, and use that result up by one."""
        for index, result in enumerate(self.settings.providers.results):
            if result.provider != provider or (result.uid is not None and result.uid != uid):
                continue
            if result.count is None or self._results_used[index] < result.count:
                self._results_used[index] += 1
                return result
        return ProviderResult(provider=provider)

    def check_links(self, links: Iterable[str]) -> None:
        """Raise Refusal for a link to a domain that the site has not approved."""
        approved = self.settings.approved_domains
        if approved is None:
            return
        for link in links:
            host = urlsplit(link).hostname or ""
            if not any(host == domain or host.endswith(f".{domain}") for domain in approved):
                raise Refusal(self.settings.unapproved_link_code, "linkBack : the domain is not approved for this site")
