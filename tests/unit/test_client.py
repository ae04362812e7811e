import json
import traceback
from urllib.parse import parse_qs, urlsplit

import pytest

from components.caddy.admin import CaddyAdmin
from components.errors import (
    ApiError,
    ApiUnreachable,
    AuthError,
    CaddyUnreachable,
    CreateFailed,
    MalformedAnswer,
    NoOffer,
    OfferTaken,
    RateLimited,
    ServerUnreachable,
)
from components.vast.client import AmbiguousRent, Destroyed, VastClient
from components.vast.market import Search
from components.vast.pacing import OFF, PUBLISHED, Pacer
from components.vast.query import Query, parse
from components.vllm.client import RerankClient
from reranker.http import Answer, Unanswered
from tests.unit.scripted_api import KEY, ScriptedApi, no_answer


@pytest.fixture
def api():
    return ScriptedApi()


def answers(api, *given):
    """Let the API answer with these, one after the other, then as usual."""
    left = list(given)

    def interrupt(_method, _path):
        one = left.pop(0) if left else None
        if isinstance(one, Exception):
            raise one
        return one

    api.interrupt = interrupt


def test_reading_an_instance_that_was_destroyed_gives_none(api):
    assert api.client().instance(1) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, b'{"success": false, "error": "auth_error", "msg": "Invalid user key"}'),
        Answer(404, b'{"success": false, "error": "not_found", "msg": "Invalid user key"}'),
        Answer(403, b'{"msg": "missing scope instance_read"}'),
        Answer(404, b'{"msg": "Session expired. Please log in again."}'),
    ],
)
def test_a_wrong_key_is_never_read_as_gone(api, answer):
    answers(api, answer)
    with pytest.raises(AuthError, match="VAST_API_KEY"):
        api.client().instance(1)
    answers(api, answer)
    with pytest.raises(AuthError):
        api.client().destroy(1)


def test_a_missing_key_says_how_to_set_it_before_anything_is_sent(api):
    with pytest.raises(AuthError, match="pulumi config set --secret vast_api_key"):
        api.client(key="").account()
    assert not api.calls


@pytest.mark.parametrize("text", [b"", b"<html>Bad gateway</html>", b"[]", b'{"success": true}'])
def test_a_malformed_list_is_an_error_and_never_no_instances(api, text):
    answers(api, Answer(200, text))
    with pytest.raises(MalformedAnswer):
        api.client().instances()


def test_every_page_of_the_list_is_read(api):
    answers(
        api,
        Answer(200, b'{"instances": [{"id": 1}], "next_token": "t"}'),
        Answer(200, b'{"instances": [{"id": 2}], "next_token": null}'),
    )
    assert [contract.id for contract in api.client().instances()] == [1, 2]


def test_a_page_that_names_an_earlier_one_as_the_next_is_an_error_and_no_endless_list(api):
    pages = [b'{"instances": [{"id": 1}], "next_token": "a"}', b'{"instances": [], "next_token": "b"}']
    answers(api, *(Answer(200, page) for page in pages * 5))
    with pytest.raises(MalformedAnswer, match="names an earlier one"):
        api.client().instances()


@pytest.mark.parametrize("around", ["{}\n", " {}"])
def test_a_key_with_blanks_around_it_is_not_quoted_from_an_answer(api, around):
    answers(api, Answer(400, json.dumps({"msg": f"no {KEY}"}).encode()))
    with pytest.raises(ApiError) as caught:
        api.client(key=around.format(KEY)).instances()
    assert KEY not in str(caught.value)


def test_a_destroy_that_is_not_answered_says_for_how_long_it_was_tried(api):
    api.interrupt = lambda *_: (_ for _ in ()).throw(no_answer())
    with pytest.raises(ApiUnreachable, match="tried for 40 s"):
        api.client(patience_s=10).destroy(1)


def test_reads_are_repeated_through_rate_limits_and_gateways(api):
    api.add("x")
    plain = Answer(429, b"slow down")
    answers(api, plain, Answer(429, b'{"retry_after": 7}'), Answer(502, b"<html>"), no_answer())
    assert [contract.id for contract in api.client(patience_s=60).instances()] == [9001]
    assert api.clock.now - 1000 >= 7


def test_the_servers_retry_after_is_waited_out(api):
    answers(api, Answer(429, b"", {"retry-after": "12"}))
    api.client().instances()
    assert api.clock.now >= 1012


