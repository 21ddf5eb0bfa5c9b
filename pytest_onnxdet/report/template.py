"""The template of report.html. A string and not a file, so that no packaging can leave it out."""

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'">
<title>pytest-onnxdet report</title>
<style>
:root { color-scheme: light dark; --text: #1c1e21; --back: #ffffff; --line: #c9ced6;
  --soft: #f3f5f8; --dim: #565d68; --passed: #0b6b2e; --failed: #b3171d; --other: #7a4f00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --back: #15181c; --line: #3b424c; --soft: #1f242a; --dim: #a5adb8;
    --passed: #6fd08c; --failed: #ff8f8f; --other: #e9bb63; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; color: var(--text);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.verdict { font-size: 1.15rem; font-weight: 600; border-left: .35rem solid; padding: .3rem .8rem; }
.dim { color: var(--dim); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap; }
thead th { background: var(--soft); } tbody th { font-weight: 500; }
.figure { text-align: right; }
.mark { display: inline-block; min-width: 1.6em; margin-right: .4em; }
.passed { color: var(--passed); }
.failed, .error, .crashed, .timeout { color: var(--failed); font-weight: 600; }
.skipped, .xfailed { color: var(--other); } .none { color: var(--dim); }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; margin: .3rem 0 1rem; }
summary { cursor: pointer; padding: .3rem 0; }
a { color: inherit; }
:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
</style>
</head>
<body>
{% macro show(cell) %}
{% for check, outcome in cell.marks %}
<span class="mark {{ 'none' if outcome == 'not run' else outcome }}" title="{{ check }}: \
{{ outcome }}"><span aria-hidden="true">{{ signs[outcome] }}</span><span class="hidden">\
{{ check }} {{ outcome }}.</span></span>
{% endfor %}
{% if not cell.marks %}<span class="{{ 'none' if cell.state == 'not run' else cell.state }}">\
{{ cell.text }}</span>{% endif %}
{% for number in cell.notes %} <a href="#note-{{ number }}">[{{ number }}]</a>{% endfor %}
{% endmacro %}
{% macro draw(table) %}
{% if table.columns %}
<div class="wide" role="region" tabindex="0" aria-label="{{ table.title }}">
<table>
<caption>{{ table.remarks | join(' ') }}</caption>
<thead><tr>
{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
{% if loop.index0 < table.keys %}
<th scope="row">{{ show(cell) }}</th>
{% else %}
<td{% if cell.figure %} class="figure"{% endif %}>{{ show(cell) }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>{{ table.remarks | join(' ') }}</p>
{% endif %}
{% endmacro %}
{% macro reasons(title, notes, each) %}
{% if notes %}
<section>
<h2>{{ title }}</h2>
{% for note in notes %}
<div id="note-{{ note.number }}">
<p>[{{ note.number }}]
{% if each %}
{% for record in note.records %}<span class="{{ record.outcome }}">{{ identified(record) }} \
{{ record.check }}{{ note.kind }}</span>\
{{ ', ' if not loop.last }}{% endfor %}
{% else %}
{{ note.subject }}
{% endif %}
</p>
<pre tabindex="0">{{ note.lines(max_lines) | join('\\n') }}</pre>
</div>
{% endfor %}
</section>
{% endif %}
{% endmacro %}
<main>
<h1>pytest-onnxdet report</h1>
<p class="verdict {{ summary.state }}">{{ summary.verdict }}</p>
{% for remark in summary.remarks %}<p>{{ remark }}</p>
{% endfor %}
<p class="dim">{{ summary.environment }}</p>
{{ reasons('Failures', summary.failures, true) }}
{% for table in summary.tables if not table.detail %}
<section><h2>{{ table.title }}</h2>
{{ draw(table) }}
</section>
{% endfor %}
{{ reasons('Known failures', summary.known, false) }}
{{ reasons('Not run', summary.skipped, false) }}
{% if by_outcome %}
<section>
<h2>Checks by outcome</h2>
{% for outcome, records in by_outcome.items() %}
<details{% if outcome in bad %} open{% endif %}>
<summary><span class="{{ outcome }}">{{ outcome }}</span> ({{ records | length }})</summary>
<ul>
{% for record in records %}<li>{{ identified(record) }} {{ record.check }}</li>
{% endfor %}
</ul>
</details>
{% endfor %}
</section>
<section>
<h2>Figures</h2>
{% for table in summary.tables if table.detail %}
<details><summary>{{ table.title }}</summary>
{{ draw(table) }}
</details>
{% endfor %}
</section>
{% endif %}
</main>
</body>
</html>
"""
