"""Files of torch.save: the pickle changed as a program, storages of other sizes and names, a zip that lies."""

from __future__ import annotations

import io
import zipfile
from random import Random

from .mutate_bytes import NUMBERS, damaged
from .mutate_pickle import mutated_pickle
from .mutate_zip import lying

__all__ = ["mutated_torch"]

NAMES = ("x/data.pkl", "data.pkl", "x/data/0", "x/byteorder", "x/code/a.py", "constants.pkl", "x/data/../0", "/x")
FOREIGN = (
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch._utils\n_rebuild_qtensor\n",
    b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    b"ctorch._utils\n_rebuild_parameter_with_state\n",
    b"ctorch._utils\n_rebuild_tensor\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nTensor\n",
    b"ctorch\nBFloat16Storage\n",
    b"ctorch\nComplexFloatStorage\n",
    b"ctorch\nBoolStorage\n",
    b"ctorch\nfloat32\n",
    b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR",
    b"ccollections\nOrderedDict\n)R",
    b"ccollections\nCounter\n}\x85R",
)
WORDS = (
    (b".weight", b".wei\xff\xfet"),
    (b"0.weight", b"9.weight"),
    (b"X\1\0\0\0" + b"0", b"X\1\0\0\0" + b"1"),
    (b"Float", b"Short"),
    (b"cpu", b"xyz"),
    (b"storage", b"Storage"),
)


def mutated_torch(rng: Random, data: bytes) -> bytes:
    """One to three changes of the members, or of the pickles of the older format."""
    if data[:2] != b"PK":
        return _stream(rng, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:
        return damaged(rng, data)
    for _ in range(rng.randint(1, 3)):
        members = _changed(rng, members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.03 else zipfile.ZIP_STORED) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body, archive.compression)
    whole = lying(rng, file.getvalue()) if rng.random() < 0.2 else file.getvalue()
    return damaged(rng, whole) if rng.random() < 0.1 else whole


def _changed(rng: Random, members: dict[str, bytes]) -> dict[str, bytes]:
    members = members or {"x": b""}
    names = list(members)
    kind, name = rng.randint(0, 9), rng.choice(names)
    pickled = next((n for n in names if n.endswith("data.pkl")), name)
    if kind <= 5:
        members[pickled] = _program(rng, members[pickled])
    elif kind == 6:
        body = members[name]
        members[name] = rng.choice((b"", body[:-1], body * 2, body + b"\0" * 8, b"\x00\x00\xc0\x7f" * 9, b"\xff" * 24))
    elif kind == 7:
        members[rng.choice((*NAMES, name + "0"))] = members.pop(name)
    elif kind == 8:
        del members[name]
    else:
        members[rng.choice(NAMES)] = rng.choice((b"", b"big", members[pickled], b"\0" * 50_000))
    return members


def _program(rng: Random, pickled: bytes) -> bytes:
    """A change of any pickle, or one that only those of torch have: numbers of a view, foreign globals, keys."""
    kind = rng.randint(0, 5)
    if kind <= 1:
        return mutated_pickle(rng, pickled)
    if kind == 2:
        spots = [k for k in range(len(pickled)) if pickled[k : k + 1] == b"K"]
        at = rng.choice(spots) if spots else 0
        value = rng.choice((*NUMBERS, 4, 5, 6)) % 2**64
        as_byte, as_int = b"K" + bytes([value % 256]), b"J" + (value % 2**32).to_bytes(4, "little")
        as_long = b"\x8a\x08" + value.to_bytes(8, "little")
        number = rng.choice((as_byte, as_int, as_long, b"\x8a\x06" + b"\0\0\0\0\0\1", b"G" + b"@" * 8, b"\x88", b"N"))
        return pickled[:at] + number + pickled[at + 2 :]
    if kind == 3:
        lines = pickled.split(b"\n")
        spots = [k for k, line in enumerate(lines[:-1]) if b"ctorch" in line or b"ccollections" in line]
        if not spots:
            return mutated_pickle(rng, pickled)
        at = pickled.find(b"c", max(0, len(b"\n".join(lines[: rng.choice(spots)]))))
        end = pickled.find(b"\n", pickled.find(b"\n", at) + 1) + 1
        return pickled[:at] + rng.choice(FOREIGN) + pickled[end:] if 0 <= at < end else damaged(rng, pickled)
    if kind == 4:
        for old, new in WORDS:
            if rng.random() < 0.3:
                pickled = pickled.replace(old, new, rng.choice((1, -1)))
        return pickled
    at = rng.randint(0, max(0, len(pickled) - 1))
    return pickled[:at] + rng.choice(FOREIGN) + pickled[at:]


def _stream(rng: Random, data: bytes) -> bytes:
    """The fourth pickle is the content; before it stand magic, version and system."""
    ends = [k + 1 for k in range(len(data)) if data[k : k + 1] == b"." and data[k + 1 : k + 2] in (b"\x80", b"")]
    ends += [k + 1 for k in range(len(data) - 1) if data[k : k + 2] == b"e."]
    ends = sorted({end for end in ends if end < len(data)})
    if len(ends) < 3 or rng.random() < 0.3:
        return damaged(rng, data)
    k = rng.randint(0, len(ends) - 1)
    start = ends[k - 1] if k else 0
    return data[:start] + _program(rng, data[start : ends[k]]) + data[ends[k] :]
