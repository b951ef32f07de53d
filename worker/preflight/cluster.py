"""Has Kafka what a run needs? The checks are those of the start (`kafka.client`), each told by itself."""

from __future__ import annotations

from worker.kafka.client import Finding, KafkaSettings, examine_cluster
from worker.preflight.lines import Line, State

PART = "kafka"


async def cluster_lines(settings: KafkaSettings, *, limit_s: float) -> list[Line]:
    """Return a line for each check; those that could not be made say so."""
    findings = await examine_cluster(settings, limit_s=limit_s)
    lines = [_line(finding) for finding in findings]
    made = {(line.check, line.subject) for line in lines}
    letters = settings.dead_letter_topic
    expected = [
        *(("topic", topic) for topic in settings.topics),
        ("dead-letter topic", letters),
        ("dead-letter settings", letters),
        ("group", settings.group_id),
    ]
    blocking = next((line.check for line in lines if line.state is State.FAILED), "connection")
    missing = [one for one in expected if one not in made]
    return lines + [Line(PART, check, subject, State.NOT_CHECKED, f"see {blocking}") for check, subject in missing]


def _line(finding: Finding) -> Line:
    if finding.problem is None:
        return Line(PART, finding.check, finding.subject, State.OK, finding.found)
    text = str(finding.problem).removeprefix(f"Kafka at {finding.subject}: ")
    what, _, remedy = text.partition("; ")
    remedy = remedy[:1].upper() + remedy[1:] if remedy else "Look at the broker's own log."
    return Line(PART, finding.check, finding.subject, State.FAILED, what, remedy)
