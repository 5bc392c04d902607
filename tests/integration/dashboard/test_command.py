"""``ringonce dashboard`` serves TLS, warns where passwords can be read, and refuses in one line."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.cli.running import refusal, run
from tests.integration.dashboard.serving import PASSWORD, PATIENCE, served
from tests.integration.http.raw_server import make_certificate
from tests.postgres import Database
from worker.serving import Place

HEADER = ["--proxy-header", "X-Forwarded-User"]


@pytest.fixture(autouse=True)
def _somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (HEADER, "--proxy-header and --proxy-from go together"),
        (["--proxy-from", "127.0.0.1"], "--proxy-header and --proxy-from go together"),
        ([*HEADER, "--proxy-from", "somewhere"], "'somewhere' is neither an address nor a network"),
        (["--allowed-host", "https://admin.example.com"], "is no name of a host, such as admin.example.com"),
        (["--allowed-host", "*"], "'*' is no name of a host, such as admin.example.com"),
        (["--tls-key", __file__], "--tls-key needs --tls-cert"),
        (["--tls-cert", __file__], "the page cannot be served at 127.0.0.1, port 8090"),
        (["--host", "no such host"], "the page cannot be served at no such host, port 8090"),
    ],
)
def test_what_it_could_not_keep_safe_is_refused(options: list[str], line: str) -> None:
    assert line in refusal(run("dashboard", *options))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: Address already in use" in refusal(run("dashboard", "--port", port))


@pytest.mark.parametrize("in_one_file", [True, False], ids=["one file", "two files"])
def test_over_tls_the_page_is_where_it_says(database: Database, tmp_path: Path, *, in_one_file: bool) -> None:
    made = make_certificate(tmp_path, "127.0.0.1")
    both = tmp_path / "page.pem"
    both.write_text(made.file.read_text() + made.key.read_text())
    options = ["--tls-cert", both] if in_one_file else ["--tls-cert", made.file, "--tls-key", made.key]
    with served(database, tmp_path, *map(str, options)) as page:
        assert page.address.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=made.file)
        auth = httpx.BasicAuth("ada", PASSWORD)
        with httpx.Client(verify=trust, auth=auth, trust_env=False, timeout=PATIENCE) as ada:
            assert "<h1>Overview</h1>" in ada.get(page.address).raise_for_status().text
        with pytest.raises(httpx.TransportError):
            httpx.get(page.address.replace("https:", "http:"), trust_env=False, timeout=PATIENCE)


WARNING = "passwords cross the network as they are: use --tls-cert, or a proxy that speaks https\n"


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--host", "0.0.0.0"], WARNING),  # noqa: S104 - nothing is listened to here
        (["--host", "shop.example"], WARNING),
        (["--host", "0.0.0.0", "--tls-cert", __file__], ""),  # noqa: S104
        (["--host", "0.0.0.0", *HEADER, "--proxy-from", "10.0.0.0/8"], ""),  # noqa: S104
        (["--host", "localhost"], ""),
        (["--host", "::1"], ""),
        ([], ""),
    ],
)
def test_it_warns_where_others_can_read_passwords(
    monkeypatch: pytest.MonkeyPatch, options: list[str], warning: str
) -> None:
    def serve(_url: str, _place: Place, **given: Any) -> None:  # noqa: ANN401 - whatever it is called with
        given["on_start"]("http://where.example:8090")

    monkeypatch.setattr("worker.cli.dashboard.serve", serve)
    result = run("dashboard", *options)
    assert (result.exit_code, result.stderr) == (0, warning)
    assert result.stdout.startswith("the admin page is at http://where.example:8090: log in as a user")
