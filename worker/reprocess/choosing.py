"""Which dead letters are meant: a group, reasons, a span of time, a condition. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.deadletters.glance import Glance
from worker.deadletters.record import DeadLetter, NotADeadLetter, decode
from worker.errors import RecordError, WorkerError
from worker.mapping.expressions import Failed
from worker.mapping.mapper import Mapper
from worker.mapping.ruleset import Rule, RuleSet
from worker.mapping.selecting import Condition
from worker.mapping.templates import FailedIn, ListOf, Literal, MapOf, Slot, Template, fill
from worker.mapping.view import View
from worker.model import Event, Json, KafkaRecord, Record, place
from worker.reprocess.index import Group, user_number

MIN_GROUP_DIGITS = 4

Decode = Callable[[Record], tuple[Event, ...]]


class NoSuchGroup(WorkerError):
    """The group that was named is not there, or its digits fit several."""

    reason = "no_such_group"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for; the default is all. Times are Unix milliseconds, of the deaths, `until_ms` not included."""

    group: str = ""  # the first digits of a fingerprint
    reasons: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    where: Condition | None = None

    @property
    def is_all(self) -> bool:
        return self == Choice()

    def takes(self, seen: Glance) -> bool:
        """Say whether a letter is meant, as far as that can be told without its event."""
        if self.group and not seen.kind.fingerprint.startswith(self.group):
            return False
        if self.reasons and seen.kind.reason not in self.reasons:
            return False
        if self.since_ms is not None and seen.died_ms < self.since_ms:
            return False
        return self.until_ms is None or seen.died_ms < self.until_ms


class Reading:
    """How letters' records are read: by the rules as they are now, or without them where they cannot be used."""

    def __init__(self, rules: RuleSet | None, decode_plainly: Decode) -> None:
        self.decode = Mapper(rules).decode if rules is not None else decode_plainly
        self._uids = {rule.name: uid for rule in rules.rules if (uid := _Uid.of(rule))} if rules is not None else {}

    def events(self, record: Record) -> tuple[Event, ...]:
        """Return the events of a record; none where it cannot be read."""
        try:
            return self.decode(record)
        except RecordError:
            return ()

    def user(self, seen: Glance, message: Record) -> int:
        """Return the number that stands for a letter's user; 0: none can be told.

        It is the UID, as the rule that is to blame gives it today; where there is none, the record's Kafka key.
        """
        if (uid := self._uids.get(seen.kind.rule)) is not None and not seen.is_reference:
            record = record_of(seen, message)
            for event in self.events(record):
                if found := uid.read(record, event):
                    return user_number(found.encode("utf-8", "surrogatepass"))
        return user_number(b"\0" + seen.key) if seen.key is not None else 0


@dataclass(frozen=True, slots=True)
class _Uid:
    """The parameter UID of a rule, by itself."""

    rule: Rule
    template: Template
    indexes: tuple[int, ...]

    @classmethod
    def of(cls, rule: Rule) -> _Uid | None:
        template = dict(rule.templates).get("UID")
        if template is None or rule.each is not None:
            return None
        return cls(rule, template, tuple(_indexes(template)))

    def read(self, record: Record, event: Event) -> str:
        """Return the UID; empty where the event has none."""
        results: list[Json] = [None] * len(self.rule.parts)
        view = View(record, event)
        try:
            for index in self.indexes:
                results[index] = view.read(self.rule.parts[index].expression)
            found = fill(self.template, results)
        except (Failed, FailedIn):
            return ""
        return found if isinstance(found, str) else ""


def _indexes(template: Template) -> list[int]:
    match template:
        case Slot(index):
            return [index]
        case ListOf() | MapOf() | Literal():
            return []
        case joined:
            return [piece for piece in joined.pieces if isinstance(piece, int)]


def record_of(seen: Glance, message: Record) -> Record:
    """Return the record of a letter, as far as expressions read it; headers of ours are among its own."""
    return KafkaRecord(
        seen.topic, seen.partition, seen.offset, message.value, seen.key, message.headers, seen.timestamp_ms
    )


@dataclass(slots=True)
class Unclear:
    """What could not be told: letters for which the condition has no answer, and messages that are no letters."""

    conditions: int = 0
    condition_text: str = ""
    messages: int = 0
    message_place: str = ""
    message_text: str = ""

    def no_letter(self, message: Record, error: NotADeadLetter) -> None:
        self.messages += 1
        self.message_place, self.message_text = place(message), str(error)


def holds(condition: Condition, reading: Reading, message: Record, unclear: Unclear) -> bool:
    """Say whether a condition holds for the letter in a message; where it cannot be told it does not."""
    try:
        letter = decode(message.key, message.value, message.headers)
        return condition.holds(letter.record, reading.events(letter.record), facts_of(letter))
    except Failed as error:
        unclear.conditions += 1
        unclear.condition_text = error.text
    except NotADeadLetter:
        pass  # counted where it is read
    return False


def facts_of(letter: DeadLetter) -> dict[str, Json]:
    """Return what a letter says of itself, as `dlq` in conditions and as the documents show it; nothing personal."""
    record = letter.record
    calls: list[Json] = [
        {
            "event": end.name.event,
            "rule": end.name.rule,
            "item": end.name.item,
            "outcome": end.outcome.kind.value,
            "reason": end.outcome.reason,
            "code": end.outcome.code,
            "attempts": end.outcome.attempts,
            "maybe_executed": end.outcome.maybe_executed,
        }
        for end in letter.calls
    ]
    return {
        "place": letter.key.decode("utf-8", "replace"),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp if record.timestamp >= 0 else None,
        "run": letter.run,
        "reason": letter.reason,
        "code": letter.code,
        "rule": letter.rule,
        "parameter": letter.parameter,
        "text": letter.text,
        "site": letter.site,
        "fingerprint": letter.fingerprint,
        "first_s": letter.first_s,
        "last_s": letter.last_s,
        "generation": letter.generation,
        "rules": letter.rules_digest,
        "worker": letter.worker_version,
        "is_reference": letter.reference is not None,
        "calls": calls,
        "calls_left_out": letter.calls_left_out,
    }


def group_digits(groups: Sequence[Group]) -> int:
    """Return how many digits tell these groups apart."""
    digits = MIN_GROUP_DIGITS
    names = [group.kind.fingerprint for group in groups]
    while digits < max(map(len, names), default=0) and len({name[:digits] for name in names}) < len(names):
        digits += 1
    return digits
