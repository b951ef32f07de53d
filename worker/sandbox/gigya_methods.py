"""What each method does once its request is admitted.

Pure but for the site's memory. A further method is one more entry of METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from worker.sandbox.gigya_answers import MESSAGES, Refusal
from worker.sandbox.gigya_config import Json
from worker.sandbox.gigya_parameters import (
    SUPPORTED_PROVIDERS,
    Check,
    Parameters,
    challenge_ids,
    check_actions_log,
    check_nothing,
    check_notify_action,
    check_publish_user_action,
    links_of,
    split_list,
)
from worker.sandbox.gigya_site import LogEntry, SiteState

# gm.notifyAction: "no need to notify about Gigya's default actions"; the house refuses the same four names.
BUILT_IN_ACTIONS = frozenset({"share", "comment", "login", "referral"})


@dataclass(frozen=True, slots=True)
class Moment:
    """When and from where a request is executed, and how the actions log is kept."""

    serial: int  # number of the arrival; makes post IDs unique
    now_s: float
    elapsed_s: float
    ip: str
    log_delay_s: float
    log_kept: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """The answer's own fields; `result` is None where nothing was changed, else what the ledger shows."""

    fields: Mapping[str, Json]
    result: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """One API method: its check, what it does, and the parameters it knows, in lower case."""

    check: Check
    execute: Callable[[SiteState, Parameters, Moment], Done]
    known: frozenset[str]


def notify_action(site: SiteState, params: Parameters, moment: Moment) -> Done:
    """Count an action for a user and grant its points."""
    uid, action_id = params.get("UID") or "", params.get("action") or ""
    site.check_user(uid)
    if action_id.lower() in BUILT_IN_ACTIONS:
        raise Refusal(400126, "Invalid action : built-in actions cannot be notified")
    action = site.action(action_id)
    site.check_caps(uid, action_id, action, moment.elapsed_s)
    site.count(uid, action_id, action, moment.elapsed_s)
    sent_points = params.get("points")
    points = int(sent_points) if sent_points else action.points
    challenges = () if action_id == "_points" else action.challenges
    if sent_points:
        challenges = tuple(dict.fromkeys((*challenges, *challenge_ids(params))))
    challenges = challenges or ("_default",)
    visible_s = moment.elapsed_s + moment.log_delay_s
    entries = [LogEntry(moment.now_s, visible_s, action_id, points, name, moment.ip) for name in challenges]
    site.remember(uid, entries, moment.log_kept)
    return Done(_context_echo(params), {"points": points, "challenges": list(challenges)})


def publish_user_action(site: SiteState, params: Parameters, moment: Moment) -> Done:
    """Post to every connected network that the call allows; one success makes it a success."""
    uid = params.get("UID") or ""
    site.check_user(uid)
    site.check_links(links_of(params))
    targets = _targets(site, params, uid)
    results = [site.post_to(provider, uid) for provider in targets]
    errors: list[Json] = []
    for result in results:
        shown: dict[str, Json] = {"provider": result.provider, "errorCode": result.code}
        shown["errorMessage"] = result.message or MESSAGES.get(result.code, "Error")
        if result.code:
            shown["errorDetails"] = result.details or str(shown["errorMessage"])
        errors.append(shown)
    posted = [result.provider for result in results if result.code == 0]
    if not posted:
        first = results[0]
        raise Refusal(first.code, first.details or first.message, providerErrorCodes=errors)
    posts: dict[str, Json] = {name: f"{moment.serial}_{index}" for index, name in enumerate(posted)}
    codes: dict[str, Json] = {result.provider: result.code for result in results}
    ledger: dict[str, Json] = {"posted": list(posted), "providers": codes}
    return Done({"providerPostIDs": posts, "providerErrorCodes": errors}, ledger)


def _targets(site: SiteState, params: Parameters, uid: str) -> list[str]:
    """Return the networks to post to. Raises Refusal when there is none: 400106, or 400096 where none can post."""
    enabled = {name.lower() for name in split_list(params.get("enabledProviders"))}
    disabled = {name.lower() for name in split_list(params.get("disabledProviders"))}
    allowed = [name for name in site.connected(uid) if (not enabled or name in enabled) and name not in disabled]
    targets = [name for name in allowed if name in SUPPORTED_PROVIDERS]
    if targets:
        return targets
    if allowed:
        raise Refusal(400096, "Unsupported provider")
    raise Refusal(400106, "Not connected : the user is not connected to any of the providers")


def get_action_config(site: SiteState, params: Parameters, moment: Moment) -> Done:
    """Return the site's actions."""
    included = split_list(params.get("includeActions")) or ("*",)
    excluded = split_list(params.get("excludeActions"))
    with_disabled = params.get("includeDisabledActions") == "true"
    actions: list[Json] = []
    for action_id, action in site.shown_actions(included).items():
        if ("*" not in included and action_id not in included) or action_id in excluded:
            continue
        if not action.enabled and not with_disabled:
            continue
        shown: dict[str, Json] = {
            "actionID": action_id,
            "title": action.title or action_id,
            "description": action.description,
            "enabled": action.enabled,
            "points": action.points,
            "source": "Custom",
        }
        if action.daily_cap is not None:
            shown["dailyCap"] = action.daily_cap
        if action.freq_cap_s is not None:
            shown["freqCap"] = action.freq_cap_s
        actions.append(shown)
    return Done({"actions": actions})


def get_actions_log(site: SiteState, params: Parameters, moment: Moment) -> Done:
    """Return what a user did in a time range; one entry for each challenge."""
    uid = params.get("UID") or ""
    site.check_user(uid)
    start_s = float(params.get("startTime") or 0)
    end_s = float(params.get("endTime") or "inf")
    return Done({"actions": site.actions_log(uid, start_s, end_s, moment.elapsed_s)})


def _context_echo(params: Parameters) -> dict[str, Json]:
    text = params.get("context")
    if not text:
        return {}
    try:
        return {"context": orjson.loads(text)}
    except orjson.JSONDecodeError:
        return {"context": text}


METHODS: Mapping[str, Method] = {
    "gm.notifyAction": Method(
        check_notify_action,
        notify_action,
        frozenset({"uid", "action", "points", "challengeids", "actionattributes", "context"}),
    ),
    "socialize.publishUserAction": Method(
        check_publish_user_action,
        publish_user_action,
        frozenset(
            {"uid", "useraction", "actionattributes", "cid", "enabledproviders", "disabledproviders", "shorturls"}
            | {"tags", "userlocation", "scope", "privacy", "feedid"}
            | {f"{provider}useraction" for provider in SUPPORTED_PROVIDERS}
        ),
    ),
    "gm.getActionConfig": Method(
        check_nothing,
        get_action_config,
        frozenset({"includeactions", "excludeactions", "lang", "includedisabledactions"}),
    ),
    "gm.getActionsLog": Method(check_actions_log, get_actions_log, frozenset({"uid", "starttime", "endtime"})),
}
