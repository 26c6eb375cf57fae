"""The report as one self-contained HTML page: no script, no network, light and dark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from normbench.report.columns import (
    RUNS,
    SENSITIVITY_HEADERS,
    TESTS_CAPTION,
    columns,
    cost_columns,
    evidence_columns,
    norm_columns,
    result_columns,
    sensitivity_caption,
    sensitivity_cells,
)
from normbench.report.comparison_table import Table
from normbench.report.figure_style import HOVER, INK, RULE, figure_bytes
from normbench.report.page import Report
from normbench.report.palette import ON_DARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "report.html.j2"


def report_to_html(report: Report, runs_at: str | None = None, *, svgs: Mapping[str, str] | None = None) -> str:
    """Return the report as HTML; its figures are drawn into it as SVG, unless all are drawn (`svgs`, by name).

    `runs_at` is where the experiment's folder is, seen from the page, for links to its runs; None for no links.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("normbench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        report=report,
        runs_at=runs_at,
        drawing=lambda entry: Markup(
            svgs[entry.name] if svgs is not None else inline_svg(entry.figure, entry.name, entry.title)
        ),
        ink=INK.lower(),
        rule=RULE.lower(),
        on_dark={light.lower(): dark for light, dark in ON_DARK.items()},
        result_columns=lambda table: [*norm_columns(table), *result_columns(table), RUNS],
        evidence_columns=lambda table, measure: [*norm_columns(table), *evidence_columns(table, measure)],
        tests_caption=TESTS_CAPTION,
        cost_columns=lambda table: [*norm_columns(table), *cost_columns(table)],
        sensitivity_headers=SENSITIVITY_HEADERS,
        sensitivity_caption=sensitivity_caption(),
        sensitivities=[sensitivity_cells(entry) for entry in report.sensitivities],
    )


_TABLES = """
{%- for table in tables %}
<h4>{{ table.title }}</h4>
<table>
<thead><tr>{% for column in columns(table) %}<th style="text-align: {{ column.align }}">{{ column.header }}</th>\
{% endfor %}</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr>{% for column in columns(table) %}<td style="text-align: {{ column.align }}">\
{% if column.is_bold(row) %}<b>{{ column.cell(row) }}</b>{% else %}{{ column.cell(row) }}{% endif %}</td>\
{% endfor %}</tr>
{%- endfor %}
</tbody>
</table>
<p><small>{{ table.caption }} {{ table.cost_caption }}</small></p>
{%- for note in table.failures + table.notes %}
<p><small>{{ note }}</small></p>
{%- endfor %}
{%- endfor %}
"""


def tables_to_html(tables: Sequence[Table]) -> str:
    """Return comparison tables as plain HTML, for a notebook; everything that comes from a run is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_TABLES).render(tables=tables, columns=columns)


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """Return `figure` as an ``<svg>`` element whose ids start with `name`, so that several can share a page."""
    svg = figure_bytes(figure, "svg", transparent=True).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf"""<g id=(["']){HOVER}(.*?)\1>""", r'<g class="hover"><title>\2</title>', svg)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
