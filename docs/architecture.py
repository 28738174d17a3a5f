"""Draws docs/architecture.md and .svg from the code's own imports; `--check` fails where they are out of date.

    python docs/architecture.py            write both
    python docs/architecture.py --check    also fails: an import that runs up, a circle, a loose module at the root

A room is a folder of the library. A room stands one floor above the highest room that it imports.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parent / "scripts/isotone"
PAGE, PICTURE = HERE / "architecture.md", HERE / "architecture.svg"
BEGIN, END = "<!-- rooms: written by docs/architecture.py -->", "<!-- end of rooms -->"
# What every room uses; nothing else lies loose.
ROOT = {
    "__init__",
    "__main__",
    "devices",
    "environment",
    "errors",
    "gpus",
    "layout",
    "progress",
    "provenance",
    "records",
    "schema",
}
WIDTH, BOX, ROW = 860, 132, 78


def module_of(path: Path) -> str:
    """``training.loop`` for scripts/isotone/training/loop.py; a package is called as its folder."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def modules() -> dict[str, Path]:
    """Every module of the library by name."""
    return {module_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def imports(path: Path, known: Iterable[str]) -> set[str]:
    """The library's modules that a file imports, at any place in it; type checking does not count."""
    names: set[str] = set()
    known = set(known)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found = {name for name in whole if name.removeprefix("isotone.") in known}
            names |= found or {node.module}
    return {name.removeprefix("isotone.") for name in names if name.startswith("isotone.")} & known


def room_of(module: str) -> str:
    """The folder that a module lies in; empty at the root."""
    return module.split(".")[0] if (LIBRARY / module.split(".")[0]).is_dir() else ""


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, each as the way round; found by a depth-first search."""
    found: list[list[str]] = []
    state: dict[str, int] = {}

    def visit(node: str, way: list[str]) -> None:
        state[node] = 1
        for other in sorted(graph[node]):
            if state.get(other) == 1:
                found.append([*way[way.index(other) :], other])
            elif other not in state:
                visit(other, [*way, other])
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            visit(node, [node])
    return found


def floors(rooms: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest that it imports."""
    made: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in made:
            made[room] = 1 + max((floor(other) for other in rooms[room]), default=-1)
        return made[room]

    for room in rooms:
        floor(room)
    return made


def purpose(room: str) -> str:
    """The first line of a room's own docstring."""
    text = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0]


def table(rooms: dict[str, set[str]], level: dict[str, int]) -> str:
    """The rooms as Markdown, from the top floor down."""
    lines = ["| floor | room | what it is for | uses |", "|---|---|---|---|"]
    for room in sorted(rooms, key=lambda name: (-level[name], name)):
        lines.append(f"| {level[room]} | `{room}/` | {purpose(room)} | {', '.join(sorted(rooms[room])) or '-'} |")
    return "\n".join(lines)


def picture(rooms: dict[str, set[str]], level: dict[str, int]) -> str:
    """The rooms as SVG: boxes on floors, a line from each room to what it imports."""
    top = max(level.values())
    place: dict[str, tuple[float, float]] = {}
    for floor in range(top + 1):
        row = sorted(room for room in rooms if level[room] == floor)
        for index, room in enumerate(row):
            place[room] = (WIDTH * (index + 1) / (len(row) + 1), 40 + (top - floor) * ROW)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {80 + top * ROW}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{80 + top * ROW}" fill="white"/>',
    ]
    for room, others in sorted(rooms.items()):
        for other in sorted(others):
            (x, y), (u, v) = place[room], place[other]
            lines.append(
                f'<path d="M{x:.0f} {y + 15:.0f} C{x:.0f} {y + 45:.0f} {u:.0f} {v - 45:.0f} {u:.0f} {v - 15:.0f}" '
                'fill="none" stroke="#8aa" stroke-width="1"/>'
            )
    for room, (x, y) in sorted(place.items()):
        lines.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - 15:.0f}" width="{BOX}" height="30" rx="4" fill="#eef4f4" stroke="#466"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{room}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def faults(known: dict[str, Path], graph: dict[str, set[str]], rooms: dict[str, set[str]]) -> list[str]:
    """What is wrong with the structure, in sentences."""
    found = [f"modules import each other: {' -> '.join(way)}" for way in circles(graph)]
    for way in circles(rooms):
        guilty = [
            f"{name} imports {other}"
            for name in graph
            for other in graph[name]
            if (room_of(name), room_of(other)) == (way[-2], way[-1])
        ]
        found.append(f"rooms import each other: {' -> '.join(way)} ({'; '.join(sorted(guilty)[:4])})")
    loose = {name for name in known if "." not in name and not (LIBRARY / name).is_dir()}
    found += [f"scripts/isotone/{name}.py lies loose at the root; give it a room" for name in sorted(loose - ROOT)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is wrong")
    check = parser.parse_args().check
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    rooms: dict[str, set[str]] = {room: set() for name in known if (room := room_of(name))}
    for name, others in graph.items():
        if room := room_of(name):
            rooms[room] |= {room_of(other) for other in others} - {room, ""}
    if trouble := faults(known, graph, rooms):
        print("\n".join(trouble), file=sys.stderr)
        return 1
    level = floors(rooms)
    old = PAGE.read_text(encoding="utf-8")
    head, tail = old.split(BEGIN)[0], old.split(END)[1]
    page = f"{head}{BEGIN}\n{table(rooms, level)}\n{END}{tail}"
    drawn = picture(rooms, level)
    stale = page != old or not PICTURE.exists() or drawn != PICTURE.read_text(encoding="utf-8")
    if check and stale:
        print("docs/architecture.md or .svg is out of date: python docs/architecture.py", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
