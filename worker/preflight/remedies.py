"""What is to be done before the first run, for every reason an answer can give. Data; pure.

`explain` tells what a running worker does about it; nothing runs yet here, so the texts are others.
"""

from __future__ import annotations

from collections.abc import Mapping

_CONSOLE = "Console > Admin > Applications"
_ASK_SAP = (
    "Ask SAP whether {product} is still active for your site: there is public evidence that it was retired. A worker"
    " started now would stop the site, deliver nothing and lose nothing."
)
_TRY_AGAIN = (
    "Run preflight again. If it lasts, look at proxies in between and at Gigya's status, or give SAP the callId."
)

_REMEDIES: Mapping[str, str] = {
    "dns_failure": "Check data_center (or base_url) and the DNS of this machine. If other hosts of the data centre have"
    " addresses, ask SAP: a removed method can look so.",
    "tls_failure": "Check this machine's CA certificates (ca_file for a base_url of your own), its clock, and proxies"
    " that break TLS open.",
    "connect_timeout": "Check firewall, proxy and route to the host, port 443 (or base_url's).",
    "connect_refused": "Check data_center or base_url, and a firewall in between: the host refuses connections.",
    "connect_failed": "Check network, firewall and route to the host.",
    "reset_before_send": "Look at proxies and firewalls in between: they close the connection.",
    "not_sent": "Look at the network between this machine and Gigya.",
    "request_expired": "Set this machine's clock (NTP). The worker follows Gigya's Date header where it must, but logs,"
    " max_age and points per day follow this clock.",
    "credentials_refused": f"Check the site's `auth`: user key, and the secret or private key that belongs to it"
    f" ({_CONSOLE}).",
    "credentials_missing": "Check api_key and `auth` of the site, and proxies that change request bodies or headers:"
    " Gigya did not see our credentials.",
    "invalid_api_key": "Check api_key; if it is right, data_center: a wrong data centre looks the same.",
    "insecure_transport": "Use data_center, or a base_url with https: Gigya takes credentials over HTTPS only.",
    "invalid_signature": f"The secret is not the user key's, or was replaced: copy both again ({_CONSOLE}). Behind a"
    " base_url: the proxy must leave host, port and path as they are signed.",
    "unauthorized_user": f"Check user_key ({_CONSOLE}); if it is right, api_key and data_center: a wrong data centre"
    " looks the same.",
    "wrong_data_center": "Set data_center to the site's own (Console > Site Settings tells it).",
    "unknown_redirection": "Check data_center; give code and callId to SAP's support.",
    "permission_denied": f"Give the key's permission group {{method}} ({_CONSOLE}).",
    "product_not_enabled": _ASK_SAP,
    "method_gone": _ASK_SAP,
    "site_configuration": "Look at the site's domains, applications and providers in the Console (Site Settings, Site"
    " Setup).",
    "unproven": "Send one real call for a test user, and watch /readyz.",
    "rate_limited": "Wait, and run preflight again. If it lasts, something else uses the quota: lower quota_per_s, or"
    " ask SAP for more.",
    "http_429": "Wait, and run preflight again. If it lasts, look at proxies in between, or lower quota_per_s.",
    "duplicate_nonce": "Something in between sends requests twice, or another worker makes the same nonces: look at"
    " proxies and gateways.",
    "html_body": "Something in between answers (proxy, firewall, sign-in page), or the method is gone: open the URL"
    " from this machine, then ask SAP whether {product} is still active.",
    "foreign_body": "Something other than Gigya answers: check data_center or base_url, and proxies in between.",
    "no_error_code": "Something other than Gigya answers: check data_center or base_url, and proxies in between.",
    "invalid_http": "Check data_center or base_url, and what else listens there.",
    "http_redirect": "Check data_center or base_url, and proxies or sign-in pages in between: a signed request cannot"
    " be sent elsewhere.",
    "http_forbidden": "Check proxies and firewalls in between, and whether this machine's address is allowed.",
    "http_not_found": "Check data_center or base_url. If they are right, ask SAP whether {product} is still active: the"
    " method may be gone.",
    "http_too_large": "Look at proxies in between: preflight's requests are small.",
    "http_4xx": "Check data_center or base_url, and proxies in between.",
}
_BY_CODE: Mapping[int, str] = {
    400001: "Check the site's `auth`, and that base_url is https.",
    400120: "Register the domain for the site in the Console (Site Settings).",
    403000: f"Give the key's permission group {{method}} ({_CONSOLE}); if it has it, ask SAP.",
    403015: "Check api_key and `auth`, and proxies that change request bodies or headers: Gigya took the request for"
    " one from a browser.",
    403201: f"Use an application key of this site ({_CONSOLE}).",
    500003: "Set up the site's default application in the Console, or ask SAP.",
    500031: "Set up the provider's application in the Console (Site Setup).",
    500033: "Ask SAP: the site's environment is not configured.",
}
_CONFIG_FORBIDDEN = (
    " It only reads; the worker needs it to tell a bad user from a changed key (403003, 403005), preflight to check the"
    " actions."
)


def remedy_for(
    reason: str,
    *,
    site: str,
    code: int | None = None,
    method: str = "",
    product: str = "",
    data_center: str = "",
    is_empty_call: bool = False,
    is_loyalty_needed: bool = True,
) -> str:
    """Return what to do. `data_center`: the domain that the answer names; `is_empty_call`: it was asked by one."""
    if reason == "wrong_data_center" and data_center:
        return f"Set sites.{site}.data_center: {data_center}"
    if reason in ("ok", "ok_with_warnings"):
        return f"Look at {method} in the Console's reports, and ask SAP what the method does: it is not as documented."
    text = _BY_CODE.get(code or 0) or _REMEDIES.get(reason, _TRY_AGAIN)
    if reason in ("server_error", "security_warning", "provider_error") and is_empty_call and code is not None:
        text = "Only a real call can tell whether it works: send one for a test user, and watch /readyz."
    text = text.format(method=method, product=product)
    if is_empty_call or method != "gm.getActionConfig":
        return text
    if reason == "permission_denied":
        return text + _CONFIG_FORBIDDEN
    if reason in ("product_not_enabled", "method_gone") and not is_loyalty_needed:
        return (
            "No rule of this site needs Loyalty: a run goes well without it. Only refusals such as 403003 and 403005"
            " take longer to decide, since gm.getActionConfig cannot be asked."
        )
    return text
