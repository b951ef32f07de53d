"""Every reason that an answer can give, with the verdict it means, and what to do. Data; pure.

A reason is a stable label: metrics, dead letters and `explain` use it. Each has exactly one kind, so that a code's
verdict follows from its reason (`error_codes.py`) unless the settings override it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class VerdictKind(StrEnum):
    """What an answer means for the call."""

    OK = "ok"  # accepted
    RETRY = "retry"  # certainly not executed; try again, within the budget
    THROTTLED = "throttled"  # the site asks us to slow down; nobody's budget is used
    REJECTED = "rejected"  # refused for what the call says; trying again changes nothing
    USER = "user"  # refused for this user or this provider
    CAPPED = "capped"  # refused as a business outcome
    RESIGN = "resign"  # sign again, with a corrected clock or a fresh nonce
    ASK = "ask"  # decides nothing alone: the site is asked first
    AMBIGUOUS = "ambiguous"  # it may have been executed, and no answer says so
    STOP = "stop"  # the site is stopped until somebody acts


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """One reason, for people."""

    reason: str
    kind: VerdictKind
    meaning: str
    remedy: str


_BY_KIND: dict[VerdictKind, tuple[tuple[str, str, str], ...]] = {
    VerdictKind.OK: (
        ("ok", "Accepted. For a publish: at least one provider took it.", "Nothing to do."),
        (
            "ok_with_warnings",
            "Accepted, with something that Gigya tolerated.",
            "Nothing to do; the log line names parameters that Gigya ignored, where it says so.",
        ),
        (
            "provider_duplicate",
            "The provider has this status already; counted as accepted.",
            "Nothing to do. If it happens a lot, the producer sends the same share twice.",
        ),
    ),
    VerdictKind.RETRY: (
        (
            "user_busy",
            "More than five requests for this user are in process at Gigya; another system keeps the user busy.",
            "Nothing to do: it is tried again, more slowly. If it lasts, find the other system.",
        ),
        (
            "frequency_limit",
            "Too many requests of this kind in a row; a short spam cap.",
            "It is tried again, then dead-lettered; replay the dead letter later.",
        ),
        (
            "provider_limit",
            "The social network limits this user or application for now.",
            "It is tried again, then dead-lettered; replay the dead letter later.",
        ),
        (
            "unknown_server_error",
            "A server error that Gigya's table does not list, outside those that may come after execution.",
            "It is tried again; if it lasts, give the callId to SAP's support.",
        ),
        ("not_sent", "The request was not sent.", "It is tried again; look at the network between worker and Gigya."),
        (
            "connect_timeout",
            "No connection within the time-out.",
            "Check firewall, proxy and route to the data centre's hosts, port 443.",
        ),
        (
            "connect_refused",
            "The host refuses connections.",
            "Check base_url or data_center, and a firewall or proxy in between.",
        ),
        (
            "connect_failed",
            "No connection could be made.",
            "Check network, proxy and route to the data centre's hosts.",
        ),
        (
            "reset_before_send",
            "The connection was closed before the request's headers were written.",
            "Nothing to do: it is tried again on a new connection.",
        ),
        (
            "dns_failure",
            "The host's name cannot be resolved.",
            "Check data_center and the DNS of this machine. A removed method can look so: ask SAP if one host fails.",
        ),
        (
            "tls_failure",
            "No TLS connection: certificate not trusted, wrong name, or no common version.",
            "Check this machine's CA certificates (ca_file for a base_url of your own), its clock, and proxies that "
            "break TLS open.",
        ),
    ),
    VerdictKind.THROTTLED: (
        (
            "rate_limited",
            "Gigya's rate limit was exceeded. Its table calls it a daily limit, its fair use policy one per second.",
            "The worker slows down by itself. If it lasts over an hour, lower quota_per_s or ask SAP for more.",
        ),
        (
            "http_429",
            "Something in front of the API limits our requests (HTTP 429).",
            "The worker slows down by itself. If it lasts, lower quota_per_s and look at proxies in between.",
        ),
    ),
    VerdictKind.REJECTED: (
        ("missing_parameter", "A required parameter is missing.", "Fix the rule or the event, then replay."),
        (
            "invalid_parameter_format",
            "A parameter has another format than the method wants: bad JSON, points that are not whole.",
            "Fix the rule, then replay.",
        ),
        ("invalid_parameter_value", "A parameter is outside its bounds.", "Fix the rule or the event, then replay."),
        ("duplicate_value", "A value exists already; Gigya calls it an internal error.", "Give the callId to SAP."),
        ("validation_failed", "The call does not pass Gigya's validation.", "Fix the rule or the event, then replay."),
        (
            "invalid_action",
            "The action is unknown or disabled at this site.",
            "Create or enable the action in the Console (Loyalty > Actions), or fix `action` in the rule; then replay.",
        ),
        ("insufficient_points", "The user has too few points to redeem.", "Discard, or correct the points by hand."),
        (
            "provider_configuration",
            "The social network refuses the site's application.",
            "Check the provider's application in the Console (Site Setup), or leave it out with disabledProviders.",
        ),
        (
            "link_not_approved",
            "A link of this publish leads to a domain that is not among the site's approved ones.",
            "Add the domain to the site's approved URLs in the Console (Site Settings), or send another link in the "
            "rule; then replay. Other calls go on.",
        ),
        ("not_found", "What the call names does not exist.", "Fix the rule or the event, then replay."),
        ("too_large", "The request or the object is too large.", "Send less in this rule, then replay."),
        ("redundant_operation", "The operation changes nothing.", "Discard."),
        (
            "account_flow",
            "An answer of the registration and login flows, which this worker does not use.",
            "Look at the user's account in the Console; then replay or discard.",
        ),
        (
            "other_product",
            "A code of another product or method; these calls should never see it.",
            "Give the callId to SAP's support; then replay or discard.",
        ),
        (
            "unknown_refusal",
            "A refusal whose code Gigya's table does not list.",
            "Give code and callId to SAP's support. Override it with `verdicts` in the site's settings if it means "
            "something else.",
        ),
    ),
    VerdictKind.USER: (
        (
            "user_unknown",
            "The UID is not a user of this site.",
            "Discard, or ask the producer which id it sends: it must be the site's user id.",
        ),
        ("user_disabled", "The user's account is disabled.", "Discard, or enable the account and replay."),
        (
            "provider_unsupported",
            "No network this user is connected to supports publishing.",
            "Discard: the user has no network that takes a post.",
        ),
        ("provider_not_connected", "The user is not connected to the network.", "Discard: nobody to publish for."),
        (
            "provider_session",
            "The user's session with the network is missing or expired.",
            "Discard, or replay after the user has logged in with the network again.",
        ),
        (
            "provider_user_mismatch",
            "The user is logged in to the network as somebody else.",
            "Discard, or replay after the user has reconnected.",
        ),
        (
            "provider_permission",
            "The permission to publish was not asked for, or the user did not grant it.",
            "If all users have it: enable publishing in the Console (Site Setup > Permissions). Else discard.",
        ),
        ("session_migration", "An old session with the network could not be migrated.", "Discard."),
    ),
    VerdictKind.CAPPED: (
        (
            "limit_reached",
            "The user has reached the daily cap of this action, or did it again too soon. Gigya grants nothing.",
            "The call counts as done (outcome capped); on_cap: dead_letter keeps it for a replay. Look at the action's "
            "daily cap and frequency cap in the Console; `preflight` shows them beside the rules.",
        ),
    ),
    VerdictKind.RESIGN: (
        (
            "request_expired",
            "The timestamp is outside the window that Gigya allows: the clocks disagree.",
            "The worker learns the offset and signs again. Set this machine's clock (NTP).",
        ),
        (
            "duplicate_nonce",
            "Gigya has seen this nonce before; this copy of the request was refused.",
            "The worker signs again with a fresh nonce. If it lasts, something in between sends requests twice.",
        ),
    ),
    VerdictKind.ASK: (
        (
            "invalid_signature",
            "Gigya refuses the signature: a changed or revoked secret, or a fault in signing this very call.",
            "The worker asks the site. If that is refused too: check that the secret belongs to the user key and was "
            "not revoked (Console > Admin > Applications).",
        ),
        (
            "unauthorized_user",
            "The UID is not valid for the site; an unknown user key or a wrong data centre look the same.",
            "The worker asks the site. Accepted: it is this user. Refused: check user key, api_key and data_center.",
        ),
    ),
    VerdictKind.AMBIGUOUS: (
        (
            "server_error",
            "A server error at Gigya; the call may have been executed.",
            "It is sent again within the budget. If it lasts, give the callId to SAP's support.",
        ),
        (
            "security_warning",
            "Gigya's general security warning; the call may have been executed.",
            "It is sent again within the budget. If it lasts, give the callId to SAP's support.",
        ),
        (
            "provider_error",
            "The social network failed; it may have taken the post.",
            "It is sent again within the budget; then look at the network's own status.",
        ),
        (
            "server_timeout",
            "Gigya gave up waiting inside; the call may have been executed.",
            "It is sent again within the budget. If it lasts, give the callId to SAP's support.",
        ),
        (
            "timeout",
            "No answer within attempt_timeout_s; the request may have arrived.",
            "It is sent again within the budget. If it lasts, look at the network and at Gigya's status.",
        ),
        (
            "reset_after_send",
            "The connection broke after the request was sent; it may have arrived.",
            "It is sent again within the budget. If it lasts, look at proxies and firewalls in between.",
        ),
        (
            "no_reply",
            "No answer, and the request may have arrived.",
            "It is sent again within the budget. If it lasts, look at the network in between.",
        ),
        (
            "body_cut_off",
            "The answer broke off before its end.",
            "It is sent again within the budget. If it lasts, look at proxies in between.",
        ),
        (
            "invalid_http",
            "The answer is not HTTP.",
            "Check base_url or data_center, and what else listens there (a proxy, a TLS port).",
        ),
        ("empty_body", "The answer is empty.", "It is sent again; if it lasts, look at proxies in between."),
        (
            "html_body",
            "The answer is a web page, not Gigya's.",
            "Something in between answers (proxy, firewall, sign-in page), or the method is gone.",
        ),
        (
            "truncated_body",
            "The answer starts as JSON and does not end.",
            "It is sent again; if it lasts, look at proxies in between.",
        ),
        (
            "foreign_body",
            "The answer is not JSON, or not an object.",
            "Something other than Gigya answers: check base_url or data_center, and proxies in between.",
        ),
        (
            "no_error_code",
            "The answer is JSON without an errorCode that could be Gigya's (0, or six digits).",
            "Something other than Gigya answers: check base_url or data_center, and proxies in between.",
        ),
        (
            "http_redirect",
            "The answer is a redirect, which is never followed: a signed request holds for its URL only.",
            "Check base_url or data_center, and proxies or sign-in pages in between.",
        ),
        (
            "http_forbidden",
            "Something in front of the API asks for a login or forbids access (HTTP 401, 403, 407).",
            "Check proxies and firewalls in between, and whether this machine's address is allowed.",
        ),
        (
            "http_not_found",
            "The URL does not exist on that server (HTTP 404, 405, 410).",
            "Check base_url or data_center. If they are right, the method may be gone: ask SAP.",
        ),
        ("http_too_large", "The request is too large for that server (HTTP 413).", "Send less in this rule."),
        (
            "http_4xx",
            "Refused in front of the API, without a word of Gigya's (HTTP 4xx).",
            "Check base_url or data_center, and proxies in between.",
        ),
        ("bad_gateway", "HTTP 502 from in front of the API.", "It is sent again; if it lasts, see Gigya's status."),
        (
            "service_unavailable",
            "HTTP 503 from in front of the API.",
            "It is sent again; if it lasts, see Gigya's status.",
        ),
        ("gateway_timeout", "HTTP 504 from in front of the API.", "It is sent again; if it lasts, see Gigya's status."),
        ("http_5xx", "A server error without a word of Gigya's.", "It is sent again; if it lasts, see Gigya's status."),
    ),
    VerdictKind.STOP: (
        (
            "credentials_refused",
            "Gigya refuses the credentials.",
            "Check user key and secret or private key (Console > Admin > Applications), and put the right ones where "
            "the site's `auth` comes from: files are read again within seconds. Calls wait; nothing is lost.",
        ),
        (
            "credentials_missing",
            "Gigya did not see our credentials and took the call for one from a browser.",
            "Check the site's api_key, user_key and secret, and proxies that change request bodies.",
        ),
        (
            "invalid_api_key",
            "The API key is not valid here; a wrong data centre looks the same.",
            "Check the site's api_key and data_center.",
        ),
        (
            "wrong_data_center",
            "The site lives in another data centre.",
            "Set the site's data_center to the domain that the answer names.",
        ),
        ("insecure_transport", "Gigya wants HTTPS for this.", "Use an https base_url, or data_center instead."),
        (
            "permission_denied",
            "The user key may not call this method.",
            "Give its permission group the method (Console > Admin > Applications), then resume. Calls wait.",
        ),
        (
            "product_not_enabled",
            "The product (Loyalty, publishing) is not enabled for this site.",
            "Ask SAP whether it is still active for your site. Calls wait; nothing is lost.",
        ),
        (
            "method_gone",
            "Gigya does not know this method any more.",
            "Ask SAP whether Loyalty and publishing are still active for your site. Calls wait; nothing is lost.",
        ),
        (
            "site_configuration",
            "The site's configuration at Gigya is incomplete or does not fit.",
            "Look at the site's domains, applications and providers in the Console, then resume. Calls wait.",
        ),
        (
            "unknown_redirection",
            "Gigya points elsewhere with a code that its table does not list.",
            "Check data_center; give code and callId to SAP's support.",
        ),
    ),
}

REASONS: Mapping[str, ReasonRow] = MappingProxyType(
    {
        reason: ReasonRow(reason, kind, meaning, remedy)
        for kind, rows in _BY_KIND.items()
        for reason, meaning, remedy in rows
    }
)
