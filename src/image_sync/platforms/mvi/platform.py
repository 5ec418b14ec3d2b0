"""MVI as a platform of ours: what the protocol promises, said through ``api``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from image_sync.errors import ConfigError
from image_sync.platforms.base import Adapter, Site, Traits
from image_sync.platforms.http import Client, Timeouts
from image_sync.platforms.mvi import auth, wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.models import Models
from image_sync.platforms.mvi.pictures import Pictures
from image_sync.platforms.mvi.trainings import Trainings


class MviPlatform:
    """IBM Maximo Visual Inspection, or the embedded server.

    Args:
        endpoint: its address with any context root, with or without ``/api``.
        port: replaces the address's port.
        username, password: for servers up to 1.3; ignored when there is an ``api_key``.
        verify: whether to check the server's certificate, or a file with those to trust.
        proxy: URL of a proxy.
        batch_files, batch_bytes: most pictures and bytes for one request, as configured.
        timeouts: of requests; an upload gets the time on top that its bytes need on a slow line.
        stop: ends every wait.
        alive: called for each request, and each block of it.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        stop: threading.Event,
        port: int | None = None,
        username: str = "",
        password: str = "",
        api_key: str = "",
        verify: bool | str = True,
        proxy: str = "",
        batch_files: int = 500,
        batch_bytes: int = 32 * 2**20,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        client = Client(
            base_uri(endpoint, port),
            verify=verify,
            proxy=proxy,
            headers={"Accept-Language": "en-US"},
            timeouts=timeouts,
            fault=wire.fault,
            alive=alive,
        )
        who: auth.Auth = auth.anonymous()
        if api_key:
            who = auth.api_key(api_key)
        elif username:
            who = auth.Password(lambda: auth.log_in(client, username, password))
        self._api = Api(client, who, timeouts, stop)
        self.pictures = Pictures(self._api)
        self.models = Models(self._api)
        self.trainings = Trainings(self._api, self.models)
        self.traits = Traits(
            name="mvi",
            who=f"MVI at {urlsplit(endpoint).netloc}",
            batch_files=batch_files,
            batch_bytes=batch_bytes,
            suffixes=frozenset({"jpg", "jpeg", "png"}),
            min_categories=2,
            min_pictures=5,
            idempotent_uploads=False,
            min_labelled=5,
            labels_ignore_case=True,
        )

    def sign_in(self) -> None:
        """Read the list of datasets: that needs a server, a way to it, and an account."""
        for _ in self._api.datasets():
            pass

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def base_uri(endpoint: str, port: int | None = None) -> str:
    """The address below which the API lies.

    >>> base_uri("https://mvi.example.com/visual-inspection/", 9443)
    'https://mvi.example.com:9443/visual-inspection/api'
    """
    parts = urlsplit(endpoint.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigError(
            "credentials.endpoint must look like https://mvi.example.com or https://mvi.example.com/visual-inspection",
            hint="Users, passwords, queries and fragments do not belong there",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    number = port if port is not None else parts.port
    root = parts.path.rstrip("/").removesuffix("/api")
    return f"{parts.scheme}://{host}{f':{number}' if number else ''}{root}/api"


def _make(site: Site) -> MviPlatform:
    who, upload = site.settings.credentials, site.settings.upload
    return MviPlatform(
        who.endpoint,
        stop=site.stop,
        username=who.username or "",
        password=who.password.get_secret_value() if who.password else "",
        api_key=who.api_key.get_secret_value() if who.api_key else "",
        verify=who.trust,
        proxy=who.proxy or "",
        batch_files=upload.batch_files,
        batch_bytes=upload.batch_bytes,
        timeouts=Timeouts.of(upload.timeout),
        alive=site.alive,
    )


ADAPTER = Adapter(_make)
