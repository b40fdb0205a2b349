"""The listener's socket: who may speak to it, and what becomes of requests that are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from swarmbus.control import NoListener, request
from swarmbus.control_server import MAX_REQUEST, Answer, ControlServer
from swarmbus.errors import NotAuthorized, StorageError, TimedOut, UsageError
from swarmbus.paths import socket_path
from tests.lab.loop import in_loop


async def echo(question: dict[str, Any]) -> dict[str, Any]:
    return {"said": question.get("word")}


async def refuse(question: dict[str, Any]) -> dict[str, Any]:
    raise NotAuthorized("not you", hint="somebody else", message_id="m")


async def crash(question: dict[str, Any]) -> dict[str, Any]:
    raise OSError("the roof is on fire")


async def hang(question: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(1_000)
    return {}


OPERATIONS: dict[str, Answer] = {"echo": echo, "refuse": refuse, "crash": crash, "hang": hang}


@contextlib.asynccontextmanager
async def serving(agent_id: str = "coder") -> AsyncIterator[Path]:
    path = socket_path(agent_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    server = ControlServer(path, OPERATIONS)
    await server.start()
    try:
        yield path
    finally:
        await server.stop()


async def ask(question: dict[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    return await asyncio.to_thread(request, "coder", question, timeout)


async def say(path: Path, *lines: bytes) -> list[Any]:
    """Send lines as they are, and hear until the other side has hung up."""
    reader, writer = await asyncio.open_unix_connection(path, limit=2 * MAX_REQUEST)
    for line in lines:
        writer.write(line)
    with contextlib.suppress(ConnectionError):
        writer.write_eof()
        await writer.drain()
    answers = []
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            answers.append(json.loads(line))
    writer.close()
    return answers


@in_loop
async def test_question_is_answered() -> None:
    async with serving():
        assert await ask({"op": "echo", "word": "é\n🐝\x00"}) == {"said": "é\n🐝\x00"}


@in_loop
async def test_error_comes_out_as_it_went_in() -> None:
    async with serving():
        with pytest.raises(NotAuthorized, match="not you") as error:
            await ask({"op": "refuse"})
    assert error.value.hint == "somebody else"


@in_loop
async def test_operation_that_nobody_knows_is_refused() -> None:
    async with serving():
        with pytest.raises(UsageError, match="does not know"):
            await ask({"op": "dance"})


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"[]\n",
        b"7\n",
        b"null\n",
        b"{}\n",
        b"\xff\xfe\n",
        b"\n",
        b'{"op": []}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda line: repr(line[:12]),
)
@in_loop
async def test_line_that_is_no_request_is_answered_with_an_error_and_the_next_is_heard(line: bytes) -> None:
    async with serving() as path:
        first, second = await say(path, line, b'{"op": "echo", "word": 1}\n')
    assert first["error"] == "usage"
    assert second == {"said": 1}


@in_loop
async def test_crash_in_an_answer_is_told_and_leaves_the_socket_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as path:
        with caplog.at_level(logging.ERROR):
            first, second = await say(path, b'{"op": "crash"}\n', b'{"op": "echo", "word": 1}\n')
    assert "roof" in first["message"]
    assert "roof" in caplog.text
    assert second == {"said": 1}


@in_loop
async def test_line_that_is_too_long_ends_the_talk_and_no_other() -> None:
    async with serving() as path:
        assert await say(path, b"x" * (MAX_REQUEST + 100) + b"\n", b'{"op": "echo"}\n') == []
        assert await ask({"op": "echo", "word": "x" * (MAX_REQUEST - 100)}) == {
            "said": "x" * (MAX_REQUEST - 100)
        }


@in_loop
async def test_half_a_line_is_no_harm() -> None:
    async with serving() as path:
        (answer,) = await say(path, b'{"op": "ec')
        assert answer["error"] == "usage"
        assert await ask({"op": "echo", "word": 1}) == {"said": 1}


@in_loop
async def test_several_talk_at_once_and_one_that_waits_holds_up_nobody() -> None:
    async with serving():
        hanging = asyncio.create_task(asyncio.to_thread(request, "coder", {"op": "hang"}, 1.0))
        answers = await asyncio.gather(*(ask({"op": "echo", "word": n}) for n in range(20)))
        assert [answer["said"] for answer in answers] == list(range(20))
        with pytest.raises(TimedOut, match="coder did not answer within 1 s"):
            await hanging


@in_loop
async def test_nobody_there_is_no_listener() -> None:
    with pytest.raises(NoListener):
        await ask({"op": "echo"})
    async with serving():
        pass
    with pytest.raises(NoListener):
        await ask({"op": "echo"})
    assert not socket_path("coder").exists()


@in_loop
async def test_socket_of_a_killed_listener_is_no_listener_and_is_replaced() -> None:
    path = socket_path("coder")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(NoListener):
        await ask({"op": "echo"})
    async with serving():
        assert await ask({"op": "echo", "word": 1}) == {"said": 1}


@in_loop
async def test_listener_that_hangs_up_is_no_listener() -> None:
    path = socket_path("coder")
    path.parent.mkdir(parents=True)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with await asyncio.start_unix_server(hang_up, path):
        with pytest.raises(NoListener):
            await ask({"op": "echo"})


@in_loop
async def test_socket_is_for_its_owner_only() -> None:
    async with serving() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
@in_loop
async def test_other_users_are_not_answered(home: Path) -> None:
    async with serving() as path:
        path.chmod(0o666)  # as if its mode were no guard
        for folder in (path.parent, *path.parent.parents):
            if home in (folder, *folder.parents):
                folder.chmod(0o755)
        with contextlib.ExitStack() as stack:
            channel = stack.enter_context(socket.socket(socket.AF_UNIX))
            channel.settimeout(5)
            os.seteuid(65_534)
            try:
                channel.connect(str(path))  # the kernel notes who we are at this moment
            finally:
                os.seteuid(0)
            channel.sendall(b'{"op": "echo", "word": 1}\n')
            with contextlib.suppress(ConnectionError):
                assert await asyncio.to_thread(channel.recv, 100) == b""
        assert await ask({"op": "echo", "word": 1}) == {"said": 1}


@in_loop
async def test_path_longer_than_a_socket_name_may_be_works(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMBUS_STATE_DIR", str(home / ("d" * 100) / ("e" * 100)))
    async with serving() as path:
        assert len(str(path)) > 200
        assert path.exists()
        assert await ask({"op": "echo", "word": 1}) == {"said": 1}
    assert not path.exists()


@in_loop
async def test_folder_that_is_missing_is_told(home: Path) -> None:
    with pytest.raises(StorageError, match=r"control\.sock"):
        await ControlServer(home / "missing" / "control.sock", {}).start()
