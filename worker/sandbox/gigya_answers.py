"""What the local Gigya says: the envelope, the texts of its codes, and the three formats.

Pure.
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import orjson

from worker.sandbox.gigya_config import Json

MESSAGES: Mapping[int, str] = {
    0: "OK",
    200008: "OK with errors",
    301001: "Invalid data center",
    400001: "Invalid request format",
    400002: "Missing required parameter",
    400004: "Invalid parameter format",
    400006: "Invalid parameter value",
    400008: "Invalid authentication header",
    400093: "Invalid ApiKey parameter",
    400096: "Not supported",
    400106: "Not connected",
    400120: "Invalid site domain",
    400122: "Provider configuration error",
    400124: "Limit reached",
    400125: "Frequency limit reached",
    400126: "Invalid action",
    400127: "Insufficient points",
    403000: "Forbidden",
    403002: "Request has expired",
    403003: "Invalid request signature",
    403004: "Duplicate nonce",
    403005: "Unauthorized user",
    403006: "Sensitive data sent over HTTP",
    403007: "Permission denied",
    403009: "Provider session expired",
    403010: "Invalid secret",
    403011: "Session expired",
    403012: "Session invalid",
    403015: "Missing referrer",
    403017: "Unexpected provider user",
    403022: "Permission not requested",
    403023: "No user permission",
    403024: "Provider limit reached",
    403035: "No user cookie",
    403036: "Unauthorized partner",
    403041: "Account disabled",
    403048: "Api rate limit exceeded",
    404003: "UID not found",
    405001: "Invalid API method",
    409030: "Too many requests for the same user",
    409031: "No provider session",
    410000: "Gone",
    413001: "Request entity too large",
    500000: "General security warning",
    500001: "General server error",
    500023: "Provider error",
    500026: "Network error",
    500028: "Database error",
    500031: "No provider application",
    500034: "Backend operation error",
    504001: "Timeout",
    504002: "Request timeout",
}


class Refusal(Exception):
    """The API says no: a code, details for people, and further fields of the body."""

    def __init__(self, code: int, details: str = "", **fields: Json) -> None:
        super().__init__(code)
        self.code = code
        self.details = details
        self.fields = fields


def envelope(code: int, details: str, call_id: str, now_s: float) -> dict[str, Json]:
    """Return the fields that every answer has; `errorMessage` and `errorDetails` only where there is an error."""
    status = status_of(code)
    body: dict[str, Json] = {"callId": call_id, "errorCode": code}
    if code:
        message = MESSAGES.get(code, "Error")
        body |= {"errorMessage": message, "errorDetails": details or message}
    moment = datetime.fromtimestamp(now_s, UTC)
    time_text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    return body | {"apiVersion": 2, "statusCode": status, "statusReason": reason_of(status), "time": time_text}


def status_of(code: int) -> int:
    """Return the HTTP status that a code stands for: its first three digits."""
    return code // 1000 if code else 200


def reason_of(status: int) -> str:
    """Return the standard reason phrase of an HTTP status."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def rendered(body: Mapping[str, Json], method: str, wanted: str | None, callback: str | None) -> tuple[bytes, str]:
    """Return the answer's bytes and content type in the format asked for.

    Without `format` the gm methods speak JSON and all others the deprecated XML (gigya-api 2); so does any format
    that is neither json nor jsonp.
    """
    chosen = wanted if wanted is not None else ("json" if method.startswith("gm.") else "xml")
    if chosen == "json":
        return orjson.dumps(body), "application/json; charset=utf-8"
    if chosen == "jsonp" and callback:
        return callback.encode() + b"(" + orjson.dumps(body) + b");", "text/javascript; charset=utf-8"
    root = escape(method or "error") + "Response"
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<{root} xmlns="urn:com:gigya:api">{_xml(body)}</{root}>'
    return text.encode("utf-8", "replace"), "text/xml; charset=utf-8"


def _xml(value: Json | Mapping[str, Json]) -> str:
    if isinstance(value, Mapping):
        return "".join(f"<{escape(name)}>{_xml(item)}</{escape(name)}>" for name, item in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{_xml(item)}</item>" for item in value)
    return escape(str(value))
