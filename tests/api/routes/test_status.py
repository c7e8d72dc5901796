"""What users see of a system's configuration."""

import pytest

from hpcgate.api.models.data_transfer import StreamerDataTransfer, WormholeDataTransfer
from hpcgate.config import TransferSettings
from hpcgate.transfers.streamer import StreamerSettings
from hpcgate.transfers.wormhole import WormholeSettings


@pytest.mark.parametrize("settings", [StreamerSettings, WormholeSettings])
def test_no_password_of_a_package_index(settings: type[TransferSettings]) -> None:
    method = settings.model_fields["service_type"].annotation.__args__[0]  # type: ignore[union-attr]
    shown = StreamerDataTransfer if settings is StreamerSettings else WormholeDataTransfer
    for url, seen in (
        ("https://reader:s3cr3t@pypi.example.org:8443/simple/", "https://pypi.example.org:8443/simple/"),
        ("https://pypi.example.org/simple/", "https://pypi.example.org/simple/"),
        (None, None),
    ):
        document = {"service_type": method, "pypi_index_url": url}
        assert shown.model_validate(settings.model_validate(document)).pypi_index_url == seen
