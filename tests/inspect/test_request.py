"""The request that is shown: the real one but for what is secret."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from tests.inspect.conftest import RULES, sampled, trial
from worker.gigya.calls import Call
from worker.gigya.signing import Credentials, signed_form
from worker.gigya.sites import Site
from worker.inspect.request import MASK, Mode, Signatory, masked_request

SITE = Site("main", "3_the+key", domain="eu1.gigya.com")
USER_KEY = "AKabcdefgh"


@pytest.fixture
def call() -> Call:
    event = {"type": "liked", "uid": "ü 1+&=~", "id": "100%"}
    return trial(RULES).of(sampled(event)).calls[0]


def shown(call: Call, mode: Mode) -> tuple[str, dict[str, str], str]:
    request = masked_request(call, Signatory(SITE, mode, USER_KEY), now_s=12.9)
    return request.url, dict(parse_qsl(request.body, keep_blank_values=True)), request.authorization


def test_a_signed_request_is_the_real_one_with_signature_key_and_nonce_masked(call: Call):
    url, _, authorization = shown(call, "signed")
    assert url == "https://gm.eu1.gigya.com/gm.notifyAction"
    assert authorization == ""
    body = masked_request(call, Signatory(SITE, "signed", USER_KEY), now_s=12.9).body
    real = signed_form(url, call.params, Credentials(SITE.api_key, USER_KEY, b"k"), now_s=12.9, nonce="n" * 32)
    masked = {"sig", "nonce", "userKey"}
    theirs, ours = real.decode().split("&"), body.split("&")
    assert [pair.split("=")[0] for pair in theirs] == [pair.split("=")[0] for pair in ours]
    same = [(a, b) for a, b in zip(theirs, ours, strict=True) if a.split("=")[0] not in masked]
    assert all(a == b for a, b in same)
    assert len(same) == len(theirs) - 3


def test_what_is_secret_is_masked_in_every_mode(call: Call):
    _, signed, _ = shown(call, "signed")
    assert (signed["sig"], signed["nonce"], signed["userKey"], signed["timestamp"]) == (MASK, MASK, "AKab***", "12")
    _, secret, _ = shown(call, "secret")
    assert (secret["secret"], secret["userKey"], "sig" in secret) == (MASK, "AKab***", False)
    _, jwt, authorization = shown(call, "jwt")
    assert authorization == "Bearer ***"
    assert not {"secret", "userKey", "sig"} & jwt.keys()


@pytest.mark.parametrize("mode", ["signed", "secret", "jwt"])
def test_the_business_parameters_are_there_as_they_are(call: Call, mode: Mode):
    _, body, _ = shown(call, mode)
    assert {name: body[name] for name in call.params} == call.params
    assert body["apiKey"] == SITE.api_key
