"""Gigya's error codes as data: for each the verdict, its reason, what it means here, what to do, and the source. Pure.

Kind and remedy follow from the reason (`reasons.py`) unless a row says more. Codes of other products are listed, too:
whoever sees one shall find it. A code that is not listed falls back to the longest family that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worker.gigya.reasons import REASONS, VerdictKind


@dataclass(frozen=True, slots=True)
class Row:
    """One error code, for classification and for people. Families have the first code of their range."""

    code: int
    name: str
    kind: VerdictKind
    reason: str
    meaning: str
    remedy: str
    source: str


# Gigya's table as public copies have it; "+" adds who else says what stands in `meaning`.
_TABLE = "Gigya's error table (Response Codes and Errors REST)"
_OTHER = "other_product"
_FLOW = "account_flow"

# code, name, reason, meaning
_ROWS: tuple[tuple[int, str, str, str], ...] = (
    (0, "ok", "ok", "Accepted. For a publish at least one provider took it; providerErrorCodes tell of the others."),
    (100001, "data pending", "unknown_refusal", "Data is still being processed; no method used here says so."),
    (200001, "operation canceled", "ok_with_warnings", "The user cancelled a login; listed among the successes."),
    (200003, "client outcome", "ok_with_warnings", "An outcome of the client-side SDKs; listed among the successes."),
    (200008, "ok with errors", "ok_with_warnings", "Accepted with problems that Gigya tolerated."),
    (200009, "accounts linked", "ok_with_warnings", "The accounts were linked."),
    (200010, "ok, login identifier exists", "ok_with_warnings", "Accepted; a login identifier existed already."),
    (206001, "account pending registration", _FLOW, "The user's registration is not complete."),
    (206002, "account pending verification", _FLOW, "The user's login id is not verified."),
    (206003, "account missing login id", _FLOW, "The user's account has no login id."),
    (206004, "identity conflict", _FLOW, "The user's identity conflicts with another account."),
    (206005, "auto-login pending", _FLOW, "The user's automatic login is pending."),
    (301001, "invalid data center", "wrong_data_center", "The key is served elsewhere; `apiDomain` names the place."),
    (400001, "invalid request format", "credentials_refused", "A wrong authorization header, or HTTPS was needed."),
    (400002, "missing required parameter", "missing_parameter", "The message names it; for a key or secret: stop."),
    (400003, "unique identifier exists", _OTHER, "A username or e-mail address exists already (accounts)."),
    (400004, "invalid parameter format", "invalid_parameter_format", "Bad JSON, or points that are not whole."),
    (400006, "invalid parameter value", "invalid_parameter_value", "A value outside its bounds; the message names it."),
    (400007, "duplicate value", "duplicate_value", "An internal error, says the table."),
    (400008, "invalid authentication header", "credentials_refused", "A bad bearer token, or one of another key."),
    (400009, "validation error", "validation_failed", "`validationErrors` tells the fields."),
    (400011, "invalid redirect URI", "credentials_refused", "An OAuth2 error."),
    (400012, "invalid response type", "credentials_refused", "An OAuth2 error."),
    (400013, "unsupported grant type", "credentials_refused", "An OAuth2 error."),
    (400014, "invalid grant", "credentials_refused", "An OAuth2 error."),
    (400015, "code expired", "credentials_refused", "An OAuth2 error."),
    (400020, "schema validation failed", _OTHER, "A write to accounts or the data store against its schema."),
    (400021, "CAPTCHA verification failed", _OTHER, "Registration."),
    (400022, "unique index validation", _OTHER, "A value that must be unique is not (data store)."),
    (400023, "invalid type validation", _OTHER, "A value of another type than the schema's."),
    (400024, "dynamic fields validation", _OTHER, "A field of the account is not valid."),
    (400025, "write access validation", _OTHER, "A field of the account may not be written."),
    (400026, "invalid format validation", _OTHER, "A value does not match its pattern."),
    (400027, "required value validation", _OTHER, "A required field of the account is missing."),
    (400028, "e-mail not verified", _OTHER, "The e-mail address is not verified."),
    (400029, "schema conflict", _OTHER, "The object could not be indexed."),
    (400030, "operation not allowed", _OTHER, "Not allowed for this account's kind of login."),
    (400031, "account or data validation", _OTHER, "A validation of accounts or the data store."),
    (400050, "security verification failed", _OTHER, "Reset of a password."),
    (400093, "invalid apiKey parameter", "invalid_api_key", "The key is unknown here; so does a wrong data centre."),
    (400096, "not supported", "provider_unsupported", "No network that the user is connected to supports the call."),
    (400097, "browser insecure", _OTHER, "A browser's matter."),
    (400100, "no providers", _OTHER, "Two-factor login only."),
    (400103, "invalid containerID", _OTHER, "A client-side matter."),
    (400106, "not connected", "provider_not_connected", "The user is not connected to the network, or to none."),
    (
        400120,
        "invalid site domain",
        "site_configuration",
        "Not registered for the key; or, guessed, a link's not approved.",
    ),
    (400122, "provider configuration error", "provider_configuration", "The network refuses the site's application."),
    (400124, "limit reached", "limit_reached", "The action's daily cap or frequency cap (the details say which)."),
    (400125, "frequency limit reached", "frequency_limit", "The spam cap of comments and feeds."),
    (400126, "invalid action", "invalid_action", "The action is unknown or disabled."),
    (400127, "insufficient points to redeem", "insufficient_points", "Of redeemPoints only."),
    (401000, "invalid policy configuration", _OTHER, "A policy of the accounts."),
    (401001, "media items not supported", _OTHER, "Comments."),
    (401010, "suspected spam", _OTHER, "Sending e-mail."),
    (401020, "login failed, CAPTCHA required", _OTHER, "Login."),
    (401021, "login failed, wrong CAPTCHA", _OTHER, "Login."),
    (401030, "old password used", _OTHER, "Login."),
    (403000, "forbidden", "permission_denied", "We may not call this method."),
    (403002, "request has expired", "request_expired", "Two minutes between the clocks are too much already."),
    (403003, "invalid request signature", "invalid_signature", "A changed secret, or a fault in signing this call."),
    (403004, "duplicate nonce", "duplicate_nonce", "A request with this nonce has arrived before."),
    (403005, "unauthorized user", "unauthorized_user", "The UID is not valid; or user key or data centre are not."),
    (403006, "secret sent over http", "insecure_transport", "A secret may travel over HTTPS only."),
    (403007, "permission denied", "permission_denied", "The key lacks rights."),
    (403008, "invalid openID URL", _OTHER, "Login."),
    (403009, "provider session expired", "provider_session", "The user's session with the network has expired."),
    (403010, "invalid secret", "credentials_refused", "The secret is not valid."),
    (403011, "session has expired", "provider_session", "The user's session has expired."),
    (403012, "no valid session", "provider_session", "The user has no valid session."),
    (403015, "missing request referrer", "credentials_missing", "The call was taken for one from a browser."),
    (403017, "unexpected provider user", "provider_user_mismatch", "Somebody else is logged in at the network."),
    (403022, "permission not requested", "provider_permission", "The application never asked for the permission."),
    (403023, "no user permission", "provider_permission", "The user did not grant the permission."),
    (403024, "provider limit reached", "provider_duplicate", "The status is a duplicate; without that word a limit."),
    (403025, "invalid token", "credentials_refused", "An OAuth token that is not valid."),
    (403026, "unauthorized access", _OTHER, "Protection of accounts against harvesting."),
    (403031, "approved by moderator", _OTHER, "Comments."),
    (403035, "no user cookie", "credentials_missing", "No credentials of a user, though every call has a UID."),
    (403036, "unauthorized partner", "product_not_enabled", "The product is not enabled for this partner."),
    (403037, "post denied", _OTHER, "Comments: reviewed twice."),
    (403040, "no login ticket", _OTHER, "Login."),
    (403041, "account disabled", "user_disabled", "The user's account is not active."),
    (403042, "invalid login id", _OTHER, "Login."),
    (403043, "login identifier exists", _OTHER, "Registration."),
    (403044, "underage user", _OTHER, "Registration."),
    (403045, "invalid site configuration", _OTHER, "Storage of the accounts is not configured."),
    (403047, "login id does not exist", _OTHER, "Login."),
    (403048, "API rate limit exceeded", "rate_limited", "Too many calls; no wait time is told."),
    (403100, "pending password change", _OTHER, "Login."),
    (403101, "account pending TFA verification", _OTHER, "Login."),
    (403102, "account pending TFA registration", _OTHER, "Login."),
    (403110, "account pending recent login", _OTHER, "Login."),
    (403120, "account temporarily locked out", _OTHER, "Login."),
    (403200, "redundant operation", "redundant_operation", "The operation changes nothing."),
    (403201, "invalid application id", "credentials_refused", "The application is not the one of the site."),
    (404000, "not found", "not_found", "Something that the call names does not exist."),
    (404001, "friend not found", "not_found", "The friend's UID is no friend of the user."),
    (404002, "category not found", "not_found", "Comments."),
    (404003, "UID not found", "user_unknown", "The UID does not exist, or not for this key."),
    (404004, "invalid URL", "not_found", "A URL that leads nowhere."),
    (405001, "invalid API method", "method_gone", "The method does not exist; a removed one would look so."),
    (409001, "identity exists", _OTHER, "Login."),
    (409003, "entity exists conflict", _OTHER, "Named by the vendor's Android SDK only."),
    (409010, "missing user photo", _OTHER, "Photos."),
    (409011, "counter not registered", _OTHER, "Counters."),
    (409012, "invalid gmid ticket", _OTHER, "A browser's matter."),
    (409013, "SAML mapped attribute not found", _OTHER, "Login."),
    (409014, "SAML certificate not found", _OTHER, "Login."),
    (409030, "too many requests for the same user", "user_busy", "More than five in process for one UID."),
    (409031, "no provider session", "provider_session", "The user has no session with the network."),
    (409040, "CNAME conflict", _OTHER, "Configuration of domains."),
    (410000, "gone", "method_gone", "The resource is no longer available."),
    (413001, "request entity too large", "too_large", "The request is too large."),
    (413002, "comment text too large", "too_large", "Comments."),
    (413003, "object too large", "too_large", "The data store takes 512 KB for each object."),
    (413004, "profile photo too large", "too_large", "Photos."),
    (500000, "general security warning", "security_warning", "A warning without a word more."),
    (500001, "general server error", "server_error", "Usually passes; used for faults of the request, too."),
    (500002, "server login error", "server_error", "A failure in the login process."),
    (500003, "default application configuration", "site_configuration", "No default application was found."),
    (500014, "session migration error", "session_migration", "An old session with a network could not be migrated."),
    (500023, "provider error", "provider_error", "A general error from the network."),
    (500026, "network error", "server_error", "A network error inside."),
    (500028, "database error", "server_error", "A database error inside."),
    (
        500031,
        "no provider application",
        "site_configuration",
        "The site has no application at the provider.",
    ),
    (500032, "load failed", "server_error", "Named by an iOS binding only."),
    (500033, "invalid environment configuration", "site_configuration", "No target environment is configured."),
    (500034, "error during backend operation", "server_error", "An internal error."),
    (504001, "timeout", "server_timeout", "A time-out; the call may have been executed."),
    (504002, "request timeout", "server_timeout", "A time-out; the call may have been executed."),
)

_REMEDIES = {
    301001: "Set the site's data_center to the domain that the answer names (apiDomain).",
    400001: "Check the site's auth and that base_url is https; then restart or resume.",
    400120: "Register the domain for the site in the Console (Site Settings), then resume. Calls wait. A publish with "
    "links is dead-lettered instead (link_not_approved): one event's link must not stop a site.",
    400122: "Check the provider's application in the Console (Site Setup), or leave it out with disabledProviders.",
    403015: "Check api_key, user_key and secret, and proxies that change request bodies.",
    403201: "Use an application key of this site (Console > Admin > Applications).",
    500003: "Set up the site's default application in the Console, or ask SAP; then resume. Calls wait.",
    500031: "Set up the provider's application in the Console (Site Setup), or leave it out with disabledProviders.",
    500033: "Ask SAP: the site's environment is not configured. Calls wait.",
}

_SOURCES = {
    0: f"{_TABLE}; socialize.publishUserAction REST",
    200003: "the vendor's SDKs",
    206004: "the vendor's SDKs",
    206005: "the vendor's SDKs",
    400031: "SAP Help (accounts and ds methods)",
    400120: f"{_TABLE}; that a link is refused with it is a guess: no source names that code",
    400093: f"{_TABLE}; for the wrong data centre an integrator's code",
    400124: f"{_TABLE}; gm.setActionConfig REST",
    400125: f"{_TABLE}; a third-party SDK calls it a limit of consecutive requests",
    400126: f"{_TABLE}; gm.setActionConfig REST",
    403003: f"{_TABLE}; Signing Requests",
    403004: f"{_TABLE}; Signing Requests",
    403005: f"{_TABLE}; integrators' reports for user key, data centre and session",
    403024: f"{_TABLE}; socialize.publishUserAction REST (Status is a duplicate)",
    403036: f"{_TABLE}; the vendor's CMS plugins test for it",
    403048: f"{_TABLE}; Acceptable Use Policy; a published answer of 2018",
    409003: "the vendor's Android SDK",
    409030: "SAP Help, accounts.getAccountInfo (2025)",
    409031: "the vendor's SDKs",
    409040: "the vendor's SDKs",
    500001: f"{_TABLE}; fixtures of the vendor's toolkit for faults of the request",
    500032: "an iOS binding",
}

# first digits, name, reason, meaning. The longest prefix wins; the empty one fits all.
_FAMILY_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("", "unknown code", "unknown_refusal", "Not one of Gigya's ranges."),
    ("1", "unknown 1xxxxx", "unknown_refusal", "Pending, if at all; no method used here says so."),
    ("2", "unknown 2xxxxx", "ok_with_warnings", "A success with a remark."),
    ("206", "unknown 206xxx", _FLOW, "Something is pending in the user's account."),
    ("3", "unknown 3xxxxx", "unknown_redirection", "The site is elsewhere."),
    ("4", "unknown 4xxxxx", "unknown_refusal", "Refused for what the call says."),
    ("429", "unknown 429xxx", "rate_limited", "Too many calls; no such code is documented."),
    ("5", "unknown 5xxxxx", "unknown_server_error", "A server error."),
    ("500", "unknown 500xxx", "server_error", "A server error; the call may have been executed."),
    ("504", "unknown 504xxx", "server_timeout", "A time-out; the call may have been executed."),
)
_BY_RANGE = "by its range; Gigya's table lists no such code"


def _rows() -> Iterable[Row]:
    for code, name, reason, meaning in _ROWS:
        why = REASONS[reason]
        remedy = _REMEDIES.get(code, why.remedy)
        yield Row(code, name, why.kind, reason, meaning, remedy, _SOURCES.get(code, _TABLE))


def _family_rows() -> Iterable[tuple[str, Row]]:
    for prefix, name, reason, meaning in _FAMILY_ROWS:
        why = REASONS[reason]
        first = int(prefix.ljust(6, "0")) if prefix else 0
        yield prefix, Row(first, name, why.kind, reason, meaning, why.remedy, _BY_RANGE)


TABLE: Mapping[int, Row] = MappingProxyType({row.code: row for row in _rows()})
FAMILIES: Mapping[str, Row] = MappingProxyType(dict(_family_rows()))


def row_of(code: int) -> Row:
    """Return the row of a code, or that of the longest family of six-digit codes that fits."""
    if (row := TABLE.get(code)) is not None:
        return row
    digits = str(code) if 100_000 <= code <= 999_999 else ""
    return next(FAMILIES[prefix] for prefix in (digits[:3], digits[:1], "") if prefix in FAMILIES)
