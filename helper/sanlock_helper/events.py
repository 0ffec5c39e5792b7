# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this program logs: each kind of event, its line, and the line taken apart again.

KINDS is the one table of both directions, so a reworded line is read as it is written.  docs/events.md and
packaging/virt-sanlock-helper.catalog explain each kind by its id.

The agent loads this module before the first virtual machine is safe: it imports nothing but escapes.py.
"""

from __future__ import annotations

from .escapes import quoted, unquoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The action of the lines that recovery writes; those of the killpath are in invocation.ACTIONS.
RECOVER = "recover"

# Parts that are numbers.  A line in which such a part is none is of no kind.
_NUMBERS = ("count", "deaths", "every", "left", "requests", "seconds", "tries")
# int() and float() take no text of any length.
_DIGITS = 9
_ACTION_LENGTH = 32

# Behind a line that an agent wrote in the place of one that died.
_REPEATED = " (repeated: the process that logged this first was killed while doing so)"

# Between the number of a domain's process and the leases that it has not given up: history finds the domain
# of a process that sanlock killed by this.
STILL_HOLDS = " still holds "


class Kind:
    """A kind of event.

    `message_id` is journald's MESSAGE_ID, the same in each version.  `level` is one of journal.LEVELS.
    `outcome` is what `history` makes of it: done, not done, failed, try, ignored or note.  `forms` are its
    texts: {part} stands for a part of the event, and what is in [brackets] is left out where its part is not
    known.
    """

    __slots__ = ("forms", "level", "message_id", "outcome")

    def __init__(self, message_id: str, level: str, outcome: str, *forms: str) -> None:
        self.message_id = message_id
        self.level = level
        self.outcome = outcome
        self.forms = forms


_AFTER = "[ after {seconds} s][ at try {tries}]: "
_RESULT = "found {found}, {did}, verified {verified}[; {note}]"
_SHARED = "[ ({requests} requests)]"
_NOT_RENEWED = (
    "no renewal for {seconds} s, its VMs are safe; without one it is lost at {lost}, in {left} s: {fates}; "
    "then {next}; find out why its storage does not answer: journalctl -u sanlock"
)
_BY_STOCK = (
    "after {seconds} s by libvirt's own helper, which reports success; this program did not verify it, since "
    "its own processes died over this request"
)


def _verdict(message_id: str, level: str, outcome: str, word: str) -> Kind:
    forms = (f"{word}{_AFTER}{_RESULT}{_SHARED}", f"{word}{_AFTER}{{note}}{_SHARED}")
    return Kind(message_id, level, outcome, *forms)


# Of a domain, by the killpath: "ACTION NAME UUID: TEXT".
ACTION_KINDS = {
    "done": _verdict("3b8a803a1db5463f8172789157e1c6c1", "notice", "done", "done"),
    "not-done": _verdict("27a3b255ce20407ab67cc32c4005ed0e", "error", "not done", "NOT DONE"),
    "failed": _verdict("72fce314752e45abb58424126e351fce", "crit", "failed", "FAILED"),
    "stock-helper-done": Kind("3a36de5bcc424169aba599f8e8b3d369", "notice", "done", f"done {_BY_STOCK}"),
    "stock-helper-powered-off": Kind(
        "bc6c98075980497da0bb9f0c2dc6eee7", "warning", "not done", f"powered off {_BY_STOCK}"
    ),
    "attempt-failed": Kind(
        "1759452757f44497abadac8b9527ceb8",
        "warning",
        "try",
        "try {tries} failed: {note}; trying again, {left} s left",
        # As earlier versions may have written it.
        "try {tries} failed: {note}",
    ),
    "ignored": Kind(
        "59db36c2bdd847f1829d9f7b54ac41bc", "warning", "ignored", "nothing is done, as asked; {note}"
    ),
    "served-together": Kind(
        "c5a31e9df97d42cca00a7abe646d2f5b", "notice", "note", "served together with an earlier request"
    ),
    "outcome-not-noted": Kind(
        "357809a41c6a4cd389ecda84ed6eface",
        "error",
        "note",
        "an agent served it and died before it noted how that ended; whether the VM is safe: see virsh "
        "domstate {domain}",
    ),
    "interrupted": Kind(
        "f74935b1f1044559b7d5118ce8e5404d",
        "warning",
        "note",
        "interrupted, the outcome is not known; whether the VM is safe: see virsh domstate {domain}",
    ),
    "served-alone": Kind(
        "fe3cee6401db47358adb56e03b75ef25",
        "warning",
        "note",
        "the spool cannot be used, serving this request alone: {note}",
    ),
    "served-last": Kind(
        "93c87484b68040028c130cb4710a106d",
        "warning",
        "note",
        "{deaths} agents died while they served this request: it is served last, by a process of its own",
    ),
    "served-here": Kind(
        "ccc4cadf283d4d6898d5fd129480e333",
        "warning",
        "note",
        "no process of its own can be started: the agent serves it, after all others",
    ),
    "stock-helper-runs": Kind(
        "45744aafd5f145c99ebaa32a55c581ad",
        "warning",
        "note",
        "the process that served it alone died ({note}): {path} takes over",
    ),
    "defect-before-attempt": Kind(
        "11f02f81c32d4743bbd839f11fdf2891",
        "error",
        "note",
        "internal error before the first try: {note}; the VM is made safe all the same",
    ),
    "defect-after-service": Kind(
        "f28446fd1ca24d6890ee8416c8a0a7dd",
        "crit",
        "note",
        "internal error after it was served: {note}; please report it",
    ),
    "record-not-written": Kind(
        "562548c6cd4f45538af1d24692d53f10",
        "warning",
        "note",
        "no recovery record: {note}; the VM is made safe all the same, but recovery will not bring it back"
        "[ until there is one: tried again every {every} s]",
    ),
    "record-not-removed": Kind(
        "029bb8016c534332ba461b0c28e6f290",
        "warning",
        "note",
        "its recovery record cannot be removed: {note}; the VM runs, and recovery removes the record",
    ),
    # Last: it begins with its reason.
    "login-refused": Kind(
        "db0181dbe34f43af8ab9dccc4a68b98e",
        "warning",
        "note",
        "{note}; trying again every {every} s, with one login for all VMs of {uri}",
    ),
}

# Of no domain, by the killpath: the text alone.
HOST_KINDS = {
    "usage-error": Kind("a2eee3ed57c347c796405253743a91ce", "crit", "note", "usage error: {note}"),
    "spool-unchangeable": Kind(
        "03e66b147694442395ef1f0b509235a2",
        "warning",
        "note",
        "the spool {path} cannot be changed: {note}; requests that were served stay there and may be served "
        "again: see lsattr -d {path} and findmnt -T {path}",
    ),
    "agent-replaced": Kind(
        "5b4c11116e6f4752a3ad87b28626a519",
        "warning",
        "note",
        "the agent ({note}) showed no sign of life and was killed: this process serves its requests",
    ),
    "agent-beside": Kind(
        "2d4122a61d1d405a802b9c53c338cc5e",
        "warning",
        "note",
        "the agent ({note}) shows no sign of life and cannot be killed: this process serves beside it",
    ),
    "agent-withdrawn": Kind(
        "285690cfb24742cf985ac7bbaacdf588",
        "warning",
        "note",
        "this process showed no sign of life for long, and another agent serves in its place: it leaves its "
        "{count} open requests to that agent",
    ),
    "no-threads": Kind(
        "eba2cc6f1cdf4392b93600993517a1d1",
        "warning",
        "note",
        "no thread can be started ({note}): this process serves its requests one after the other",
    ),
    "odd-file": Kind(
        "04257d697582417bb6ba8af84e7c4bbd",
        "warning",
        "note",
        "the file {path} in {folder} is not a request: {note}",
    ),
    "odd-files": Kind(
        "c7836485ff92453bbc5b3528ccf4fbd1",
        "warning",
        "note",
        "{count} more files that are not requests {note}",
    ),
    "request-unread": Kind(
        "51e67a14452445159afa2f79a043d0f9",
        "warning",
        "note",
        "the request {path} cannot be read now: {note}; trying again",
    ),
    "request-lost": Kind(
        "eb7663da0ade44a5b11ff112dd318a63",
        "crit",
        "note",
        "the request {path} could not be read: {note}; FAILED: its VM was not made safe, and sanlock sends "
        "it SIGKILL",
    ),
    "agent-stands": Kind(
        "af34b4c12f974d4d90a3c495a842c762",
        "notice",
        "note",
        "this process stands ready as the agent[ ({note})]",
    ),
    "agent-not-connected": Kind(
        "865f8b0e9aca497fb9ca652eb939ad1b",
        "warning",
        "note",
        "the agent that stands has no connection: {note}; trying again every {every} s, and with each "
        "request",
    ),
    "agent-without-spool": Kind(
        "7e4f2010110c43a385e23b686a938867",
        "warning",
        "note",
        "the spool was removed: the agent that stood there ends, and the next process makes a new one",
    ),
    "io-errors-not-noted": Kind(
        "130aeb917e5e428799e2c43f974c1843",
        "warning",
        "note",
        "guests that stop by an I/O error leave no record: {note}[; trying again every {every} s]",
    ),
    "memory-not-locked": Kind(
        "b8b8c376629c45c9aa156419e54f3215",
        "warning",
        "note",
        "the agent that stands cannot keep all in memory: {note}; it stands all the same",
    ),
    # Of the lockspaces, by the agent that stands: "; next: " is where the names of machines end.
    "renewals-failing": Kind(
        "be23464b92634d4e82d5a20c02bf9366",
        "warning",
        "note",
        f"lockspace {{lockspace}}: {_NOT_RENEWED}",
        "lockspace {lockspace}: no renewal for {seconds} s; sanlock does not give it up (no_timeout), and "
        "its VMs go on: {names}",
    ),
    "loss-near": Kind(
        "0d434500ab0a491dae2549b1d3482272",
        "warning",
        "note",
        f"about to lose lockspace {{lockspace}}: {_NOT_RENEWED}",
    ),
    "renewals-back": Kind(
        "f892a3b32e044595baddedb4e22875c7",
        "notice",
        "note",
        "lockspace {lockspace}: renewed again, after {seconds} s without a renewal; nothing is lost",
    ),
    "failing-lockspace-left": Kind(
        "907f091f509d4be38e11a1116a97d0a1",
        "notice",
        "note",
        "sanlock has left lockspace {lockspace}, {seconds} s after its last renewal: nothing of it can be "
        "lost",
    ),
    "update-failed": Kind(
        "f52aa43a64bf4483b8e76227d2d5a4ec",
        "error",
        "note",
        "after an update: {note}; see virt-sanlock-helper install-check",
    ),
    # What sanlock logs of that lockspace until the drill's end is no outage: see history/drill_entries.py.
    "drill-began": Kind(
        "d7725d951c1f44dfa2db9ad85acd0d95",
        "notice",
        "note",
        "drill: lockspace {lockspace} is lost on purpose, s{space} in sanlock's log",
        "drill: lockspace {lockspace} is lost on purpose",
    ),
    "drill-passed": Kind("3e80277a491344749173c359eb94d008", "notice", "note", "drill passed: {note}"),
    "drill-failed": Kind("40c51b15106947a7a9e74c011234b8b8", "error", "note", "drill FAILED: {note}"),
    # After update-failed, which begins in the same way.
    "updated": Kind("896bec4f903b47b8be37ff6183a6d224", "notice", "note", "after an update: {note}"),
}

# Of a domain, by recovery: "recover NAME UUID: TEXT".
RECOVERY_KINDS = {
    "recovered": _verdict("a7a03f8789404ac2bb85b4c45528e69c", "notice", "done", "done"),
    "recovery-refused": _verdict("508a0da3d8564d3fa248594a9b61b503", "error", "not done", "NOT DONE"),
    "resumed-anyway": Kind(
        "bf35ae3269714c81b2c3e0bbd31c9f0b",
        "notice",
        "done",
        f"done, as the administrator asked: {_RESULT}",
        "done, as the administrator asked: {note}",
    ),
    "recovery-forgotten": Kind(
        "cc37bf2857c049248140b0ebd3190c4e", "notice", "note", "forgotten, as asked: it is left as it is"
    ),
    "recovery-dropped": Kind("113c158b554e44d39352ef1a16e3e14b", "warning", "note", "dropped: {note}"),
    "recovery-hangs": Kind(
        "3688a191158b4a19b58ef349071640b9",
        "warning",
        "note",
        "no answer from libvirtd or sanlock for {seconds} s; it is still waited for, the others are brought "
        "back",
    ),
    "refusal-not-noted": Kind(
        "94c1b3d2ca494d64b661d18619687586",
        "warning",
        "note",
        "this refusal cannot be written to its record: {note}; the VM stays as it is",
    ),
    "pause-not-noted": Kind(
        "bb062057de8d4876b65d181024c406cb",
        "warning",
        "note",
        "no record can be written: {note}; the VM stays paused",
    ),
    "record-unusable": Kind(
        "a49afd8f492d49cdb8ab00a715347759", "error", "note", "{path} is not used: {note}"
    ),
    "record-stuck": Kind(
        "aeae0ea00e574f8e8d8cc3fb2eb289da", "warning", "note", "{path} cannot be {what}: {note}"
    ),
    # Of guests that stopped by themselves, by the agent that stands.
    "io-error-noted": Kind(
        "9d46b689dcc44ca7b5f1fe2d2856ea78",
        "warning",
        "note",
        "stopped by an I/O error[ of {disk}][, {tries} times in a row]: it is paused and has no lease; "
        "recovery resumes it once its lockspaces are renewed and its disks can be read",
    ),
    "io-error-left-alone": Kind(
        "405eed77198943369e47866702a64995",
        "notice",
        "note",
        "stopped by an I/O error[ of {disk}]: neither its policy nor the host's default asks for recovery: "
        "it stays paused, without a lease; once its storage is back, if it ran nowhere else: virsh resume "
        "{domain}",
    ),
    "io-error-no-space": Kind(
        "7df95e0afa96492f8d1b8d218eda65cd",
        "warning",
        "note",
        "stopped by an I/O error[ of {disk}] for want of space (ENOSPC), which is no outage: it stays "
        "paused, without a lease; once there is space, if it ran nowhere else: virsh resume {domain}",
    ),
    "io-error-unseen": Kind(
        "5ec4be39db4a4321a20cb50b4beedfc7",
        "warning",
        "note",
        "it had stopped by an I/O error before this agent began, which knows no versions of its leases: it "
        "stays paused; after a check that it ran nowhere else: virt-sanlock-helper recover --resume-anyway "
        "{domain}",
    ),
    "io-error-unnoted": Kind(
        "0f0d001111a04cf781cbdd5717653cae",
        "warning",
        "note",
        "stopped by an I/O error[ of {disk}], and libvirt could not note the versions of its leases, as when "
        "/run is full: it stays paused; after a check that it ran nowhere else: virt-sanlock-helper recover "
        "--resume-anyway {domain}",
    ),
    # Last: it begins with its reason.
    "recovery-attempt-failed": Kind(
        "f569a9a26f4e4d6abdb58a9056fbf98f", "warning", "note", "{note}; trying again"
    ),
}

# Of no domain, by recovery: "recover: TEXT".
RECOVERY_HOST_KINDS = {
    "lockspace-awaited": Kind(
        "89faca827424471f9abac9f3e36ac8c6",
        "warning",
        "note",
        "waiting for lockspace {lockspace} for {seconds} s: {note}; trying again, off or paused until then: "
        "{names}",
        "waiting for lockspace {lockspace} for {seconds} s: {note}; trying again",
    ),
    "lockspace-joined": Kind(
        "fe769815d89548c39693bb80b5a28384",
        "notice",
        "note",
        "lockspace {lockspace} joined again at try {tries}, waited for {seconds} s",
        "lockspace {lockspace} is joined, waited for {seconds} s",
    ),
    "left-alone": Kind(
        "6bc8bab87a434c00835b4e7e06bd9a70",
        "notice",
        "note",
        "{count} domains left as they are ({note}): {names}",
        "1 domain left as it is ({note}): {names}",
    ),
    "records-unread": Kind(
        "5f1c179464234d82906d372da1bd3ec5", "warning", "note", "the records in {path} cannot be read: {note}"
    ),
    "records-not-copied": Kind(
        "9e09d726ea7a48d7adc4797550817d66",
        "warning",
        "note",
        "records are not copied to {path} yet: {note}; they stay in /run, which a reset empties",
    ),
    "settings-not-used": Kind(
        "0b501952d78c43bab6ab4fb8ef309e65",
        "warning",
        "note",
        "settings that do not count: {note}; going on with {settings}",
    ),
    "recovery-held": Kind(
        "274a6c9c8d9c41d78d55591c0d675be6",
        "notice",
        "note",
        "held by an administrator: nothing is joined, started or resumed until virt-sanlock-helper recover "
        "--release",
    ),
    "recovery-released": Kind(
        "3f15aec19f754b2a966890d98f00666d",
        "notice",
        "note",
        "released by an administrator: it goes on where it runs, else by virt-sanlock-helper recover",
    ),
    "recovery-waits": Kind(
        "e3c3f192e0d74bf9bb3156e0dec0323d",
        "warning",
        "note",
        "held since {since}: {count} domains wait for virt-sanlock-helper recover --release: {names}",
        "held since {since}: 1 domain waits for virt-sanlock-helper recover --release: {names}",
    ),
    # Last: it is whatever error ends recovery.
    "recovery-failed": Kind("9f1ff627fa1c40279f7244dc82216164", "error", "note", "{note}"),
}

KINDS = {**ACTION_KINDS, **HOST_KINDS, **RECOVERY_KINDS, **RECOVERY_HOST_KINDS}


class Event:
    """Something that happened: of one domain, or of none where UUID is "".

    `kind` is a key of KINDS, or "" for a line of no known kind, whose text is the part `note`.  `action` is
    poweroff, pause, restart, ignore, or recover; "" where none was asked for.  `name` is the domain's: ""
    where it is not known, None in a line that has no room for it.  `parts` are texts, numbers among them:
    those of the kind's forms, and others that are fields alone.  `repeated`: an agent wrote the line in the
    place of one that died.
    """

    __slots__ = ("action", "kind", "name", "parts", "repeated", "uuid")

    def __init__(
        self,
        kind: str,
        action: str = "",
        uuid: str = "",
        name: str | None = None,
        **parts: object,
    ) -> None:
        """PARTS that are "" or None are left out."""
        self.kind = kind
        self.action = action
        self.uuid = uuid
        self.name = name
        self.parts = {key: str(value) for key, value in parts.items() if value not in (None, "")}
        self.repeated = False

    def __str__(self) -> str:
        return self.render()

    def __repr__(self) -> str:
        return f"Event({self.kind!r}, {self.render()!r})"

    @property
    def level(self) -> str:
        """One of journal.LEVELS."""
        return KINDS[self.kind].level if self.kind else "notice"

    @property
    def outcome(self) -> str:
        """What history makes of it: see Kind."""
        return KINDS[self.kind].outcome if self.kind else "note"

    def text(self) -> str:
        """The line without what it is about.

        A part in which what would end it occurs has that escaped; a line break and the like stay, as the
        journal escapes them.
        """
        if not self.kind:
            return self.parts.get("note", "")
        # A defect of ours must not cost the line.
        return _sentence(KINDS[self.kind].forms, self.parts) or f"{self.kind}: {self.parts}"

    def render(self) -> str:
        """The line for syslog and stderr; parse() takes it apart."""
        return f"{self._head()}{self.text()}{_REPEATED * self.repeated}"

    def _head(self) -> str:
        if not self.uuid:
            return f"{self.action}: " if self.action else ""
        name = "" if self.name is None else f"{quoted(self.name) if self.name else '-'} "
        return f"{self.action} {name}{self.uuid}: "

    def fields(self) -> dict[str, str]:
        """The fields beside the text, named as systemd.journal-fields(7) asks: see logged_events.py."""
        found = {
            "DOMAIN_UUID": self.uuid,
            "DOMAIN_NAME": self.name or "",
            f"{FIELD}ACTION": self.action,
        }
        if self.kind:
            found["MESSAGE_ID"] = KINDS[self.kind].message_id
            found[f"{FIELD}OUTCOME"] = self.outcome
        for part, value in self.parts.items():
            found[f"{FIELD}{part.upper()}"] = value
        return {key: value for key, value in found.items() if value}

    @classmethod
    def parse(cls, line: str) -> Event | None:
        """The event of LINE, as render() has it, of any version; None where that is about nothing known.

        Linear in the length of LINE: each form goes over it once, and finds a text by what follows it.
        """
        repeated = line.endswith(_REPEATED)
        if repeated:
            line = line[: -len(_REPEATED)]
        head, colon, text = line.partition(": ")
        about = parse_head(line)
        if about is not None:
            kinds = RECOVERY_KINDS if about[0] == RECOVER else ACTION_KINDS
        elif colon and head == RECOVER:
            about, kinds = (RECOVER, None, ""), RECOVERY_HOST_KINDS
        else:
            about, kinds, text = ("", None, ""), HOST_KINDS, line
        action, name, uuid = about
        for kind, parts in _parsed(kinds, text):
            event = cls(kind, action, uuid, name, **parts)
            break
        else:
            if not uuid:
                return None
            event = cls("", action, uuid, name, note=text)
        event.repeated = repeated
        return event


# How this program's own fields begin.
FIELD = "VIRT_SANLOCK_HELPER_"


def outcome_text(found: str, did: str, verified: str, note: str = "") -> str:
    """What an action found, did and verified, in words: outcome_parts() takes them apart."""
    parts = {"found": found, "did": did, "verified": verified, **({"note": note} if note else {})}
    return _sentence((_RESULT,), parts)


def outcome_parts(text: str) -> dict[str, str]:
    """The parts found, did, verified and note of a TEXT that has them; else TEXT itself as the note."""
    for sentence in _alternatives(_RESULT):
        parts = _match(sentence, text)
        if parts is not None:
            return parts
    return {"note": text}


# What is before each part, and the part, in their order; and what is behind them all.
Sentence = tuple[list[tuple[str, str]], str]

_sentences: dict[str, list[Sentence]] = {}


def _alternatives(form: str) -> list[Sentence]:
    """FORM with and without each of its [brackets], the longest first."""
    found = _sentences.get(form)
    if found is None:
        before, bracket, rest = form.partition("[")
        if bracket:
            inside, _, behind = rest.partition("]")
            found = [*_alternatives(f"{before}{inside}{behind}"), *_alternatives(f"{before}{behind}")]
        else:
            found = [_split(form)]
        _sentences[form] = found
    return found


def _split(form: str) -> Sentence:
    """FORM, which has no brackets, at its parts."""
    pairs = []
    literal, brace, rest = form.partition("{")
    while brace:
        part, _, rest = rest.partition("}")
        pairs.append((literal, part))
        literal, brace, rest = rest.partition("{")
    return pairs, literal


def _sentence(forms: tuple[str, ...], parts: Mapping[str, str]) -> str:
    """The one of FORMS that has the most of PARTS, filled with them; "" when they serve for none."""
    for names, sentence in _longest_first(forms):
        if names <= parts.keys():
            return _filled(sentence, parts)
    return ""


_ordered: dict[tuple[str, ...], list[tuple[frozenset[str], Sentence]]] = {}


def _longest_first(forms: tuple[str, ...]) -> list[tuple[frozenset[str], Sentence]]:
    """All sentences of FORMS, those with the most parts first, and the names of those parts."""
    found = _ordered.get(forms)
    if found is None:
        sentences = [sentence for form in forms for sentence in _alternatives(form)]
        sentences.sort(key=lambda sentence: len(sentence[0]), reverse=True)
        found = [(frozenset(part for _, part in sentence[0]), sentence) for sentence in sentences]
        _ordered[forms] = found
    return found


def _end(sentence: Sentence, index: int) -> tuple[str, bool]:
    """What ends part INDEX of SENTENCE, and whether its last occurrence does.

    The first one ends a part, and the last one the part before the last, where an end of the sentence follows
    that: a number behind a text that may hold anything.
    """
    pairs, tail = sentence
    if index + 1 == len(pairs):
        return "", False
    return pairs[index + 1][0], bool(tail) and index + 2 == len(pairs)


def _filled(sentence: Sentence, parts: Mapping[str, str]) -> str:
    text = ""
    for index, (literal, part) in enumerate(sentence[0]):
        end, from_right = _end(sentence, index)
        value = parts[part]
        if end and not from_right:
            # Where it occurs in the part itself, it would end it there.
            value = value.replace(end, f"\\x{ord(end[0]):02x}{end[1:]}")
        text += f"{literal}{value}"
    return f"{text}{sentence[1]}"


def _parsed(kinds: Mapping[str, Kind], text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each of KINDS one of whose forms TEXT has, and the parts there."""
    for name, kind in kinds.items():
        for form in kind.forms:
            # Most forms are ruled out by how they begin.
            if text.startswith(form.partition("[")[0].partition("{")[0]):
                for sentence in _alternatives(form):
                    parts = _match(sentence, text)
                    if parts is not None:
                        yield name, parts
                        break


