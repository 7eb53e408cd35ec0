"""Tables in pages."""

from collections.abc import Mapping, Sequence


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """Rows of a table for a page."""
    cells = [tuple(lines[0]), ("---",) * len(lines[0]), *(tuple(line.values()) for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def rewritten(page: str, tables: Mapping[str, str]) -> str:
    """A page with its tables, each between ``<!-- table NAME -->`` and ``<!-- end -->``, as these are.

    Raises:
        ValueError: the page lacks a marker, or has one for which there is no table.
    """
    for name, table in tables.items():
        before, begin, rest = page.partition(f"<!-- table {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise ValueError(f"the page lacks <!-- table {name} --> or the <!-- end --> after it")
        page = f"{before}{begin}\n{table}\n\n{end}{after}"
    if page.count("<!-- table ") != len(tables):
        raise ValueError(f"the page has markers other than those of {', '.join(tables)}")
    return page
