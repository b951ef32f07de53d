"""Does the local Gigya answer as the API pages and the error table say?"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.sandbox.gigya_client import API_KEY, NOW_S, SECRET, USER_KEY, base_string, config, serve
from worker.sandbox.gigya_config import Action, Latency, Nonces

OTHER_SECRET = base64.b64encode(b"another secret").decode()


async def test_a_success_has_the_envelope_of_the_api() -> None:
    async with serve() as client:
        answer = await client.notify(context='{"eventId":"e-1"}')
        body = answer.json
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert len(body.pop("callId")) == 32
        assert body == {
            "errorCode": 0,
            "apiVersion": 2,
            "statusCode": 200,
            "statusReason": "OK",
            "time": "2023-11-14T22:13:20.000Z",
            "context": {"eventId": "e-1"},
        }


async def test_an_error_has_message_and_details_in_a_200() -> None:
    async with serve() as client:
        answer = await client.notify(uid="")
        assert answer.status == 200
        assert answer.json["errorMessage"] == "Missing required parameter"
        assert answer.json["errorDetails"] == "Missing required parameter : UID"
        assert (answer.json["statusCode"], answer.json["statusReason"]) == (400, "Bad Request")


async def test_http_status_codes_are_mirrored_when_asked_for() -> None:
    async with serve() as client:
        assert (await client.notify(uid="", httpStatusCodes="true")).status == 400
        assert (await client.notify(httpStatusCodes="true")).status == 200


@pytest.mark.parametrize(("format_", "start"), [(None, b"<?xml"), ("xml", b"<?xml"), ("json", b"{"), ("jsonp", b"cb(")])
async def test_publishing_speaks_xml_unless_asked_for_json(format_: str | None, start: bytes) -> None:
    async with serve() as client:
        answer = await client.publish(format=format_, callback="cb")
        assert answer.body.startswith(start)


async def test_notifying_speaks_json_by_itself() -> None:
    async with serve() as client:
        assert (await client.notify(format=None)).code == 0
        assert (await client.notify(format="xml")).body.startswith(b"<?xml")


async def test_answers_are_gzipped_when_set_and_accepted() -> None:
    async with serve(config(gzip=True)) as client:
        params = client.signed("gm.notifyAction", UID="u", action="a")
        url = f"{client.gigya.base_url}/gm.notifyAction"
        headers = {"Accept-Encoding": "gzip"}
        async with client.session.post(url, data=params, headers=headers) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            raw = await response.read()
        assert json.loads(raw if raw.startswith(b"{") else gzip.decompress(raw))["errorCode"] == 0


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("gm.unheardOf", {}, 405001),
        ("gm.getTopUsers", {}, 405001),
        ("gm.notifyAction", {"apiKey": "3_unknown"}, 400093),
        ("gm.notifyAction", {"apiKey": None}, 400002),
        ("gm.notifyAction", {"userKey": "AKunknown"}, 403005),
        ("gm.notifyAction", {"userKey": None}, 400002),
        ("gm.notifyAction", {"timestamp": None}, 400002),
        ("gm.notifyAction", {"nonce": ""}, 400002),
        ("gm.notifyAction", {"timestamp": "soon"}, 400004),
        ("gm.notifyAction", {"timestamp": f"{NOW_S + 121:.0f}"}, 403002),
        ("gm.notifyAction", {"timestamp": f"{NOW_S - 121:.0f}"}, 403002),
        ("gm.notifyAction", {"timestamp": f"{NOW_S * 1000:.0f}"}, 403002),
        ("gm.notifyAction", {"timestamp": f"{NOW_S - 119:.0f}"}, 0),
    ],
)
async def test_who_may_call(method: str, params: dict[str, Any], code: int) -> None:
    async with serve() as client:
        answer = await client.call(method, UID="u", action="a", **params)
        assert answer.code == code, answer.body


async def test_a_request_without_credentials_counts_as_a_browsers() -> None:
    async with serve() as client:
        assert (await client.send("gm.notifyAction", {"apiKey": API_KEY, "format": "json"})).code == 403015


async def test_a_bearer_token_is_refused_where_the_user_key_has_no_key_pair() -> None:
    async with serve(config(trust_forwarded_proto=True)) as client:
        params = {"apiKey": API_KEY, "format": "json"}
        headers = {"Authorization": "Bearer x.y.z", "X-Forwarded-Proto": "https"}
        answer = await client.send("gm.notifyAction", params, headers=headers)
        assert answer.code == 400008


async def test_a_secret_is_accepted_over_tls_only() -> None:
    async with serve(config(trust_forwarded_proto=True)) as client:
        params = {"apiKey": API_KEY, "userKey": USER_KEY, "secret": SECRET, "format": "json", "UID": "u", "action": "a"}
        tls = {"X-Forwarded-Proto": "https"}
        assert (await client.send("gm.notifyAction", params)).code == 403006
        assert (await client.send("gm.notifyAction", params, headers=tls)).code == 0
        wrong = {**params, "secret": OTHER_SECRET}
        assert (await client.send("gm.notifyAction", wrong, headers=tls)).code == 403010


async def test_a_wrong_secret_is_told_what_the_server_expected() -> None:
    async with serve() as client:
        sent = client.signed("gm.notifyAction", secret=OTHER_SECRET, UID="u", action="a")
        body = (await client.send("gm.notifyAction", sent)).json
        unsigned = {name: value for name, value in sent.items() if name != "sig"}
        right = base_string("POST", f"{client.gigya.base_url}/gm.notifyAction", unsigned)
        assert (body["errorCode"], body["baseString"]) == (403003, right)
        again = await client.send("gm.notifyAction", {**sent, "sig": body["expectedSignature"]})
        assert again.code == 0


async def test_a_get_is_as_good_as_a_post() -> None:
    async with serve() as client:
        assert (await client.notify(verb="GET")).code == 0


async def test_the_date_header_and_the_time_follow_the_servers_own_clock() -> None:
    async with serve(config(clock_offset_s=-300)) as client:
        answer = await client.notify()
        assert answer.code == 403002
        assert parsedate_to_datetime(answer.headers["Date"]).timestamp() == NOW_S - 300
        assert (await client.notify(timestamp=f"{NOW_S - 300:.0f}")).code == 0


# nonces


async def test_a_nonce_is_accepted_once() -> None:
    async with serve() as client:
        assert (await client.notify(nonce="n")).code == 0
        assert (await client.notify(nonce="n", action="other")).code == 403004


@pytest.mark.parametrize(("retention_s", "code"), [(0, 0), (30, 0), (60, 403004), (None, 403004)])
async def test_nonces_are_remembered_as_long_as_set(retention_s: float | None, code: int) -> None:
    async with serve(config(nonces=Nonces(retention_s=retention_s))) as client:
        await client.notify(nonce="n")
        client.moments.advance(31)
        assert (await client.notify(nonce="n")).code == code


@pytest.mark.parametrize(("burnt", "code"), [("before_refusals", 403004), ("after_refusals", 0)])
async def test_a_refused_call_burns_its_nonce_when_set_so(burnt: Any, code: int) -> None:
    site = {"actions": {"once": Action(daily_cap=0)}}
    async with serve(config(site=site, nonces=Nonces(burnt=burnt))) as client:
        assert (await client.notify(action="once", nonce="n")).code == 400124
        client.gigya.configure_site("main", {"actions": {"once": {"daily_cap": 5}}})
        assert (await client.notify(action="once", nonce="n")).code == code


async def test_a_nonce_of_a_wrong_signature_is_not_burnt() -> None:
    async with serve() as client:
        assert (await client.notify(nonce="n", secret=OTHER_SECRET)).code == 403003
        assert (await client.notify(nonce="n")).code == 0


@pytest.mark.parametrize(("scope", "code"), [("key", 0), ("site", 403004), ("server", 403004)])
async def test_nonces_of_two_keys_of_a_site_collide_as_set(scope: Any, code: int) -> None:
    async with serve(config(nonces=Nonces(scope=scope))) as client:
        client.gigya.configure_site("main", {"keys": {"AKsecond": {"secrets": [OTHER_SECRET]}}})
        assert (await client.notify(nonce="n")).code == 0
        assert (await client.notify(nonce="n", userKey="AKsecond", secret=OTHER_SECRET)).code == code


async def test_of_two_copies_worked_on_at_once_only_one_is_executed() -> None:
    settings = config(nonces=Nonces(burnt="after_refusals"), latency=Latency(ms=20))
    async with serve(settings) as client:
        sent = client.signed("gm.notifyAction", UID="u", action="a")
        answers = await asyncio.gather(*(client.send("gm.notifyAction", sent) for _ in range(2)))
        assert sorted(answer.code for answer in answers) == [0, 403004]
        assert client.gigya.ledger.executed_total == 1


# parameters

ATTRIBUTES = {"a": ["1", "2"], "b": "3"}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"action": None}, 400002),
        ({"UID": None, "uid": "u"}, 0),
        ({"points": "10"}, 0),
        ({"points": "-25"}, 0),
        ({"points": "1.5"}, 400004),
        ({"points": "ten"}, 400004),
        ({"points": "1", "challengeIDs": "a,b"}, 0),
        ({"points": "1", "challengeIDs": '["a","b"]'}, 0),
        ({"points": "1", "challengeIDs": "['_X1','_X2']"}, 0),
        ({"points": "1", "challengeIDs": "[1]"}, 400004),
        ({"points": "1", "challengeIDs": "[a"}, 400004),
        ({"actionAttributes": json.dumps(ATTRIBUTES)}, 0),
        ({"actionAttributes": json.dumps({**ATTRIBUTES, "c": "4"})}, 400006),
        ({"actionAttributes": '{"a":1}'}, 400004),
        ({"actionAttributes": '["a"]'}, 400004),
        ({"actionAttributes": '{"a":'}, 400004),
        ({"context": "free text"}, 400004),
        ({"context": '{"eventId":"1"}'}, 0),
        ({"action": "share"}, 400126),
        ({"action": "login"}, 400126),
        ({"action": "_points", "points": "5"}, 0),
    ],
)
async def test_notify_action_checks_its_parameters(params: dict[str, str | None], code: int) -> None:
    async with serve() as client:
        answer = await client.call("gm.notifyAction", **{"UID": "u", "action": "a", **params})
        assert answer.code == code, answer.body


IMAGE = {"type": "image", "src": "https://i.example/a.png", "href": "https://e.example/"}
FLASH = {"type": "flash", "src": "https://i.example/a.swf", "previewImageURL": "https://i.example/a.png"}


@pytest.mark.parametrize(
    ("user_action", "params", "code"),
    [
        ({"title": "T", "linkBack": "https://e.example/x"}, {}, 0),
        ({"title": ""}, {}, 400006),
        ({"title": "T", "actionLinks": []}, {}, 400006),
        ({"title": 1}, {}, 400004),
        ({"linkBack": "/relative"}, {}, 400006),
        ({"actionLinks": [{"title": "t", "href": "https://e.example/"}]}, {}, 0),
        ({"actionLinks": [{"title": "t"}]}, {}, 400006),
        ({"mediaItems": [IMAGE]}, {}, 0),
        ({"mediaItems": [IMAGE, FLASH]}, {}, 400006),
        ({"mediaItems": [{"type": "gif", "src": "x"}]}, {}, 400006),
        ({"mediaItems": [{"type": "image", "src": "x"}]}, {}, 400006),
        ({"mediaItems": {"type": "image"}}, {}, 400004),
        ({"title": "T"}, {"twitterUserAction": '{"title":"Tw"}'}, 0),
        ({"title": "T"}, {"twitterUserAction": "no"}, 400004),
        ({"title": "T"}, {"cid": "c" * 100}, 0),
        ({"title": "T"}, {"cid": "c" * 101}, 400006),
        ({"title": "T"}, {"shortURLs": "never"}, 0),
        ({"title": "T"}, {"shortURLs": "sometimes"}, 400006),
        ({"title": "T"}, {"userLocation": '{"latitude":90,"longitude":-180}'}, 0),
        ({"title": "T"}, {"userLocation": '{"latitude":91,"longitude":0}'}, 400006),
        ({"title": "T"}, {"userLocation": '{"latitude":"north"}'}, 400004),
        ({"title": "T"}, {"actionAttributes": '{"a":["1","2","3","4"]}'}, 400006),
    ],
)
async def test_publish_user_action_checks_its_parameters(
    user_action: dict[str, Any], params: dict[str, str], code: int
) -> None:
    async with serve() as client:
        answer = await client.publish(**{"userAction": json.dumps(user_action), **params})
        assert answer.code == code, answer.body


async def test_unknown_parameters_are_named_or_refused_as_set() -> None:
    async with serve() as client:
        ignored = (await client.notify(acton="typo")).json["ignoredParams"]
        assert [entry["paramName"] for entry in ignored] == ["acton"]
        client.gigya.configure({"unknown_parameters": "refused"})
        assert (await client.notify(acton="typo")).code == 400006


async def test_parameters_are_not_checked_when_set_so() -> None:
    async with serve(config(check_parameters=False)) as client:
        assert (await client.notify(actionAttributes="nonsense")).code == 0
