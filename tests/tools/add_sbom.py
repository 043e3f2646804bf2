"""Put a software bill of materials into a wheel, where PEP 770 looks for it: ``python tests/tools/add_sbom.py WHEEL``.

It is CycloneDX in JSON, made from the wheel alone, and comes out the same each time: the package, the SHA-256 of each
of its files, and what users install with it, by the bounds of its metadata. The wheel has no code of anybody else.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import sys
import uuid
import zipfile
from datetime import datetime, timezone
from email.message import Message
from email.parser import Parser
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "celery-realtime.cdx.json"

#: Extras that nobody needs who uses the package.
OF_CONTRIBUTORS = ("attack", "docs", "lint", "package", "test")


def main() -> None:
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        entries = archive.infolist()
    folder = next(name.partition("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    when = datetime(*max(entry.date_time for entry in entries), tzinfo=timezone.utc)
    name = f"{folder}/sboms/{NAME}"
    sbom = bill_of(files, folder, when).encode()
    invalid = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.decode())
    if invalid is not None:
        raise SystemExit(f"the bill of materials is none of CycloneDX: {invalid}")
    files[f"{folder}/RECORD"] = _with_record(files[f"{folder}/RECORD"], name, sbom)
    added = zipfile.ZipInfo(name, when.timetuple()[:6])
    added.external_attr = entries[0].external_attr
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries[:-1]:
            archive.writestr(entry, files[entry.filename], zipfile.ZIP_DEFLATED)
        archive.writestr(added, sbom, zipfile.ZIP_DEFLATED)
        archive.writestr(entries[-1], files[entries[-1].filename], zipfile.ZIP_DEFLATED)  # RECORD comes last
    print(f"{wheel.name}: {name}")


def bill_of(files: dict[str, bytes], folder: str, when: datetime) -> str:
    """Return the bill of materials of a wheel.

    Args:
        files: What is in the wheel.
        folder: Its ``.dist-info``.
        when: The time that the bill says it was made at.
    """
    metadata = Parser().parsestr(files[f"{folder}/METADATA"].decode())
    package = _package(metadata)
    bom = Bom(serial_number=uuid.UUID(bytes=_digest(files)[:16], version=4))
    bom.metadata.component = package
    bom.metadata.timestamp = when
    package.components.update(_file(name, data) for name, data in files.items() if ".dist-info/" not in name)
    dependencies = _dependencies(metadata)
    bom.components.update(dependencies)
    bom.register_dependency(package, dependencies)
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    return text


def _digest(files: dict[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\n{len(data)}\n".encode() + data)
    return digest.digest()


def _package(metadata: Message) -> Component:
    name, version = metadata["Name"], metadata["Version"]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(metadata["License-Expression"])],
        description=metadata["Summary"],
    )


def _file(name: str, data: bytes) -> Component:
    digest = HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())
    return Component(type=ComponentType.FILE, name=name, bom_ref=name, hashes=[digest])


def _dependencies(metadata: Message) -> list[Component]:
    """Return what users install, each package once; with its bounds, and the extras that bring it."""
    found: dict[str, list[str]] = {}
    for line in metadata.get_all("Requires-Dist") or ():
        name = canonicalize_name(Requirement(line).name)
        if extra_of(line) not in OF_CONTRIBUTORS and name != canonicalize_name(metadata["Name"]):
            found.setdefault(name, []).append(line)
    return [
        Component(
            type=ComponentType.LIBRARY,
            name=name,
            bom_ref=name,
            purl=PackageURL("pypi", name=name),
            scope=ComponentScope.OPTIONAL if all(map(extra_of, lines)) else ComponentScope.REQUIRED,
            properties=[Property(name="celery-realtime:requires", value=line) for line in lines],
        )
        for name, lines in found.items()
    ]


def extra_of(requirement: str) -> str:
    """Return the extra that brings a requirement; an empty string for what is always there."""
    return requirement.rpartition("extra == ")[2].strip("\"'") if "extra == " in requirement else ""


def _with_record(record: bytes, name: str, data: bytes) -> bytes:
    """Return a wheel's list of files with one more, before the line of the list itself."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    rows = [row for row in csv.reader(io.StringIO(record.decode())) if row]
    rows.insert(len(rows) - 1, [name, f"sha256={digest}", str(len(data))])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


if __name__ == "__main__":
    main()