def _match(sentence: Sentence, text: str) -> dict[str, str] | None:
    """The parts of TEXT where it is such a SENTENCE, else None."""
    pairs, tail = sentence
    lead = pairs[0][0] if pairs else ""
    if not (text.startswith(lead) and text.endswith(tail) and len(text) >= len(lead) + len(tail)):
        return None
    rest = text[len(lead) : len(text) - len(tail)]
    if not pairs:
        return None if rest else {}
    parts: dict[str, str] = {}
    for index, (_, part) in enumerate(pairs):
        end, from_right = _end(sentence, index)
        value = rest
        if end:
            value, found, rest = rest.rpartition(end) if from_right else rest.partition(end)
            if not found:
                return None
        if not value or (part in _NUMBERS and as_number(value) is None) or parts.get(part, value) != value:
            return None
        parts[part] = value
    return parts


def as_number(text: str | None) -> float | None:
    """TEXT, as a part that is a number has it; None where it is none."""
    whole, point, fraction = (text or "").partition(".")
    is_number = _is_digits(whole) and (not point or _is_digits(fraction))
    return float(text) if text and is_number else None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def parse_head(line: str) -> tuple[str, str | None, str] | None:
    """The action, the domain's name and its UUID in the head of LINE; None where it has none.

    Only the text behind the head may hold a ": ": see escapes.quoted().
    """
    head, colon, _ = line.partition(": ")
    action, blank, domain = head.partition(" ")
    name, named, uuid = domain.rpartition(" ")
    if not (colon and blank and is_action(action) and is_uuid(uuid)):
        return None
    if not named:
        return action, None, uuid
    return action, "" if name == "-" else unquoted(name), uuid


def is_action(text: str) -> bool:
    """Whether TEXT may be an action's name."""
    letters = text.replace("-", "x")
    is_word = letters.isascii() and letters.isalpha() and letters.islower()
    return is_word and text[0] != "-" and len(text) <= _ACTION_LENGTH


def is_uuid(text: str) -> bool:
    """Whether TEXT is a UUID as libvirt writes it."""
    words = text.split("-") if len(text) == 36 else []
    return [len(word) for word in words] == [8, 4, 4, 4, 12] and not text.strip("0123456789abcdef-")
