# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every verb as a person and as a program meets it: a terminal, a pipe that breaks, Ctrl-C, odd names.

On libvirt's embedded test driver, without root.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pexpect
import pytest

from tests.private_run import PRIVATE_RUN
from tests.schemas import validated

COMMAND = str(Path(__file__).parents[2] / "helper/virt-sanlock-helper")
URI = "test:///default"
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

# What `journalctl -o json` gives for one outage.
LINES = (
    ("sanlock", "2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8"),
    ("virt-sanlock-helper", f"pause test {UUID}: try 1 failed: busy; trying again, 34.0 s left"),
    (
        "virt-sanlock-helper",
        f"pause test {UUID}: done after 1.07 s: found running, suspended, verified paused, no lease held",
    ),
    ("virt-sanlock-helper", list(f"poweroff n\xff {UUID[:-1]}0: FAILED after 35.00 s: no".encode("latin-1"))),
    ("virt-sanlock-helper", f"recover test {UUID}: done after 3.00 s: resumed"),
)


@pytest.fixture
def exported(tmp_path: Path) -> str:
    """A journal's export with an outage of a minute ago."""
    path = tmp_path / "journal.json"
    with path.open("w") as file:
        for number, (identifier, message) in enumerate(LINES):
            stamp = str(int((time.time() - 60 + number) * 1e6))
            fields = {"__REALTIME_TIMESTAMP": stamp, "SYSLOG_IDENTIFIER": identifier, "MESSAGE": message}
            fields["_UID"] = "0"
            file.write(json.dumps(fields) + "\n")
    return str(path)


VERBS: dict[str, tuple[list[str], int]] = {
    "check": (["check", "--connect", URI], 1),
    "status": (["status", "--connect", URI, "--journal", "JOURNAL"], 0),
    "run": (["run", "--connect", URI, "--dry-run", "pause", "test"], 0),
    "history": (["history", "--journal", "JOURNAL"], 0),
    "auth-check": (["auth", "check", URI], 0),
    "auth-test": (["auth", "test", URI], 0),
}


def words(verb: str, journal: str) -> tuple[list[str], int]:
    arguments, status = VERBS[verb]
    return [journal if word == "JOURNAL" else word for word in arguments], status


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run without a terminal."""
    return subprocess.run(
        [*PRIVATE_RUN, COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


def terminal(*arguments: str, **environ: str) -> pexpect.spawn[str]:
    """Run in a pseudo-terminal of its own."""
    env = {**os.environ, "TERM": "xterm", **environ}
    words = [*PRIVATE_RUN, COMMAND, *arguments]
    return pexpect.spawn(words[0], words[1:], env=env, encoding="utf-8", timeout=30, dimensions=(50, 300))


def finish(child: pexpect.spawn[str]) -> tuple[str, int]:
    """All output, and the exit status."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None, f"ended by signal {child.signalstatus}"
    return str(child.before), child.exitstatus


@pytest.mark.parametrize("verb", VERBS)
def test_verb_in_a_pipe_and_at_a_terminal(verb: str, exported: str) -> None:
    arguments, status = words(verb, exported)
    piped = run(*arguments)
    assert piped.returncode == status, piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "Traceback" not in piped.stdout + piped.stderr
    seen, seen_status = finish(terminal(*arguments))
    assert seen_status == status
    assert "Traceback" not in seen
    plain, _ = finish(terminal(*arguments, NO_COLOR="1"))
    assert "\x1b" not in plain
    if verb not in ("run", "auth-test"):
        assert "\x1b[" in seen
    # The same words in both.
    assert piped.stdout.split()[0] in seen


@pytest.mark.parametrize("verb", VERBS)
def test_json_of_verb(verb: str, exported: str) -> None:
    arguments, status = words(verb, exported)
    result = run(*arguments, "--json")
    assert result.returncode == status, result.stderr
    validated(result.stdout, verb)


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_usage_of_verb(verb: str, exported: str) -> None:
    arguments, _ = words(verb, exported)
    assert run(*arguments, "--help").stdout.startswith("usage: virt-sanlock-helper ")
    wrong = run(*arguments, "--no-such-option")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("virt-sanlock-helper: unrecognized arguments: --no-such-option")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("extra", ["", "--json", "--help"])
