"""The driver's reading of foreign bytes: whatever a host sends, it is an answer, more to come, or garbled."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.epson.protocol import Link, Message, Reader, Refused, greeting
from fiskal.scu.transports import Garbled, NoAnswer, NotSent

ANSWER = (
    b"<device_data><sequence>0</sequence><device_id>d</device_id><data><type>operateresult</type>"
    b"<success>true</success><code>SUCCESS</code><resultdata>%s</resultdata></data><data_id>7</data_id></device_data>"
)
FRAGMENTS = st.sampled_from(
    [
        b"<connect>",
        b"</connect>",
        b"<device_data>",
        b"</device_data>",
        b"<error/>",
        b"<open_device/>",
        b"\0",
        b'"',
        b" ",
        *(b"&lt;", b"&x;", b"<![CDATA[a]]>", b"<!-- -->", b"<?p?>", b"\xff", b"x", b"<a b='c'>", b"</a>"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=30), st.sampled_from([(b"device_data", b"error"), (b"connect",)]))
@settings(max_examples=500)
def test_reading_ends_with_a_message_or_says_why_not(parts: list[bytes], wanted: tuple[bytes, ...]) -> None:
    data = b"".join(parts)
    reader = Reader()
    reader.wanted = wanted
    try:
        length = reader.complete(data)
        assert 0 <= length <= len(data)
        if length:
            assert data[length - 1] == 0
            message = reader.message(data[:length])
            assert message.name.encode() in wanted
    except Garbled:
        return


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for read in (Message, greeting):
        try:
            read(data)
        except Garbled:
            continue


@given(st.text(alphabet="ab<>&\"' é\n", max_size=50))
def test_texts_are_read_as_another_parser_reads_them(text: str) -> None:
    element = ElementTree.Element("device_data")
    ElementTree.SubElement(element, "code").text = text
    ElementTree.SubElement(element, "code").text = "second"
    message = Message(ElementTree.tostring(element))
    assert message.get("code") == text.replace("\r", "\n")
    assert message.get("nothing") == ""


@pytest.mark.parametrize(
    "element",
    [
        b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]><error>&c;</error>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><error/>',
        b"<a>" * 100 + b"</a>" * 100,
        b"<error><code></error>",
        b"<error/><error/>",
        b"",
    ],
)
def test_xml_that_could_do_anything_is_refused(element: bytes) -> None:
    with pytest.raises(Garbled):
        Message(element)


class Script:
    """A transport that answers what it is told to."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.greeted = b"<connect><data><client_id>sock1</client_id></data></connect>\0"
        self.sent: list[bytes] = []
        self.dropped = 0

    def connect(self, deadline: Deadline | None = None) -> None:
        if self.connections == 0:
            self.connections = 1

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        self.sent.append(frame)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer + b"\0"

    def disconnect(self) -> None:
        self.dropped += 1

    def close(self) -> None:
        return


OPENED = b"<open_device><device_id>d</device_id><code>OK</code></open_device>"


def link(*answers: bytes | Exception) -> tuple[Link, Script]:
    script = Script(OPENED, *answers)
    made = Link(
        script,
        Reader(),
        name="test",
        device_id="d",
        storage_type="type_storage",
        timeout_ms=1000,
        busy_retry_s=0.5,
        reconnects=True,
        sleep=lambda _: None,
    )
    return made, script


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER % b"{",
        ANSWER % b"[]",
        ANSWER % b"",
        ANSWER % b"{}",
        ANSWER % b'{"result":1}',
        ANSWER % b'{"result":"EXECUTION_OK","function":"Other"}',
        (ANSWER % b'{"result":"EXECUTION_OK"}').replace(b"<device_id>d<", b"<device_id>e<"),
        b"<device_data",
    ],
)
def test_an_answer_that_is_none_ends_the_connection(answer: bytes) -> None:
    made, script = link(answer)
    with pytest.raises(Garbled):
        made.operate("F", {}, Deadline(5))
    assert script.dropped


def test_answers_and_refusals() -> None:
    made, _ = link(
        ANSWER % b'{"Result":"EXECUTION_OK","function":"F","OUTPUT":{"a":1}}',
        ANSWER % b'{"result":"EXECUTION_OK"}',
        ANSWER % b'{"result":"TSE1_ERROR_IO","output":{"remainingRetries":2}}',
        (ANSWER % b"").replace(b"true", b"false").replace(b"SUCCESS", b"ERROR_TIMEOUT"),
        b"<error><code>FUNCTION_NOT_FOUND</code></error>",
    )
    assert made.operate("F", {}, Deadline(5)) == {"a": 1}
    assert made.operate("F", {}, Deadline(5)) == {}
    for code in ("TSE1_ERROR_IO", "ERROR_TIMEOUT", "FUNCTION_NOT_FOUND"):
        with pytest.raises(Refused) as caught:
            made.operate("F", {}, Deadline(5))
        assert caught.value.code == code


def test_a_device_that_was_closed_is_opened_again_once() -> None:
    closed = b"<error><device_id>d</device_id><code>DEVICE_NOT_OPEN</code></error>"
    made, script = link(closed, OPENED, ANSWER % b'{"result":"EXECUTION_OK"}')
    assert made.operate("F", {}, Deadline(5)) == {}
    assert made.sessions == 2
    made, script = link(closed, OPENED, closed)
    with pytest.raises(Refused):
        made.operate("F", {}, Deadline(5))
    assert len(script.sent) == 4


def test_what_gets_lost_while_a_device_is_opened_was_not_sent() -> None:
    made, _ = link()
    made._transport.answers = [NoAnswer("gone")]  # type: ignore[attr-defined]
    with pytest.raises(NotSent):
        made.operate("F", {}, Deadline(5))
    made, _ = link(NoAnswer("gone"))
    with pytest.raises(NoAnswer):
        made.operate("F", {}, Deadline(5))


def test_a_request_that_is_too_long_is_not_sent() -> None:
    made, script = link()
    with pytest.raises(Refused) as caught:
        made.operate("F", {"processData": "A" * 70_000}, Deadline(5))
    assert caught.value.code == "JSON_ERROR_OVER_DATA_SIZE"
    assert not script.sent
