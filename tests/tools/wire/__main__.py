"""Write what is generated from the structs: ``make wire``."""

from __future__ import annotations

from tests.tools.wire.files import FILES


def main() -> None:
    """Write each of the files."""
    for path, make in FILES.items():
        path.write_text(make(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
