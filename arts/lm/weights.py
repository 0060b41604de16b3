"""The files of a model's weights, and a name for what is in them. Loads none of them, and needs no torch."""

import hashlib
from pathlib import Path

_FULL_HASH_LIMIT = 1 << 30  # bytes; larger weight files are hashed by size and evenly spaced samples
_SAMPLE_BYTES, _NUM_SAMPLES = 1 << 20, 64


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def weights_fingerprint(folder: str | Path) -> str:
    """Hash of a folder's weights. Files over 1 GiB count by their size and 64 evenly spaced samples of 1 MiB."""
    digest = hashlib.sha256()
    for path in weight_files(Path(folder)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _FULL_HASH_LIMIT:
                while chunk := file.read(_SAMPLE_BYTES):
                    digest.update(chunk)
            else:
                for index in range(_NUM_SAMPLES):
                    file.seek((size - _SAMPLE_BYTES) * index // (_NUM_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
