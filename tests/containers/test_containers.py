"""The SDK part against the engine's API, with shell scripts for containers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_training.containers import connection, running
from lora_training.containers.running import Ended, Screen
from lora_training.errors import EngineError, Interrupted, LoraError
from lora_training.launch.container import Caller, Container, ContainerRun, Engine, Mount, describe
from lora_training.supervise.signals import Asked
from tests.containers import fake

Script = Callable[[str], None]


class Output:
    """The output of a container; `when` is called with all of it at each chunk."""

    def __init__(self, when: Callable[[str], None] = lambda _text: None) -> None:
        self.out, self.err, self.when = b"", b"", when

    def __call__(self, chunk: bytes, is_error: bool) -> None:
        if is_error:
            self.err += chunk
        else:
            self.out += chunk
        self.when((self.out + self.err).decode())


def wanted(tmp_path: Path, **changes: object) -> Container:
    output = tmp_path / "out" / "cats.safetensors"
    output.parent.mkdir(exist_ok=True)
    order = ContainerRun(
        "lora-training", tmp_path / "my.toml", output, (Mount(str(tmp_path), str(tmp_path), writable=True),)
    )
    return replace(describe(order, Caller(1000, 1001, (1001, 44)), Engine()), **changes)  # type: ignore[arg-type]


def run(container: Container, output: Output | None = None, asked: Asked | None = None) -> Ended:
    with connection.connected(os.environ) as engine:
        return running.run(engine, container, Screen(output or Output()), asked or Asked())


def test_output_and_exit_code_come_through_and_the_container_is_removed(
    engine: fake.Engine, script: Script, tmp_path: Path
) -> None:
    script('echo "args: $*"; echo oops >&2; exit 6')
    output = Output()
    assert run(wanted(tmp_path), output) == Ended(6)
    assert output.out == f"args: train {tmp_path}/my.toml\n".encode()
    assert output.err == b"oops\n"
    assert engine.containers == {}
    assert len(engine.removed) == 1


def test_a_large_output_arrives_whole_and_in_order(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("seq 1 100000")
    output = Output()
    run(wanted(tmp_path), output)
    assert output.out.split() == [b"%d" % number for number in range(1, 100001)]


def test_it_is_attached_before_it_is_started(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("true")
    run(wanted(tmp_path))
    steps = [path.rpartition("/")[2] for method, path in engine.requests if method == "POST"]
    assert steps == ["create", "attach", "start"]


def test_what_is_created_is_what_was_described(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("true")
    run(wanted(tmp_path, env={"A": "1 2"}, network="host"))
    (made,) = engine.removed
    body, host = made.body, made.body["HostConfig"]
    assert body["Image"] == "lora-training"
    assert body["Cmd"] == ["train", f"{tmp_path}/my.toml"]
    assert body["User"] == "1000:1001"
    assert body["Env"] == ["A=1 2"]
    assert body["StopTimeout"] == 300
    assert body["Labels"] == {"lora.run": f"{tmp_path}/out/cats.run"}
    assert "Entrypoint" not in body
    assert host["GroupAdd"] == ["44"]
    assert host["NetworkMode"] == "host"
    assert host["ShmSize"] == 8 * 2**30
    bind = {"Type": "bind", "Source": str(tmp_path), "Target": str(tmp_path), "ReadOnly": False}
    assert host["Mounts"] == [bind]
    assert not host.get("DeviceRequests")


def test_gpus_are_asked_for_all_together(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("true")
    engine.gpus = True
    run(wanted(tmp_path, gpus="engine"))
    (request,) = engine.removed[0].body["HostConfig"]["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])


def test_podman_is_asked_for_them_as_cdi_devices(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("true")
    engine.gpus = True
    run(wanted(tmp_path, gpus="cdi"))
    (request,) = engine.removed[0].body["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=all"])


def test_no_gpu_runtime_is_one_sentence_and_a_cure(engine: fake.Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no GPU to give") as caught:
        run(wanted(tmp_path, gpus="engine"))
    assert "NVIDIA Container Toolkit" in str(caught.value.hint)
    assert "ACCELERATE_USE_CPU=1" in str(caught.value.hint)
    assert engine.containers == {}


def test_signals_are_passed_on_one_by_one_and_the_third_kills(
    engine: fake.Engine, script: Script, tmp_path: Path
) -> None:
    script("trap 'echo heard' INT; echo ready; while :; do sleep 0.05; done")
    asked = Asked()

    def ask(text: str) -> None:
        # once more after each answer
        if asked.count < 3 and asked.count == text.count("heard") and "ready" in text:
            asked.count, asked.signum = asked.count + 1, signal.SIGINT

    ended = run(wanted(tmp_path), Output(ask), asked)
    assert ended.code == 137
    assert engine.removed[0].signals == ["SIGINT", "SIGINT", "SIGKILL"]


def test_a_signal_before_the_start_starts_nothing(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("true")
    with pytest.raises(Interrupted) as caught:
        run(wanted(tmp_path), asked=Asked(1, signal.SIGTERM))
    assert caught.value.exit_code == 143
    assert engine.removed[0].process is None
    assert engine.containers == {}


def test_a_signal_to_one_that_has_ended_is_no_error(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("echo bye; exit 3")
    asked = Asked()

    def ask(_text: str) -> None:
        asked.count = 1
        assert made().process is not None
        made().process.wait()  # type: ignore[union-attr]

    def made() -> fake.Container:
        return next(iter(engine.containers.values()))

    assert run(wanted(tmp_path), Output(ask), asked).code == 3


def test_a_writer_that_fails_takes_the_container_with_it(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("echo hello; sleep 1000")

    def closed(_text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(wanted(tmp_path), Output(closed))
    assert engine.containers == {}
    assert engine.removed[0].process.wait() == -signal.SIGKILL  # type: ignore[union-attr]


def test_a_terminal_is_one_raw_stream_of_the_right_size(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("printf 'a\\r\\nb'")
    output = Output()
    with connection.connected(os.environ) as found:
        running.run(found, wanted(tmp_path, tty=True), Screen(output, lambda: (77, 30)), Asked())
    assert output.out == b"a\r\nb"
    assert engine.removed[0].signals == ["77x30"]


def test_one_that_ran_out_of_memory_says_so(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("echo on; kill -9 $$")

    def short(_text: str) -> None:
        next(iter(engine.containers.values())).out_of_memory = True

    assert run(wanted(tmp_path), Output(short)) == Ended(137, out_of_memory=True)


@pytest.mark.parametrize("status", [409, 500])
def test_what_a_killed_lora_left_of_the_same_run_is_cleared_away(
    engine: fake.Engine, script: Script, tmp_path: Path, status: int
) -> None:
    script("true")
    engine.conflict = status  # 500 with older Podmans
    container = wanted(tmp_path)
    left(engine, container).over = True
    assert run(container).code == 0
    assert len(engine.removed) == 2


def test_a_run_that_is_in_a_container_already_is_not_started_twice(
    engine: fake.Engine, script: Script, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    script(f"echo first; read _ < {tmp_path}/fifo")
    container, begun = wanted(tmp_path), threading.Event()
    first = threading.Thread(target=run, args=(container, Output(lambda _text: begun.set())))
    first.start()
    begun.wait()
    with pytest.raises(LoraError, match="at work in the container") as caught:
        run(container)
    (tmp_path / "fifo").write_text("go\n")
    first.join()
    assert f"docker stop {container.name}" in str(caught.value.hint)
    assert len(engine.removed) == 1


def test_another_ones_container_of_that_name_is_left_alone(engine: fake.Engine, tmp_path: Path) -> None:
    container = wanted(tmp_path)
    left(engine, replace(container, labels={})).over = True
    with pytest.raises(EngineError, match="already in use"):
        run(container)
    assert engine.removed == []


def left(engine: fake.Engine, container: Container) -> fake.Container:
    one = fake.Container("1" * 64, container.name, {"Image": container.image, "Labels": dict(container.labels)})
    engine.containers[one.id] = one
    return one


def test_an_engine_that_goes_away_is_one_sentence(engine: fake.Engine, script: Script, tmp_path: Path) -> None:
    script("echo on; read _ < /dev/null; sleep 0.2")

    def gone(_text: str) -> None:
        engine.socket.unlink(missing_ok=True)

    with pytest.raises(EngineError, match="the container engine went away"):
        run(wanted(tmp_path), Output(gone))


def test_a_folder_that_is_not_there_is_refused_and_not_made(engine: fake.Engine, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(EngineError, match="cannot mount a folder") as caught:
        run(wanted(tmp_path, mounts=(Mount(str(gone), str(gone)),)))
    assert "the machine that it runs on" in str(caught.value.hint)
    assert not gone.exists()


def test_a_missing_image_says_how_to_make_it(engine: fake.Engine) -> None:
    del engine.images["lora-training"]
    with connection.connected(os.environ) as found, pytest.raises(EngineError, match="has no image") as caught:
        connection.labels(found, "lora-training")
    assert "make docker-build" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_an_image_of_a_registry_is_not_pulled_unasked(engine: fake.Engine) -> None:
    with connection.connected(os.environ) as found, pytest.raises(EngineError) as caught:
        connection.labels(found, "example.invalid/lora:1")
    assert "docker pull example.invalid/lora:1" in str(caught.value.hint)
    assert not [path for _, path in engine.requests if "images/create" in path]


def kind(**how: object) -> connection.Connection:
    with connection.connected(os.environ) as found:
        return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], Engine()),
        (["name=rootless", "name=cgroupns"], Engine(rootless=True)),
        (["name=userns"], Engine(remapped=True)),
        (["name=seccomp,profile=builtin", "name=selinux"], Engine(selinux=True)),
    ],
)
def test_the_engine_is_asked_what_kind_it_is(engine: fake.Engine, options: list[str], expected: Engine) -> None:
    engine.info["SecurityOptions"] = options
    assert kind().kind == expected


@pytest.mark.parametrize(("version", "gives"), [("4.3.1", False), ("5.4.0-dev", True), ("10.0", True)])
def test_podman_is_known_and_whether_it_passes_gpus_on(engine: fake.Engine, version: str, gives: bool) -> None:
    engine.version["Components"] = [{"Name": "Podman Engine", "Version": version}]
    assert kind().kind.program == "podman"
    assert kind().gives_gpus is gives


def test_podmans_own_variable_names_the_engine_too(engine: fake.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", engine.address)
    monkeypatch.delenv("DOCKER_HOST")
    assert kind().address == engine.address


def test_without_an_engine_the_socket_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(EngineError, match="there is no container engine here") as caught:
        kind()
    assert f"{tmp_path}/none does not exist" in str(caught.value.hint)


def test_an_engine_that_does_not_answer_is_told_from_none(
    engine: fake.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(engine.socket.with_name("n")))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.socket.with_name('n')}")
    with pytest.raises(EngineError, match="does not answer"):
        kind()


def test_a_socket_that_does_not_let_us_in_says_which_group(
    engine: fake.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.socket.chmod(0o600)
    engine.socket.parent.chmod(0o755)
    for folder in list(engine.socket.parents)[:3]:
        folder.chmod(0o755)
    if os.getuid() == 0:
        os.seteuid(65534)
    else:
        engine.socket.chmod(0)
    try:
        with pytest.raises(EngineError, match="does not let") as caught:
            kind()
    finally:
        os.seteuid(os.getuid())
    assert "usermod -aG docker" in str(caught.value.hint)
