"""The envelope: every field, its limits, and what a client reads when it is wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from reflex.core.envelope import FIELDS, MAX_DELAY, MAX_LENGTH, check_idempotency_key, read
from reflex.core.errors import EventRejected
from reflex.core.events import NewEvent


def accepted(**fields: Any) -> NewEvent:
    event, _ = read({"type": "order.created", **fields}, max_payload_bytes=1000)
    return event


def refused(
    data: object, *, at: str = "", max_payload_bytes: int = 1000, idempotency_key: str | None = None
) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        read(data, max_payload_bytes=max_payload_bytes, at=at, idempotency_key=idempotency_key)
    return caught.value


def test_a_type_alone_is_an_event() -> None:
    event = accepted()
    assert isinstance(event.event_id, UUID)
    assert event == NewEvent(event.event_id, "order.created", "http", None, None, "{}")


def test_every_field_arrives_where_it_belongs() -> None:
    payload = {"order_id": "A1", "amount": 2.5, "ü": [None, True]}
    event, given = read(
        {
            "type": "order.created",
            "source": "shop",
            "key": "A1",
            "time": "2026-01-31T12:00:00.25+01:00",
            "payload": payload,
            "id": "req-1",
            "correlation_id": "chk-9",
            "delay": 90,
        },
        max_payload_bytes=1000,
        trace_context="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )
    assert given == payload
    assert orjson.loads(event.payload) == payload
    assert event._replace(payload="") == NewEvent(
        event_id=event.event_id,
        type="order.created",
        source="shop",
        key="A1",
        time=datetime(2026, 1, 31, 11, 0, 0, 250_000, tzinfo=UTC),
        payload="",
        idempotency_key="req-1",
        correlation_id="chk-9",
        trace_context="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        delay=timedelta(seconds=90),
    )


def test_optional_fields_that_are_null_count_as_not_given() -> None:
    nothing: dict[str, None] = dict.fromkeys(FIELDS - {"type", "payload"})
    event = accepted(**nothing)
    assert event == NewEvent(event.event_id, "order.created", "http", None, None, "{}")


@pytest.mark.parametrize("data", [None, [], "x", 1, True])
def test_only_an_object_is_an_event(data: object) -> None:
    error = refused(data, at="/3")
    assert (error.field, "must be a JSON object" in error.reason) == ("/3", True)


def test_unknown_fields_are_named_and_the_reason_points_to_the_payload() -> None:
    error = refused({"type": "a", "amount": 1, "order_id": 2})
    assert error.field == ""
    assert "'amount', 'order_id'" in error.reason
    assert "goes into 'payload'" in error.reason


def test_many_long_unknown_fields_are_not_echoed() -> None:
    assert len(refused({"type": "a", **{f"{n}{'x' * 500}": 1 for n in range(100)}}).reason) < 600


@pytest.mark.parametrize(
    "type",
    [None, 5, "", "a b", "a..b", ".a", "a.", "a.*", "*", "ü", "a\n", "reflex.dead_letter", "a" * 201, "a/b"],
)
def test_a_type_that_is_none_or_reserved_is_refused(type: object) -> None:
    error = refused({"type": type})
    assert error.field == "/type"
    assert len(error.reason) < 200


def test_a_missing_type_is_said_to_be_missing() -> None:
    assert refused({"payload": {}}).reason == "is missing"


@pytest.mark.parametrize("type", ["a", "order.created", "A-1_b.c.d", "reflexes", "a" * 200])
def test_types_of_all_permitted_shapes_are_taken(type: str) -> None:
    assert accepted(type=type).type == type


@pytest.mark.parametrize("payload", [None, [], "x", 1, False])
def test_a_payload_is_an_object(payload: object) -> None:
    assert refused({"type": "a", "payload": payload}).field == "/payload"


def test_the_payload_is_measured_as_it_is_stored() -> None:
    read({"type": "a", "payload": {"a": "x" * 92}}, max_payload_bytes=100)
    error = refused({"type": "a", "payload": {"a": "x" * 93}}, max_payload_bytes=100)
    assert error.field == "/payload"
    assert "101 bytes" in error.reason
    assert "100" in error.reason


@pytest.mark.parametrize("name", sorted(MAX_LENGTH))
def test_texts_have_a_length_and_a_kind(name: str) -> None:
    accepted(**{name: "x" * MAX_LENGTH[name]})
    for value in ("x" * (MAX_LENGTH[name] + 1), "", ["x"], {"x": 1}, True):
        assert refused({"type": "a", name: value}).field == f"/{name}"


def test_a_number_as_key_is_refused_with_the_way_to_write_it() -> None:
    assert refused({"type": "a", "key": 17}).reason == 'must be a string, not a number; write it as "17"'


def test_a_source_is_printable() -> None:
    assert accepted(source="Köln, Bahnhof").source == "Köln, Bahnhof"
    assert refused({"type": "a", "source": "a\nb"}).field == "/source"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00-23:59", datetime(2026, 2, 1, 11, 59, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789+00:00", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-29T23:59:59Z", datetime(9999, 12, 29, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_as_in_rfc_3339_are_taken(text: str, instant: datetime) -> None:
    assert accepted(time=text).time == instant
    assert accepted(available_at=text).available_at == instant


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-31T12:00:00", "2026-01-31", "now", "", 1769860800, True, "2026-02-30T00:00:00Z",
        "2026-01-31T24:00:01Z", "2026-01-31T12:00:60Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-12:00", "9999-12-31T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59",
        "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00.Z", "٢٠٢٦-01-31T12:00:00Z", "20260131T120000Z",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["time", "available_at"])
def test_other_times_are_refused(name: str, time: object) -> None:
    assert refused({"type": "a", name: time}, at="/0").field == f"/0/{name}"


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        (0, timedelta(0)),
        (0.25, timedelta(milliseconds=250)),
        (31_536_000, MAX_DELAY),
        ("PT15M", timedelta(minutes=15)),
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ("P2W", timedelta(weeks=2)),
        ("PT36H", timedelta(hours=36)),
    ],
)
def test_delays_in_seconds_and_as_iso_durations_are_taken(value: object, delay: timedelta) -> None:
    assert accepted(delay=value).delay == delay


@pytest.mark.parametrize(
    "value",
    [-1, -0.001, 31_536_001, 1e300, -1e300, 2**64 - 1, True, "15m", "90", "", "P", "PT", "PT5", "P1Y", "P1M", "P1W2D",
     "-PT5M", "P366D", "PT999999999S", [], {}],
)  # fmt: skip
def test_other_delays_are_refused(value: object) -> None:
    assert refused({"type": "a", "delay": value}).field == "/delay"


def test_delay_and_available_at_exclude_each_other() -> None:
    assert refused({"type": "a", "delay": 1, "available_at": "2026-01-31T12:00:00Z"}).field == "/delay"


def test_the_header_and_the_field_are_one_idempotency_key() -> None:
    event, _ = read({"type": "a"}, max_payload_bytes=10, idempotency_key="k")
    assert event.idempotency_key == "k"
    event, _ = read({"type": "a", "id": "k"}, max_payload_bytes=10, idempotency_key="k")
    assert event.idempotency_key == "k"
    assert refused({"type": "a", "id": "other"}, idempotency_key="k").field == "/id"


def test_an_idempotency_header_is_short_plain_text_with_or_without_quotes() -> None:
    assert check_idempotency_key("a b-1") == "a b-1"
    assert check_idempotency_key('"8e03978e"') == "8e03978e"
    for bad in ("", '""', "x" * 201, "ä", "a\tb"):
        with pytest.raises(EventRejected, match="Idempotency-Key"):
            check_idempotency_key(bad)
