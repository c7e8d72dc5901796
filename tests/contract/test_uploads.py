"""Two processes that write to one resumable upload, step by step: nothing of it is left."""

import pytest

from hpcgate.errors import NotFound
from hpcgate.filesystem.tus.registry import UploadRegistry
from hpcgate.filesystem.tus.uploads import Uploads
from hpcgate.ssh.session import Session
from tests.contract.test_links import blocks
from tests.filesystem.remote import Place


@pytest.mark.parametrize("ends", ["append", "terminate"])
async def test_who_comes_while_an_upload_goes_leaves_nothing_of_it(
    session: Session, place: Place, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second takes its lock when the first has removed its own, and not yet the directory in which it lay."""
    place.run("mkdir", "-p", "uploads")
    directory = place / "uploads"
    async with session.bulk() as streams, session.bulk() as others:
        first = Uploads(session, streams, directory, UploadRegistry(), 1000)
        second = Uploads(session, others, directory, UploadRegistry(), 1000)
        begun = await first.create(b"file", 6, "")
        forget, lock = first.store.forget, second.store.lock

        async def go(*args: object) -> None:
            # All but the directory goes, as `forget` does it, when the second has looked and is about to lock.
            with monkeypatch.context() as patch:

                async def nothing(*_: object) -> None:
                    """Leave the directory."""

                patch.setattr(type(streams), "remove_private", nothing)
                await forget(*args)  # type: ignore[arg-type]

        async def meanwhile(*args: object) -> bool:
            monkeypatch.setattr(first.store, "forget", go)
            await (first.append(begun.id, 0, blocks(b"newnew")) if ends == "append" else first.terminate(begun.id))
            return await lock(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(second.store, "lock", meanwhile)
        with pytest.raises(NotFound):
            await second.append(begun.id, 0, blocks(b"others"))
    left = sorted(path.name for path in (place.path / "uploads").iterdir())
    assert left == (["file"] if ends == "append" else [])
