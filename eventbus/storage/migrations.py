"""The numbered files that an adapter makes its schema by."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `migrations/`."""

    number: int
    name: str
    kind: str  # expand | contract
    text: str
    workers: int = 0  # contract: the oldest schema whose workers do without what it takes away

    @property
    def digest(self) -> str:
        """Of the text: a file that was applied is never edited."""
        return sha256(self.text.encode()).hexdigest()

    def sql(self, schema: str) -> str:
        """The statements for one schema."""
        return self.text.replace("{schema}", schema)


@cache
def migrations_of(package: str) -> tuple[Migration, ...]:
    """All files of this version, in order."""
    folder = files(package).joinpath("migrations")
    found = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name
    )
    return tuple(_read(file.name, file.read_text(encoding="utf-8")) for file in found)


def _read(name: str, text: str) -> Migration:
    number, _, title = name.removesuffix(".sql").partition("_")
    first = text.partition("\n")[0].removeprefix("-- kind:")
    kind, _, workers = first.partition(", workers:")  # "contract, workers: 12"
    return Migration(
        number=int(number),
        name=title,
        kind=kind.strip(),
        text=text,
        workers=int(workers or 0),
    )
