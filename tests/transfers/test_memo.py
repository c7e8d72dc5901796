"""What a transfer is answered with is the same each time."""

import base64
import json
import secrets
import zlib
from typing import cast

import pytest
from pydantic import TypeAdapter

from hpcgate.api.models import transfers as models
from hpcgate.api.routes.transfers import answer_of
from hpcgate.errors import BadAnswer, BadRequest
from hpcgate.transfers.base import Directives, JobLogs, Started, TransferJob
from hpcgate.transfers.memo import MOST, read, written

JOB = TransferJob("", "demo", "/scratch/\udcff", JobLogs("/scratch/out", "/scratch/err"))


def test_all_of_it_is_read_back() -> None:
    for directives in (None, Directives("streamer", {"coordinates": "c" * 1000})):
        job, found = read(written(JOB, directives), "7")
        assert (job.job_id, job.logs, job.working_directory) == ("7", JOB.logs, JOB.working_directory)
        assert found == directives


def test_as_many_parts_as_s3_takes() -> None:
    start = "https://s3.example.org/hpcgate-alice/key?" + "X-Amz-Credential=some&" * 12
    urls = [f"{start}partNumber={number}&X-Amz-Signature={secrets.token_hex(32)}" for number in range(10_000)]
    text = written(JOB, Directives("s3", {"parts_upload_urls": tuple(urls)}))
    assert len(text) <= MOST
    _, found = read(text, "7")
    assert found is not None
    assert list(found.fields["parts_upload_urls"] or ()) == urls
    with pytest.raises(BadRequest):
        written(JOB, Directives("s3", {"coordinates": "".join(secrets.token_hex(32) for _ in range(20_000))}))


def memo(content: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()


LOGS = {"output_log": "", "error_log": ""}
JOB_VALUES = {"system": "demo", "working_directory": "/", "logs": LOGS}


def test_whatever_a_memo_holds_can_be_answered() -> None:
    """It lies in the user's home, where the user may change it; a directory may have bytes that are not UTF-8."""
    for text in ("/a\ud800", "/a\udcff", "\udc00"):
        logs = {"output_log": text, "error_log": text}
        values = {"job": {"system": text, "working_directory": text, "logs": logs}, "directives": None}
        answer = models.MoveResponse.model_validate({"transfer_job": read(memo(values), text)[0]})
        shown = json.loads(TypeAdapter(models.MoveResponse).dump_json(answer, by_alias=True))["transferJob"]
        assert shown["workingDirectory"] == text[:-1] + "\N{REPLACEMENT CHARACTER}" == shown["logs"]["outputLog"]


MANY = b'{"x": [' + b"[]," * 5_000_000 + b"0]}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "AAAA",
        base64.b64encode(b"x").decode(),
        base64.b64encode(zlib.compress(b"[]")).decode(),
        base64.b64encode(zlib.compress(json.dumps({"job": {}, "directives": {"x": 1}}).encode())).decode(),
        base64.b64encode(zlib.compress(b" " * 17 * 1024 * 1024)).decode(),
        *(
            memo({"job": JOB_VALUES, "directives": directives})
            for directives in cast(
                "tuple[object, ...]",
                (
                    {"transfer_method": 5},
                    {"transfer_method": []},
                    {"transfer_method": "s3", "parts_upload_urls": 5},
                    {"transfer_method": "s3", "parts_upload_urls": [5]},
                    {"transfer_method": "s3", "max_part_size": "many"},
                    {"transfer_method": "streamer", "coordinates": {}},
                    {},
                    [],
                ),
            )
        ),
    ],
)
def test_what_is_not_a_memo_is_not_an_answer(text: str) -> None:
    def answer() -> None:
        job, directives = read(text, "7")
        assert directives is not None
        answer_of(models.UploadFileResponse, Started(job, directives))

    with pytest.raises(BadAnswer):
        answer()


def test_a_plug_in_is_told_and_tells_what_it_likes() -> None:
    """Fields of a method that the contract does not name reach the plug-in, and those of its answer the user."""
    body = {"path": "/x", "transferDirectives": {"transferMethod": "pigeon", "loftId": 7}}
    asked = models.PostFileUploadRequest.model_validate(body).transfer_directives
    assert asked.model_dump(exclude={"transfer_method"}) == {"loftId": 7}
    told = Directives("pigeon", {"ringNumber": 5})
    _, found = read(written(JOB, told), "7")
    assert found == told
    answer = answer_of(models.UploadFileResponse, Started(JOB, told)).model_dump(by_alias=True, mode="json")
    assert answer["transferDirectives"] == {"transferMethod": "pigeon", "ringNumber": 5}


def test_values_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 KiB of a user's own doing unpack to five million lists, and others would wait for them."""
    text = base64.b64encode(zlib.compress(MANY)).decode()
    assert len(text) < MOST
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("they were made"))
    with pytest.raises(BadAnswer):
        read(text, "7")
