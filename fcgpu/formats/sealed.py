"""Safetensors files with a checksum: tensors, and JSON in the metadata with the SHA-256 of everything.

The metadata is one entry, "fcgpu", so that equal contents give equal files. Its "sha256" covers the rest of the
metadata and every tensor: a file with one changed bit does not load. This detects damage; it does not prove who wrote
the file. So the callers also check that the contents are valid.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError
from fcgpu.formats.atomic import regular, write_atomically

DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}  # the dtypes that fcgpu writes


def write(path: str | os.PathLike[str], about: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """Write the file atomically and return its SHA-256 (hex). Raises CheckpointError if it cannot be written."""
    import hashlib

    from safetensors import SafetensorError
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps({**about, "sha256": _digest(about, tensors)}, sort_keys=True)
    try:
        content = to_bytes(tensors, metadata={"fcgpu": text})
    except SafetensorError:
        raise CheckpointError(
            f"{os.fspath(path)}: {len(text):,} bytes of classes and names do not fit into a safetensors file; expected "
            "fewer than 100,000,000: shorten them"
        ) from None
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read(path: str | os.PathLike[str], what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(about, tensors) as they were written; the tensors are read-only views of the file's bytes.

    what : the kind of file, for messages. Raises CheckpointError, with the path, for anything that `write` did not
    write.
    """
    from safetensors import SafetensorError, deserialize

    name = os.fspath(path)
    content = _content(name, what)
    try:
        parts = deserialize(content)  # type: ignore[no-untyped-call]  # checks the header and that its tensors fill the file
        text = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip(b" ").decode()
        header = json.loads(text)
        if text != json.dumps(header, separators=(",", ":"), ensure_ascii=False):
            raise ValueError("the header is not as safetensors writes it")
        metadata = header.get("__metadata__") or {}
        if "fcgpu" not in metadata:
            raise CheckpointError(f"{name}: a safetensors file of another program; expected one of fcgpu train")
        tensors = {
            key: np.frombuffer(part["data"], DTYPES[part["dtype"]]).reshape(part["shape"]) for key, part in parts
        }
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{name}: not a whole safetensors file ({error}); it is truncated, damaged or of another kind: "
            "copy it again or train anew"
        ) from None
    return _checked(name, metadata["fcgpu"], tensors), tensors


def damaged(name: str) -> CheckpointError:
    """The error for a file whose contents are not what was sealed."""
    return CheckpointError(
        f"{name}: the contents do not match their SHA-256; the file was changed or damaged: copy it again"
    )


def _content(name: str, what: str) -> bytes:
    try:
        with open(name, "rb", opener=partial(regular, follow=True)) as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise CheckpointError(f"{name}: no such {what} file; fcgpu train writes one into its run directory") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if os.path.isdir(name):  # noqa: PTH112 - which error that is depends on the system
            raise CheckpointError(f"{name}: a folder; expected a {what} file in it") from None
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{name}: cannot be read ({reason}); expected a {what} file that you may read") from None


def _checked(name: str, text: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    try:
        about = json.loads(text)
        canonical = text == json.dumps(about, sort_keys=True)
        if about.pop("sha256") == _digest(about, tensors) and canonical:
            return dict(about)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise damaged(name)


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    import hashlib

    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key in sorted(tensors):
        sha.update(f"{key} {tensors[key].dtype} {tensors[key].shape}".encode())
        sha.update(np.ascontiguousarray(tensors[key]).data)
    return sha.hexdigest()
