"""A store fails at a few requests of a command; `make torture`: at all of them."""

import shutil
import sys

import pytest

pytest.importorskip("s3fs", reason="s3fs is absent")
pytest.importorskip("moto", reason="moto, a local S3 service, is absent")
pytest.importorskip("flask", reason="moto[server] is absent")

from failing_store import ANSWERS, BUCKET
from store_torture import COMMANDS, StoreTorture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the shim is for Linux"),
    pytest.mark.skipif(not shutil.which("cc"), reason="the shim needs a C compiler"),
]
RETHRESHOLD = next(command for command in COMMANDS if command.name == "boxes rethreshold")


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    torture = StoreTorture(tmp_path_factory.mktemp("store"))
    yield torture
    torture.close()


@pytest.mark.parametrize("answer", [*ANSWERS, None], ids=lambda answer: getattr(answer, "name", 4))
def test_a_box_set_is_the_same_whatever_a_store_answers(torture, answer):
    _, requests = torture.undisturbed(RETHRESHOLD)
    met = sum(answer is None or answer.method in ("", method) for method in requests)
    number = ANSWERS.index(answer) if answer else 0
    place = 1 + (2 * number + 1) * met // (2 * len(ANSWERS))
    assert torture.case(RETHRESHOLD, answer, place)["wrong"] is None, place


def test_the_service_fails_where_it_is_told(torture):
    """The attack itself: were it blind, every case above would pass."""
    expected, requests = torture.undisturbed(RETHRESHOLD)
    assert {"GET", "HEAD", "PUT"} <= {*requests}
    assert any(name.startswith(f"{BUCKET}/out/boxes/") for name in expected)
    refused = next(answer for answer in ANSWERS if answer.name.startswith("403"))
    assert torture.case(RETHRESHOLD, refused, 1)["ended"] == [1]
    killed = next(answer for answer in ANSWERS if answer.name == "kill")
    assert torture.case(RETHRESHOLD, killed, len(requests))["ended"] == [-9]