def test_a_pipe_that_breaks(verb: str, extra: str, exported: str) -> None:
    arguments, _ = words(verb, exported)
    command = [COMMAND, *arguments, *([extra] if extra else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # As `| head -1` does that has seen enough: closed before the output is there.
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "pipe" not in errors.lower()
    # What a shell gives for a program that SIGPIPE ended.
    assert process.returncode == 141


def test_a_full_disk_is_a_failure_that_is_reported() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [COMMAND, "auth", "check", URI], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (result.returncode, result.stderr) == (
        1,
        "virt-sanlock-helper: write the output: No space left on device\n",
    )


@pytest.mark.parametrize("disposition", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_child_that_fails_has_failed_whatever_the_caller_ignores(
    tmp_path: Path, disposition: signal.Handlers
) -> None:
    """An init, or a daemon, may ignore SIGCHLD, and what it starts inherits that."""
    (tmp_path / "sanlock").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "sanlock").chmod(0o755)
    result = subprocess.run(
        [COMMAND, "status", "--json", "-c", URI],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, disposition),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert any("it does not answer: status 3" in text for text in json.loads(result.stdout)["problems"])


@pytest.mark.parametrize(
    ("arguments", "status"), [("check", 1), ("--help", 1), ("nonsense", 2), ("history --journal /no/such", 1)]
)
@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", "2>/dev/full", ">&- 2>/dev/full"])
def test_a_full_disk_for_errors_too(arguments: str, status: int, redirection: str) -> None:
    """The exit status is one of this program's, not Python's own."""
    command = f'"{COMMAND}" {arguments} {redirection}'
    result = subprocess.run(["sh", "-c", command], check=False, stdout=subprocess.DEVNULL, timeout=60)
    is_written = arguments == "--help" and not redirection.startswith(">/dev/full")
    assert result.returncode == (0 if is_written else status)


def test_no_stdout_at_all() -> None:
    result = subprocess.run(
        ["sh", "-c", f"exec {COMMAND} auth check {URI} >&-"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_ctrl_c_ends_a_watch() -> None:
    child = terminal("status", "--connect", URI, "--watch", "0.2")
    for _ in range(2):
        child.expect("NAME .*LAST")
        child.expect("test +running")
    child.sendintr()
    output, status = finish(child)
    assert status == 130
    assert "Traceback" not in output


def test_a_watch_that_is_piped_is_one_document_a_line() -> None:
    command = [COMMAND, "status", "--connect", URI, "--watch", "0.1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            validated(process.stdout.readline(), "status")
        process.terminate()


def test_run_asks_and_takes_no_for_an_answer() -> None:
    for answer in ("n", "", "maybe"):
        child = terminal("run", "--connect", URI, "poweroff", "test")
        child.expect_exact("poweroff test? [y/N] ")
        child.sendline(answer)
        output, status = finish(child)
        assert (status, "nothing was done" in output) == (1, True)


def test_run_asks_and_goes_on_after_yes() -> None:
    child = terminal("run", "--connect", URI, "pause", "test")
    child.expect_exact("pause test? [y/N] ")
    child.sendline("y")
    output, status = finish(child)
    assert status == 0
    assert "done after" in output
    assert "verified paused" in output


def test_ctrl_c_at_the_question_does_nothing() -> None:
    child = terminal("run", "--connect", URI, "poweroff", "test")
    child.expect_exact("[y/N] ")
    child.sendintr()
    output, status = finish(child)
    assert status == 130
    assert "Traceback" not in output
    assert "done after" not in output


def test_run_does_not_guess_without_a_terminal() -> None:
    result = run("run", "--connect", URI, "poweroff", "test")
    assert result.returncode == 2
    assert "no terminal to ask at (use --yes)" in result.stderr
    assert run("run", "--connect", URI, "--yes", "poweroff", "test").returncode == 0
    # What harms no virtual machine is not asked for.
    assert run("run", "--connect", URI, "ignore", "test").returncode == 0


@pytest.mark.parametrize("name", ["test", UUID, UUID.upper(), "1"])
def test_a_domain_by_name_uuid_and_id(name: str) -> None:
    result = run("run", "--connect", URI, "--dry-run", "--json", "pause", name)
    document = validated(result.stdout, "run")
    assert document["domain"] == {"name": "test", "uuid": UUID, "state": "running"}
    assert document["call"][1:] == [URI, UUID, "pause"]


@pytest.mark.parametrize("name", ["n\udcffx", "no such", "", "99", "9" * 30, UUID[:-1] + "0", "a\nb\x1b[2J"])
@pytest.mark.parametrize("verb", [["run", "--yes", "pause"], ["status"], ["policy"]])
def test_a_domain_that_is_not_there(verb: list[str], name: str) -> None:
    result = run(*verb, "--connect", URI, name)
    assert result.returncode == 1
    assert "there is no such domain (see virsh list --all)" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


# The command line, its exit status, and words of the one line about what is wrong.
WRONG: list[tuple[list[str], int, str]] = [
    ([], 2, "the following arguments are required: VERB (see virt-sanlock-helper --help)"),
    (["nosuch"], 2, "invalid choice: 'nosuch' (choose from "),
    (["status", "\x1b[2J", "--\x1b[2J"], 2, "unrecognized arguments: --\\x1b[2J"),
    (["run"], 2, "virt-sanlock-helper run: the following arguments are required: ACTION, DOMAIN"),
    (["run", "shoot", "test"], 2, "argument ACTION: invalid choice: 'shoot' (choose from "),
    (["run", "pause", "test", "-c", ""], 2, "'' is no URI; one is for example qemu:///system"),
    (["run", "pause", "test", "-c", "test:///\x1b"], 2, r"'test:///\x1b' is no URI"),
    (["run", "pause", "test", "-c", "nonsense"], 1, "connect to nonsense: no connection driver available"),
    (["run", "pause", "test", "-c", URI], 2, "pause test: there is no terminal to ask at (use --yes)"),
    (["status", "-c", ""], 2, "'' is no URI"),
    (["status", "--watch", "often"], 2, "'often' is not 0.1 to 86400 seconds"),
    (["status", "--watch", "nan"], 2, "'nan' is not 0.1 to 86400 seconds"),
    (["history", "--since", "soon\x1b"], 2, r"--since: 'soon\x1b' is no time (for example 2h"),
    (["history", "--since", "9" * 30 + "d"], 2, "is no time"),
    (["history", "--since", "0001-01-01"], 2, "'0001-01-01' is no time"),
    (["history", "--journal", ""], 1, "read '': No such file or directory (--journal takes what journalctl"),
    (["history", "--journal", "/"], 1, "read /: Is a directory (--journal takes what journalctl -o json"),
    (["history", "--journal", "/no\x1b"], 1, r"read /no\x1b: No such file"),
    (["auth"], 2, "the following arguments are required: check|test"),
    (["auth", "check", ""], 2, "'' is no URI"),
    (["auth", "test", "nonsense"], 1, "a URI is for example qemu:///system"),
    (["policy", "test", "--recover", "--no-recover"], 2, "not allowed with argument --recover"),
    (["recover", "--wait", "--list"], 2, "not allowed with argument --wait"),
    (["recover", "--json"], 2, "--json: it belongs to --list"),
    (["recover", "--yes", "--wait"], 2, "--yes: it belongs to --resume-anyway"),
    (["recover", "--forget", ""], 1, "domain '': there is no record of it"),
    (["policy", "-c", "", "test"], 2, "is no URI"),
    (["policy"], 2, "policy: no domain is named (name domains, or give --all)"),
    (["policy", "test", "--all"], 2, "policy --all: it is for all domains, and some are named"),
    *(
        (["policy", "-c", URI, "test", "--priority", text], 2, "is no whole number from -1000000 to 1000000")
        for text in ("1e9", "high", "²", "", "1000001", "-1000001", "9" * 5000, "1\x1b", "0x1", "+1", "nan")
    ),
    *(
        (["policy", "-c", URI, "test", "--delay", text], 2, "is no whole number from 0 to 3600")
        for text in ("NaN", "-1", "3601", "inf", "1.5", "", "9" * 5000)
    ),
    (
        ["policy", "-c", URI, "test", "nosuch", "--recover"],
        1,
        "domain 'nosuch': there is no such domain; no domain's policy was changed (see virsh list --all)",
    ),
    (
        ["policy", "-c", URI, "a\x1b", "b", "b"],
        1,
        "domain 'a\\x1b', domain 'b', domain 'b': there is no such",
    ),
    (["recover", "--hold", "--release"], 2, "not allowed with argument --hold"),
    (["recover", "--hold", "--json"], 2, "--json: it belongs to --list and --dry-run"),
    (["recover", "--dry-run", "--wait"], 2, "not allowed with argument"),
    (["recover", "--dry-run", "--yes"], 2, "--yes: it belongs to --resume-anyway"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), WRONG, ids=lambda value: ascii(value)[:60])
def test_what_is_wrong_is_reported_in_one_line(arguments: list[str], status: int, words: str) -> None:
    result = run(*arguments)
    # What was printed before the question is no error.
    assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
    assert result.stderr.startswith("virt-sanlock-helper")
    assert words in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_a_journal_without_an_end_takes_no_memory() -> None:
    command = [COMMAND, "history", "--journal", "/dev/zero"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        # Enough for any journal's longest line, and far from what one endless line would take.
        resource.prlimit(process.pid, resource.RLIMIT_AS, (1 << 30, 1 << 30))
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert (process.wait(5), process.stderr.read()) == (130, "")
        finally:
            process.kill()


def test_no_stdin_at_all() -> None:
    result = subprocess.run(
        ["sh", "-c", f"exec {COMMAND} run pause test -c {URI} <&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, "no terminal to ask at" in result.stderr) == (2, True)
    assert "Traceback" not in result.stderr


def test_end_of_file_is_a_no() -> None:
    child = terminal("run", "pause", "test", "-c", URI)
    child.expect_exact("? [y/N] ")
    child.sendeof()
    output, status = finish(child)
    assert (status, "nothing was done" in output, "Traceback" in output) == (1, True, False)


def test_ctrl_c_while_python_is_loading(tmp_path: Path) -> None:
    """The executable itself, with a program behind it that takes its time to load."""
    package = tmp_path / "sanlock_helper" / "cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "main.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(30)\n")
    command = shutil.copy(COMMAND, tmp_path)
    with subprocess.Popen([command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT


LATIN = """<node><domain type='test'><name>\u65e5\u672c-\xe9</name><memory>8192</memory>
<os><type>hvm</type></os></domain></node>"""


def test_a_locale_that_lacks_the_characters_of_a_name(tmp_path: Path) -> None:
    """A pipe in ISO 8859-1, which Python would refuse to write Japanese to."""
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("localedef cannot make a locale (package locales)")
    (tmp_path / "node.xml").write_text(LATIN, encoding="utf-8")
    for words in (["status"], ["run", "--dry-run", "pause", "1"]):
        result = subprocess.run(
            [COMMAND, *words, "-c", f"test://{tmp_path}/node.xml"],
            env={**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert b"\\u65e5\\u672c-\xe9" in result.stdout
        assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "no_such_LOCALE"])
def test_a_name_that_is_not_utf8_in_any_locale(locale: str) -> None:
    for words in (["status"], ["run", "--dry-run", "pause"], ["policy"]):
        result = subprocess.run(
            [COMMAND, *words, "-c", URI, b"n\xff"],
            env={**os.environ, "LC_ALL": locale},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 1
        assert b"domain 'n\\udcff': there is no such domain" in result.stderr


def test_history_shows_the_outage(exported: str) -> None:
    text = run("history", "--journal", exported).stdout
    assert ": 2 domains" in text
    assert "test: pause done after 1.07 s: found running, suspended, verified paused" in text
    assert "no lease held (failed before: 1)\n" in text
    assert "n\\xff: poweroff FAILED" in text
    assert "test: recover done after 3.00 s: resumed" in text
    document = validated(run("history", "--journal", exported, "--json").stdout, "history")
    (outage,) = document["outages"]
    assert len(outage["lost"]) == 1
    first, second = outage["domains"]
    assert (first["outcome"], first["seconds"], first["failed_tries"]) == ("done", 1.07, 1)
    assert [event["text"] for event in first["came_back"]] == ["done after 3.00 s: resumed"]
    assert (second["name"], second["outcome"]) == ("n\\xff", "failed")


def test_history_of_one_domain_and_of_a_time(exported: str) -> None:
    for name in ("test", UUID):
        document = validated(
            run("history", "--journal", exported, "--json", "--domain", name).stdout, "history"
        )
        assert [domain["name"] for outage in document["outages"] for domain in outage["domains"]] == ["test"]
    by_id = run("history", "--journal", exported, "--domain", "1", "--connect", URI).stdout
    assert "test: pause" in by_id
    assert "poweroff" not in by_id
    assert run("history", "--journal", exported, "--since", "5s").stdout.startswith("no outage since ")
    wrong = run("history", "--since", "soon")
    assert (wrong.returncode, "'soon' is no time" in wrong.stderr) == (2, True)
    missing = run("history", "--journal", "/missing")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


def test_status_shows_what_happened_last(exported: str) -> None:
    document = validated(run("status", "--connect", URI, "--journal", exported, "--json").stdout, "status")
    assert document["domains"][0]["last"]["action"] == "recover"


AUTH = "<node><auth><user password='hush'>me</user></auth></node>"


def test_auth_goes_step_by_step_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "node.xml").write_text(AUTH)
    uri = f"test://{tmp_path}/node.xml"
    conf = tmp_path / "auth.conf"

    def both() -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        return tuple(  # type: ignore[return-value]
            run("auth", kind, uri, LIBVIRT_AUTH_FILE=str(conf)) for kind in ("check", "test")
        )

    conf.write_text("[auth-test-localhost]\ncredentials=a\n[credentials-a]\nusername=me\npassword=hush\n")
    explained, tried = both()
    assert (explained.returncode, tried.returncode) == (0, 0)
    assert f"used    LIBVIRT_AUTH_FILE {conf}" in explained.stdout
    assert "group [auth-test-localhost]: it is there" in explained.stdout
    assert "present: username, password" in explained.stdout
    assert "connected to" in tried.stdout

    conf.write_text("[auth-test-default]\ncredentials=b\n[credentials-a]\nusername=me\npassword=hush\n")
    explained, tried = both()
    assert (explained.returncode, tried.returncode) == (1, 1)
    assert "skipped group [auth-test-localhost]: it is not there" in explained.stdout
    assert "refers to [credentials-b], which is not there" in explained.stdout
    assert "[credentials-b]" in tried.stderr

    conf.unlink()
    explained, tried = both()
    assert (explained.returncode, tried.returncode) == (1, 1)
    assert "hush" not in "".join(result.stdout + result.stderr for result in (*both(), explained, tried))


def test_check_is_quiet_and_strict(tmp_path: Path) -> None:
    everything = validated(run("check", "--connect", URI, "--json").stdout, "check")["checks"]
    quiet = validated(run("check", "--connect", URI, "--json", "--quiet").stdout, "check")["checks"]
    assert {check["verdict"] for check in quiet} <= {"warn", "fail"}
    assert len(quiet) < len(everything) >= 25
    # All that could not be read here is reported so; nothing crashed.
    assert not any("internal error" in check["found"] for check in everything)
    assert all(check["remedy"] or "not checked" in check["found"] for check in quiet)
    text = run("check", "--connect", URI, "--quiet").stdout
    shown = re.findall(r"^(\S.*?) +(warn|fail)  ", text, re.MULTILINE)
    assert {name for name, _ in shown} <= {check["name"] for check in quiet}
    assert not re.search(r"^\S.* pass  ", text, re.MULTILINE)
    assert all(check["name"] in text for check in quiet)