def test_an_exhausted_search_quota_is_not_repeated(api):
    answers(api, Answer(429, b'{"error": "search_quota_exceeded", "msg": "daily quota"}'))
    with pytest.raises(RateLimited):
        api.client().search(Query(parse(None)))
    assert sum(api.calls.values()) == 1


def test_an_api_that_is_down_says_what_was_tried_and_where(api):
    answers(api, *[no_answer("the connection was refused", sent=False)] * 50)
    with pytest.raises(ApiUnreachable, match=r"http://api.test: the connection was refused \(GET /api/v1/instances/"):
        api.client().instances()


def test_the_rent_call_is_never_repeated_when_it_may_have_happened(api):
    answers(api, no_answer("the connection broke", sent=True))
    with pytest.raises(AmbiguousRent):
        api.client().rent(1001, {"label": "x"})
    assert api.calls["PUT asks"] == 1


def test_success_without_an_id_is_ambiguous_and_not_a_refusal(api):
    answers(api, Answer(200, b'{"success": true}'))
    with pytest.raises(AmbiguousRent):
        api.client().rent(1001, {"label": "x"})


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 522])
def test_a_gateway_error_on_the_rent_call_is_ambiguous(api, status):
    answers(api, Answer(status, b"<html>"))
    with pytest.raises(AmbiguousRent):
        api.client().rent(1001, {"label": "x"})


def test_the_rent_call_is_repeated_after_a_429_and_a_connection_never_made(api):
    answers(api, Answer(429, b"slow"), no_answer("refused", sent=False))
    assert api.client().rent(1001, {"label": "x"}) == 9001
    assert len(api.contracts) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(410, b'{"success": false, "error": "no_such_ask", "msg": "error 410/3907: no_such_ask"}'),
        Answer(404, b'{"success": false, "error": "invalid_args", "msg": "error 404/3603: no_such_ask"}'),
        Answer(400, b'{"success": false, "error": "invalid_args", "msg": "Instance type 5 is no longer available."}'),
    ],
)
def test_a_taken_offer_is_recognised_by_its_words_whatever_the_status(api, answer):
    answers(api, answer)
    with pytest.raises(OfferTaken):
        api.client().rent(1001, {})


def test_a_refusal_that_made_a_contract_anyway_carries_its_id(api):
    answers(
        api, Answer(400, b'{"success": false, "error": "invalid_price", "msg": "bid too low", "new_contract": 4711}')
    )
    with pytest.raises(CreateFailed) as caught:
        api.client().rent(1001, {})
    assert caught.value.leaked_id == 4711


def test_success_false_with_status_200_is_an_error(api):
    answers(api, Answer(200, b'{"success": false, "msg": "Required resources are currently unavailable"}'))
    with pytest.raises(ApiError, match="Required resources"):
        api.client().set_label(1, "x")


def test_destroying_what_is_gone_is_told_apart_from_destroying(api):
    instance_id = api.add("x")
    client = api.client()
    assert client.destroy(instance_id).confirmed
    assert client.destroy(instance_id) == Destroyed(confirmed=False)


@pytest.mark.parametrize(("kind", "after_s"), [("broke", 2), ("timeout", 0)])
def test_an_instance_ended_when_the_first_destroy_request_broke_or_was_sent_that_had_no_answer(api, kind, after_s):
    instance_id, sent_at = api.add("x"), []
    left = [Answer(429, b"slow"), no_answer(sent=False), Unanswered("", kind, sent=True), no_answer()]

    def interrupt(_method, _path):
        sent_at.append(api.clock.now)
        api.clock.sleep(2)
        if len(sent_at) == 3:
            del api.contracts[instance_id]
        if isinstance(answer := left.pop(0) if left else None, Exception):
            raise answer
        return answer

    api.interrupt = interrupt
    destroyed = api.client(now=api.clock).destroy(instance_id)
    assert destroyed == Destroyed(confirmed=False, at=sent_at[2] + after_s)
    assert len(sent_at) == 5


def test_destroy_repeats_through_rate_limits_longer_than_any_read(api):
    instance_id = api.add("x")
    answers(api, *[Answer(429, b"slow")] * 12)
    assert api.client(patience_s=20).destroy(instance_id).confirmed


def test_a_redirect_names_the_host_to_set(api):
    answers(api, Answer(308, b"", {"location": "https://console.vast.ai/api/v0/"}))
    with pytest.raises(ApiError, match=r"set emulator\.url"):
        api.client().account()


def test_the_key_is_in_no_text_and_no_repr(api):
    answers(api, Answer(400, f'{{"error": "bad", "msg": "you sent Bearer {KEY}"}}'.encode()))
    client = api.client()
    with pytest.raises(ApiError) as caught:
        client.account()
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert KEY not in repr(client)


def test_the_two_reads_of_a_refresh_do_not_wait_for_each_other(api):
    client = api.client(pacer=Pacer(PUBLISHED, clock=api.clock, sleep=api.clock.sleep))
    began = api.clock()
    client.instances()
    client.price_increases()
    assert api.clock() == began


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n", "\t{} "])
def test_a_key_from_a_file_is_used_without_the_blanks_around_it(api, around):
    assert api.client(key=around.format(KEY)).instances() == []


@pytest.mark.parametrize("spoilt", ["{}\nX: y", "{} {}", "{}\x00", "{}\u00e9"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent_and_is_not_shown(api, spoilt):
    with pytest.raises(AuthError, match="as HTTP headers require") as caught:
        api.client(key=spoilt.format(KEY, KEY)).instances()
    assert KEY not in str(caught.value)
    assert not api.calls


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nX: y", f"{KEY}\u20ac"])
def test_no_transport_says_the_key_of_a_request_that_cannot_be_sent(key):
    refusals = [
        lambda: CaddyAdmin("http://127.0.0.1:9", key=key).config(),
        lambda: RerankClient("http://127.0.0.1:9", key, timeout_s=1).models(),
    ]
    for refused in refusals:
        with pytest.raises((CaddyUnreachable, ServerUnreachable)) as caught:
            refused()
        assert KEY not in "".join(traceback.format_exception_only(caught.value))
        assert caught.value.__suppress_context__


BROKEN_ROWS = [{"machine_id": None}, {"dph_total": None}, {"id": None, "ask_contract_id": None}, {"dph_total": "dear"}]


@pytest.mark.parametrize("broken", [*BROKEN_ROWS, None, "a row"], ids=str)
def test_an_offer_that_cannot_be_read_is_left_out_and_counted_and_the_others_are_found(api, broken):
    api.offers.insert(1, {**api.offers[0], **broken} if isinstance(broken, dict) else broken)
    page = api.client().search(Query(parse(None)))
    assert (len(page.offers), page.unreadable) == (6, 1)


def test_a_search_of_which_no_offer_can_be_read_is_no_empty_market(api):
    api.offers = [{**one, "dph_total": None} for one in api.offers]
    with pytest.raises(MalformedAnswer, match=r"none of 6 offers can be read: .*'dph_total_usd'"):
        api.client().search(Query(parse(None)))


def test_where_nothing_fits_the_offers_that_cannot_be_read_are_named(api):
    api.offers.append({**api.offers[0], "machine_id": None})
    with pytest.raises(NoOffer, match="1 more cannot be read, and were left out"):
        Search("gpu_ram>=999", 40, 12.6).run(api.client())


def test_charges_are_read_page_by_page_and_in_the_official_clients_words():
    asked = []

    def transport(_method, url, **_options):
        split = urlsplit(url)
        asked.append((split.path, {name: value[0] for name, value in parse_qs(split.query).items()}))
        number = len(asked)
        row = {"source": f"instance-{number}", "amount": 0.5, "start": 1, "end": 2, "metadata": {"label": "a"}}
        body = {"success": True, "results": [row], "next_token": "more" if number == 1 else None}
        return Answer(200, json.dumps(body).encode())

    client = VastClient(KEY, transport=transport, pacer=Pacer(OFF))
    assert [(one.instance_id, one.amount_usd, one.label) for one in client.charges(10.2, 20.2)] == [
        (1, 0.5, "a"), (2, 0.5, "a"),
    ]  # fmt: skip
    first = {
        "select_filters": '{"day": {"gte": 10, "lte": 21}, "type": {"in": ["instance"]}}',
        "latest_first": "false",
        "limit": "100",
    }
    assert asked == [("/api/v0/charges/", first), ("/api/v0/charges/", first | {"after_token": "more"})]
